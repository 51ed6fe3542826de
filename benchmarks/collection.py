"""How fast exploration is recorded: transitions a second of one process, one camera, arm by arm."""

from __future__ import annotations

import dataclasses
import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _report import Report, Row

from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.collect import ArmSource

CELLS = (
    "panda:reach",
    "iiwa:reach",
    "xarm6:reach",
    "hobby5:reach",
    "panda_table:push",
    "panda_table:pick_and_place",
    "panda_table:push_around",
)
EPISODES, REPEATS = 8, 7


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few episodes.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Record and time."""
    report = Report("collection")
    for cell in CELLS[: 1 if quick else None]:
        robot, task = cell.split(":")
        contract = load_contract(robot)
        for cameras in dict.fromkeys((1, len(contract.cameras))):
            few = dataclasses.replace(contract, cameras=contract.cameras[:cameras])
            rates = measure(ArmSource(few, task), 1 if quick else EPISODES, 3 if quick else REPEATS)
            name = f"{cell}: {cameras} camera(s), one process"
            value = statistics.median(rates)
            report.add(Row(name, value, "transitions/s", "floor 250", len(rates)))
    report.write(full=not quick, json_file=json_file)


def measure(source: ArmSource, episodes: int, repeats: int) -> list[float]:
    """Transitions a second, so many times."""
    recorder = source.open()
    recorder.record(np.random.default_rng([1, 0]))
    rates = []
    for repeat in range(repeats):
        begin = time.perf_counter()
        count = sum(
            len(recorder.record(np.random.default_rng([repeat, number]))["action"]) - 1
            for number in range(episodes)
        )
        rates.append(count / (time.perf_counter() - begin))
    return rates


if __name__ == "__main__":
    typer.run(main)
