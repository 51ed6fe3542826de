"""Does the latent keep the object? What prevents collapse of all of it, or of what joints do not
tell.

`jepa-robot bench representation` records pushes, trains world models with several seeds, and lets
the doctor look at them on a recording of its own. What is done is kept under runs/representation.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _report import Report, Row

from jepa_robot.dataset import open_dataset
from jepa_robot.files import write_atomically
from jepa_robot.learning.distill import DistillConfig
from jepa_robot.learning.doctor import DoctorConfig, examine
from jepa_robot.learning.doctor_readouts import BUNDLE, LINEAR, MLP
from jepa_robot.learning.export import export
from jepa_robot.learning.imagination import ImaginationConfig
from jepa_robot.learning.pipeline import TrainConfig, train_all
from jepa_robot.learning.refinement import RefinementConfig
from jepa_robot.models import Bundle
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot_sim.collect import ArmSource, collect
from jepa_robot_sim.episodes import OBJECT

RUNS = Path("runs/representation")
SEEN = ("embedding", "residual")
SEEDS = range(3)
TRANSITIONS, EXAMINED = 30_000, 5000
EXAMINED_SEED = 9000
STEPS = (4, 8)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One seed, few steps.")] = False,
    seed: Annotated[list[int] | None, typer.Option(help="A training seed; repeat it.")] = None,
    robot: Annotated[str, typer.Option(help="Robot contract.")] = "panda_table",
    task: Annotated[str, typer.Option(help="A scene with an object.")] = "push",
    iterations: Annotated[int, typer.Option(help="Training steps.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Train and examine."""
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    seeds = [0] if quick else seed or SEEDS
    contract = load_contract(robot)
    source = ArmSource(contract, task)
    sizes = (1000, 500) if quick else (TRANSITIONS, EXAMINED)
    files = [folder / f"{robot}_{task}.h5", folder / f"{robot}_{task}_examined.h5"]
    folder.mkdir(parents=True, exist_ok=True)
    for path, transitions, data_seed in zip(files, sizes, (0, EXAMINED_SEED), strict=True):
        if not path.exists():
            collect(source, path, transitions, data_seed, processes=2)
    report = Report("representation")
    for sees in SEEN:
        found = []
        for number in seeds:
            name = f"{robot}_{task}_{sees}_{iterations}_{number}"
            kept = folder / f"{name}.json"
            if not kept.exists():
                steps = 50 if quick else iterations
                figures = measure(contract, files, name, settings(sees, number, steps))
                write_atomically(kept, json.dumps(figures) + "\n")
            found.append(json.loads(kept.read_text()))
        for title in found[0]:
            values = [figures[title] for figures in found]
            unit = "" if title == "effective rank" else "cm"
            low, high = min(values), max(values)
            about = f"prevention sees the {sees}"
            report.add(Row(f"{about}: {title}", float(np.median(values)), unit, "", len(values)))
            if len(values) > 1:
                report.add(Row(f"{about}: {title}, worst seed", high if unit else low, unit))
    report.write(full=not quick, json_file=json_file)


def settings(sees: str, seed: int, iterations: int) -> TrainConfig:
    """Of a training with hardly any policy, and a predictor that is not refined."""
    config = TrainConfig(seed=seed)
    steps = iterations or config.jepa.iterations
    jepa = dataclasses.replace(config.jepa, prevention_sees=sees, iterations=steps)
    return dataclasses.replace(
        config,
        jepa=jepa,
        distill=DistillConfig(decisions=10, rounds=1, iterations=1),
        refinement=RefinementConfig(iterations=0),
        imagination=ImaginationConfig(iterations=1, batch=8),
    )


def measure(
    contract: RobotContract, files: list[Path], name: str, config: TrainConfig
) -> dict[str, float]:
    """What the doctor finds of the object, in cm, by title."""
    print(f"training {name}", flush=True)
    with tempfile.TemporaryDirectory(dir=files[0].parent) as temporary:
        run, bundle = Path(temporary) / "run", Path(temporary) / "bundle"
        train_all(files[0], run, contract, config)
        export(run, bundle, "examined", "jepa-robot bench representation", contract)
        found = examine(Bundle(bundle), open_dataset(files[1]), DoctorConfig(supervised=0))
    readings = [reading for reading in found.readings if reading.label == OBJECT]
    own = next(reading for reading in readings if reading.method == BUNDLE)
    probes = [r.error for r in readings if r.method in (LINEAR, MLP) and r.share == 1]
    moved = next(one for one in found.imagined if one.label == OBJECT)
    figures = {
        f"block read with {config.labels} labels": 100 * own.error,
        "block read by the best probe": 100 * min(probes),
    }
    for step in STEPS:
        figures[f"moving block, {step} steps on"] = 100 * float(moved.error[step - 1])
        figures[f"moving block, {step} steps on, if it stayed"] = 100 * float(moved.still[step - 1])
    return {**figures, "effective rank": found.latents.effective_rank}


if __name__ == "__main__":
    typer.run(main)
