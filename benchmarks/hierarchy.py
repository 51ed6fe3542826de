"""Tasks and levels: how soon a new task is acted on, and whether all take it up together.

`jepa-robot bench hierarchy` runs the agent through ROS in real time and gives it a new task again
and again, at any moment. And it compares one level with two, where a wall is in the way; what is
done of that is kept under runs/hierarchy and not done again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _levels import Levels
from _report import Report, Row
from sensor_msgs.msg import Image
from std_msgs.msg import String

from jepa_robot.graph import Settings
from jepa_robot.modules.configurator import MODULES
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.messages import DATA, EVERY_ONE, LATCHED, from_time
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import load_contract

ROBOT, BUNDLE = "panda", "reach_panda"
PLACES = ((0.5, 0.1, 0.3), (0.5, -0.1, 0.3))
TASKS, QUICK_TASKS = 200, 5
RUNS, SEEDS = Path("runs/hierarchy"), range(3)
PAUSE = (0.2, 0.4)  # s between two tasks


class Part(str, Enum):
    """What is measured."""

    preemption = "preemption"
    levels = "levels"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few tasks, few steps.")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Repeat it; all by default.")] = None,
    only_report: Annotated[
        bool, typer.Option("--report", help="Measure nothing, write what was kept.")
    ] = False,
    seed: Annotated[list[int] | None, typer.Option(help="A training seed; repeat it.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure tasks and levels."""
    report, parts = Report("hierarchy"), [] if only_report else part or list(Part)
    for mode in (1, 2) if Part.preemption in parts else ():
        measure_preemption(report, mode, QUICK_TASKS if quick else TASKS)
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    levels = Levels(folder, [0] if quick else seed or SEEDS, quick)
    if Part.levels in parts:
        levels.run()
    for row in levels.rows():
        report.add(row)
    report.write(full=not quick, json_file=json_file, merge=True)


def measure_preemption(report: Report, mode: int, count: int) -> None:
    """From a task that is sent to the first action for it, and who took it up late."""
    with tempfile.TemporaryDirectory(prefix="jepa_robot_tasks_") as folder:
        settings = Settings(robot=ROBOT, model=BUNDLE, simulator="realtime")
        group = ProcessGroup(settings, Path(folder))
        with group, AgentClient(load_contract(ROBOT), watch=group.watch) as client:
            client.wait_until_ready()
            user, rng = User(client), np.random.default_rng(0)
            taken = []
            for number in range(count + 1):
                user.rest(rng.uniform(*PAUSE))
                taken.append(user.give(number, mode))
            user.rest(1.5)  # diagnostics come once a second
            late = sum(_late(client, name) for name in MODULES)
    milliseconds = 1000 * np.array(taken[1:])  # the arm stood still before the first
    title = f"a new task in mode {mode}"
    for name, value in (
        ("median", np.median(milliseconds)),
        ("95 %", np.quantile(milliseconds, 0.95)),
        ("longest", milliseconds.max()),
    ):
        report.add(Row(f"{title}: to the first action for it, {name}", value, "ms", n=count))
    report.add(Row(f"{title}: taken up late by a node", late, "", n=count * len(MODULES)))


class User:
    """Gives tasks, and sees when they are acted on."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._activations: dict[str, int] = {}  # by task
        self._newest = 0  # stamp of the newest action
        self._publisher = client.node.create_publisher(String, "task", DATA)
        client.listen(String, "configuration", self._on_configuration, LATCHED)
        client.listen(Image, "action", self._on_action, EVERY_ONE)
        client.wait(self._publisher.get_subscription_count, "the configurator")

    def give(self, number: int, mode: int) -> float:
        """Give a task; s until an action is made for it."""
        name, place = f"task_{number}", list(PLACES[number % 2])
        task = {
            "name": name,
            "mode": mode,
            "weights": {"goal_position": 1.0, "joint_limits": 1.0},
            "planner": {"candidates": 64, "iterations": 3, "elites": 8},
            "goal": {"position": place},
        }
        begin = time.monotonic()
        self._publisher.publish(String(data=json.dumps(task)))
        self._client.wait(
            lambda: self._newest >= self._activations.get(name, np.inf), "an action for the task"
        )
        return time.monotonic() - begin

    def rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self._client.wait(lambda: time.monotonic() > until, "a moment", seconds + 30)

    def _on_configuration(self, message: String) -> None:
        configuration = json.loads(message.data)
        self._activations[configuration["task"]] = configuration["activation"]

    def _on_action(self, message: Image) -> None:
        self._newest = max(self._newest, from_time(message.header.stamp))


def _late(client: AgentClient, name: str) -> int:
    values = {value.key: value.value for value in client.diagnostics[f"/{name}"].values}
    return int(values.get("configurations_late", 0))


if __name__ == "__main__":
    typer.run(main)
