"""`jepa-robot distill`: what Mode-2 does in what was lived through, compiled into Mode-1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jepa_robot.learning.distill import DistillConfig, compile_policy
from jepa_robot.learning.export import write_version
from jepa_robot.learning.lived import Lived
from jepa_robot.models import Bundle
from jepa_robot.modules.memory_files import read_memory
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import load_contract


def run_distill(
    bundle_name: str,
    out: Path,
    memory: Path,
    robot: str,
    task_name: str,
    decisions: int,
    rounds: int,
    seed: int,
    progress: Callable[[int, int], None],
    warn: Callable[[str], None],
) -> dict:
    """Write a bundle whose policy does what the planner does.

    Raises:
        ValueError: names the bundle, robot, task or memory that does not fit; or the policy is
            further from the planner than before, and nothing was written.
        FileExistsError: there is such a bundle.
        FileNotFoundError: nothing was remembered there.
    """
    if out.exists():
        raise FileExistsError(f"{out}: exists, expected the name of a new bundle")
    if not memory.exists():
        raise FileNotFoundError(f"{memory}: is missing, expected what memory keeps, or has saved")
    bundle, contract = Bundle(bundle_name), load_contract(robot)
    bundle.check_fits(contract)
    found = read_memory(memory, bundle)
    for problem in found.problems:
        warn(problem)
    config = DistillConfig(decisions=decisions, rounds=rounds, seed=seed)
    task = load_task(task_name)
    agent, scores = compile_policy(bundle, contract, task, found.episodes, config, progress)
    steps = sum(len(episode["stamp"]) for episode in found.episodes)
    if not scores["disagreement"] < scores["disagreement_before"]:
        raise ValueError(
            f"policy and planner are {scores['disagreement']:.4f} apart, and were "
            f"{scores['disagreement_before']:.4f}: nothing is written; expected more steps than "
            f"{steps}, or more decisions than {decisions}"
        )
    learned = {"distilled": task.name, "steps": steps, "scores": scores}
    manifest = write_version(agent, bundle, Lived.of(found.episodes), out, learned)
    return {"bundle": manifest["id"], "steps": steps, **scores}
