"""`jepa-robot replay`: an agent on what was recorded, while nothing moves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jepa_robot.cli.progress import progress
from jepa_robot.dataset import Dataset, open_dataset
from jepa_robot.files import write_atomically
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task
from jepa_robot.replaying import Replayed, replay
from jepa_robot.robot.contract import RobotContract, load_contract


def run_replay(
    bundle: str,
    recorded: Sequence[Path],
    robot: str,
    task: str,
    mode: int,
    json_file: Path | None,
    warn: Callable[[str], None],
) -> Replayed:
    """Replay, and print what came of it.

    Args:
        bundle: the agent.
        recorded: one recording (``.h5``), or bags.
        robot: that was recorded.
        task: whose settings act.
        mode: in place of the task's; 0 for that.
        json_file: where the result goes, too.
        warn: told what of the recording was left out.
    """
    model, contract, meant = Bundle(bundle), load_contract(robot), load_task(task)
    meant = replace(meant, mode=mode or meant.mode)
    with tempfile.TemporaryDirectory(prefix="jepa_robot_replay_") as folder:
        data = _open(recorded, contract, model, Path(folder), warn)
        with progress("replaying") as report:
            replayed = replay(model, contract, data, meant, report)
    _show(replayed)
    if json_file is not None:
        write_atomically(json_file, json.dumps(replayed.to_dict(), indent=2) + "\n")
    return replayed


def _open(
    recorded: Sequence[Path],
    contract: RobotContract,
    bundle: Bundle,
    folder: Path,
    warn: Callable[[str], None],
) -> Dataset:
    if len(recorded) == 1 and recorded[0].suffix == ".h5":
        data = open_dataset(recorded[0], contract.interface())
        if data.problems:
            warn(data.report())
        return data
    from jepa_robot.importing import BagSettings, import_bags

    size = tuple(bundle.manifest["image_size"])
    done = import_bags(recorded, folder / "bags.h5", contract, settings=BagSettings(size=size))
    for problem in done.problems:
        warn(problem)
    return open_dataset(folder / "bags.h5", contract.interface())


def _show(replayed: Replayed) -> None:
    console = Console()
    console.print(
        f"{replayed.bundle} on {replayed.frames} frames of {replayed.episodes} episodes; each "
        f"one's end is its goal ({replayed.goals_refused} out of reach)"
    )
    table = Table("steps ahead", "latent error, of no change's", "place, cm", title="foreseen")
    for one in replayed.foreseen:
        table.add_row(str(one.steps), f"{one.ratio:.3f}", f"{100 * one.place:.2f}")
    console.print(table)
    table = Table(
        "channel", "correlation", "mean difference", title=f"actions, mode {replayed.mode}"
    )
    for one in replayed.agreed:
        table.add_row(one.channel, f"{one.correlation:.2f}", f"{one.difference:.2f}")
    console.print(table)
    median, high = replayed.surprise
    console.print(
        f"surprise {median:.3g} (95 %: {high:.3g}); a decision takes {replayed.decision_ms:.2f} ms"
    )
