"""Gymnasium environments that others wrote: recorded, learned and judged with default settings.

`jepa-robot bench environments` takes what is installed of panda-gym and gymnasium-robotics (`pip
install panda-gym gymnasium-robotics 'mujoco<3.4'`; without a screen, `MUJOCO_GL=osmesa`). What is
done is kept under runs/environments and not done again.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from _report import Report
from _seeds import Results

from jepa_robot import resources
from jepa_robot.learning.export import export
from jepa_robot.learning.pipeline import TrainConfig, train_all
from jepa_robot.models import Bundle
from jepa_robot_sim.collect import collect
from jepa_robot_sim.gym_world import GymSource, GymWorld, evaluate_environment

RUNS = Path("runs/environments")
COMMAND = "jepa-robot bench environments"
SETTINGS = resources.find("config/training", "pictures", ".yaml")  # the default without joints
SEEDS = 3
GOALS = 100
TEST_SEED = 5000  # of the episodes
POLICIES = {"mode 2": "2", "mode 1": "1"}
BASELINES = ("random", "hold")
FIGURES = {"any_time": ("success at any time", "%"), "minutes": ("training", "min")}


@dataclass(frozen=True)
class Environment:
    """Its id, what to import, and how large its pictures are to be."""

    name: str
    module: str
    options: dict = field(default_factory=dict)


ENVIRONMENTS = (
    Environment("PandaReach-v3", "panda_gym", {"render_width": 64, "render_height": 64}),
    Environment("FetchReach-v4", "gymnasium_robotics", {"width": 64, "height": 64}),
    Environment(
        "PointMaze_Open-v3",
        "gymnasium_robotics",
        {"width": 64, "height": 64, "max_episode_steps": 100},
    ),
)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One, few steps.")] = False,
    env: Annotated[list[str] | None, typer.Option(help="An id; repeat it.")] = None,
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = SEEDS,
    transitions: Annotated[int, typer.Option(help="Recorded.")] = 20_000,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Record, train and judge."""
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    chosen = [one for one in ENVIRONMENTS if not env or one.name in env][: 1 if quick else None]
    results = Results(folder)
    for environment in chosen:
        few = ["jepa.iterations=50", "distill.decisions=10"] if quick else []
        size = (1, 3, 500) if quick else (seeds, GOALS, transitions)
        run(environment, results, folder / environment.name, few, *size)
    report = Report("environments")
    for row in results.rows(FIGURES):
        report.add(row)
    report.write(full=not quick, json_file=json_file, merge=True)


def run(
    environment: Environment,
    results: Results,
    folder: Path,
    settings: list[str],
    seeds: int,
    goals: int,
    transitions: int,
) -> None:
    """Fill in what is missing of one environment."""
    from jepa_robot.learning.configuration import configure

    folder.mkdir(parents=True, exist_ok=True)
    parts = (environment.name, environment.module, environment.options)
    data = folder / "data.h5"
    if not data.exists():
        begin = time.monotonic()
        count = collect(GymSource(*parts), data, transitions, processes=2, command=COMMAND)
        print(f"{data}: {count / (time.monotonic() - begin):.0f} transitions/s", flush=True)
    world = GymWorld(*parts)
    for seed in range(seeds):
        bundle = folder / f"bundle_{seed}"
        if not bundle.exists():
            config = configure(TrainConfig, SETTINGS, [f"seed={seed}", *settings])
            train_all(data, folder / f"run_{seed}", None, config)
            export(folder / f"run_{seed}", bundle, bundle.name, COMMAND)
        model = Bundle(bundle)
        minutes = sum(model.manifest["results"]["seconds"].values()) / 60
        policies = {**POLICIES, **({name: name for name in BASELINES} if seed == 0 else {})}
        for policy, mode in policies.items():
            if results.has(environment.name, policy, seed):
                continue
            result = evaluate_environment(world, model, mode, goals, TEST_SEED)
            more = {"minutes": minutes} if mode in "12" else {}
            any_time = 100 * result["any_time_rate"]
            results.put(
                environment.name, policy, seed, result["successes"], any_time=any_time, **more
            )
    world.close()


if __name__ == "__main__":
    typer.run(main)
