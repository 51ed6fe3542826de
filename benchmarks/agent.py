"""The whole system: success through the ROS graph, replanning, latency hop by hop, memory.

`jepa-robot bench agent` measures the shipped bundle; `--from-nothing` times collect, train and
export instead, and judges the bundle that they made.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _report import Report, Row

from jepa_robot.cli.evaluate import own_domain, run_evaluation
from jepa_robot.cli.recorder import OURS, Recorder
from jepa_robot.evaluation import InProcessRunner, sample_episodes
from jepa_robot.graph import Settings
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import Task, load_task, task_text
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.safety import KEPT_TIMES
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import RobotContract, load_contract

ROBOT = "panda"
POLICIES = (
    ("2", "image"),
    ("1", "image"),
    ("2", "position"),
    ("1", "position"),
    ("random", "image"),
    ("hold", "image"),
    ("oracle", "image"),
)
GOAL = (0.5, 0.15, 0.3)
LAST = 19  # niceness
DEADLINE = 0.02  # s


class Part(str, Enum):
    """What is measured of a bundle."""

    replanning = "replanning"
    deadline = "deadline"
    latency = "latency"
    success = "success"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few goals, short runs.")] = False,
    seed: int = 1000,
    bundle: str = "reach_panda",
    part: Annotated[list[Part] | None, typer.Option(help="Repeat it; all by default.")] = None,
    from_nothing: Annotated[bool, typer.Option("--from-nothing")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure the agent."""
    own_domain()
    report = Report("agent_from_nothing" if from_nothing else "agent")
    goals = 5 if quick else 100
    if from_nothing:
        with tempfile.TemporaryDirectory(prefix="jepa_robot_bench_") as folder:
            success(report, make_bundle(report, Path(folder)), goals, seed, POLICIES[:2])
    else:
        parts = part or list(Part)
        if Part.replanning in parts:
            replanning(report, bundle, 3.0 if quick else 15.0)
        if Part.deadline in parts:
            deadline(report, bundle, 3.0 if quick else 60.0)
        if Part.latency in parts:
            latency(report, bundle, 3.0 if quick else 20.0)
        if Part.success in parts:
            success(report, bundle, goals, seed, POLICIES)
    report.write(full=not quick, json_file=json_file, merge=not from_nothing)


def make_bundle(report: Report, folder: Path) -> str:
    """Collect, train and export with the defaults; the time that each takes."""
    data, run, bundle = (str(folder / name) for name in ("data.h5", "run", "reach_panda"))
    total = 0.0
    for command in (["collect", data], ["train", data, run], ["export", run, bundle]):
        begin = time.monotonic()
        subprocess.run([sys.executable, "-m", "jepa_robot.cli.main", *command], check=True)
        seconds = time.monotonic() - begin
        total += seconds
        report.add(Row(f"from nothing: {command[0]}", seconds / 60, "min"))
    report.add(Row("from nothing: to a bundle", total / 60, "min"))
    return bundle


def success(report: Report, bundle: str, goals: int, seed: int, policies: tuple) -> None:
    """Success of both modes and the baselines on the same unseen goals, through ROS."""
    for mode, goal in policies:
        result = run_evaluation(
            ROBOT, bundle, "reach", mode, goal, goals, seed, True, "processes", lambda *_: None
        )
        name = f"mode {mode}, goal {goal}" if mode in "12" else f"baseline {mode}"
        rate = 100 * result["success_rate"]
        low, high = 100 * result["low"], 100 * result["high"]
        report.add(Row(f"reach within 3 cm: {name}", rate, "%", "", goals, low, high))
        distance = 100 * result["median_distance"]
        report.add(Row(f"final distance, median: {name}", distance, "cm", "", goals))


def replanning(report: Report, bundle: str, seconds: float) -> None:
    """Plans a second while the whole system runs in real time, against the planner alone."""
    contract = load_contract(ROBOT)
    task = load_task("reach")
    judge, episodes = sample_episodes(contract, "reach", 2 if seconds < 5 else 10, 0)
    runner = InProcessRunner(contract, Bundle(bundle), task, judge, "2", "position")
    results = [runner.run(episode, [], 0) for episode in episodes]
    runner.close()
    times = [t for result in results for t in result.decision_times]
    alone = 1 / np.median(times)
    report.add(Row("replanning: planner alone, in process", alone, "Hz", "", len(times)))
    with running(contract, bundle, replace(task, replan="continuous")) as (recorder, _):
        recorder.clear()
        plans = recorder.plans
        begin = time.monotonic()
        record(recorder, seconds)
        rate = (recorder.plans - plans) / (time.monotonic() - begin)
    planner = task.planner
    name = "x".join(str(planner[key]) for key in ("candidates", "horizon", "iterations"))
    report.add(
        Row(f"replanning: {name}, whole system running", rate, "Hz", f"{alone:.0f} Hz alone", 1)
    )


def deadline(report: Report, bundle: str, seconds: float) -> None:
    """Plans that were there in time, and their iterations, while the whole system runs."""
    contract = load_contract(ROBOT)
    shipped = load_task("reach")
    planner = {**shipped.planner, "candidates": 32, "elites": 4, "iterations": 100}
    task = replace(shipped, planner=planner, deadline=DEADLINE, replan="continuous")
    with running(contract, bundle, task) as (recorder, _):
        record(recorder, 2.0)  # until it is known how long an iteration takes
        counted, iterations = ("plans", "plans_late"), []
        before = [diagnostic(recorder, "/actor", name) for name in counted]
        for _ in range(round(seconds)):
            record(recorder, 1.0)
            iterations.append(diagnostic(recorder, "/actor", "iterations"))
        after = [diagnostic(recorder, "/actor", name) for name in counted]
    plans, late = np.subtract(after, before)
    name = f"deadline of {1000 * DEADLINE:.0f} ms, whole system running"
    report.add(Row(f"{name}: plans in time", 100 * (1 - late / plans), "%", "", int(plans)))
    report.add(
        Row(f"{name}: iterations, median", float(np.median(iterations)), "", "", len(iterations))
    )


def latency(report: Report, bundle: str, seconds: float) -> None:
    """Ages of the observation at each hop, and memory, in both modes, in real time."""
    contract = load_contract(ROBOT)
    for mode in (1, 2):
        task = replace(load_task("reach"), mode=mode)
        with running(contract, bundle, task) as (recorder, group):
            recorder.clear()
            record(recorder, seconds)
            for hop, ages in recorder.latencies().items():
                for name, value in (
                    ("median", np.median(ages)),
                    ("p99", np.percentile(ages, 99)),
                ):
                    what = "image to command_echo" if hop == OURS else f"age at {hop}"
                    text = f"{what}, {name}: mode {mode}"
                    report.add(Row(text, float(value), "ms", "", len(ages)))
            for name, text in (
                ("compute_ms_p50", "an output, median"),
                ("compute_ms_p99", "an output, p99"),
                ("jitter_ms_p50", "jitter of its period, median"),
                ("jitter_ms_p99", "jitter of its period, p99"),
            ):
                value = diagnostic(recorder, "/safety", name)
                report.add(Row(f"safety stage: {text}: mode {mode}", value, "ms", "", KEPT_TIMES))
            memory = sum(
                proportional_set_size(process.pid)
                for name, process in group.processes.items()
                if name != "simulator"
            )
            report.add(Row(f"memory, sum of PSS: mode {mode}", memory, "MB", "", 1))


def record(recorder: Recorder, seconds: float) -> None:
    """Record in a thread (on Linux) that gives way to all that it measures."""

    def beside() -> None:
        os.nice(LAST)
        recorder.record(np.array(GOAL), seconds)

    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()


@contextmanager
def running(contract: RobotContract, bundle: str, task: Task) -> Iterator[tuple]:
    """A graph in real time, under a task with a goal: its recorder and its processes."""
    settings = Settings(robot=ROBOT, model=bundle, simulator="realtime")
    with tempfile.TemporaryDirectory(prefix="jepa_robot_logs_") as logs:
        group = ProcessGroup(settings, Path(logs))
        with group, AgentClient(contract, watch=group.watch) as client:
            recorder = Recorder(client, Bundle(bundle))
            client.wait_until_ready()
            client.set_task(task_text(task))
            client.set_goal_position(GOAL)
            yield recorder, group


def diagnostic(recorder: Recorder, node: str, name: str) -> float:
    """A value that a node measured of itself."""
    values = recorder.client.diagnostics[node].values
    return next(float(pair.value) for pair in values if pair.key == name)


def proportional_set_size(pid: int) -> float:
    """MB of memory that are a process's own or its share of what it shares."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    typer.run(main)
