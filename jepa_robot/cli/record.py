"""`jepa-robot record`: a ROS 2 bag of a running robot and its agent."""

from __future__ import annotations

import os
import time
from pathlib import Path

import typer

from jepa_robot import graph
from jepa_robot.robot.contract import load_contract

WAIT = 0.1  # s between two looks at whether it is over


def run_record(path: Path, robot: str, namespace: str, seconds: float) -> None:
    """Record for so many seconds, or until Ctrl-C, and say what came.

    Raises:
        FileExistsError: there is something there.
        ValueError: nothing came, or the package rosbags is not installed.
    """
    os.environ.update(graph.environment())
    try:
        from jepa_robot.nodes.bag_recorder import BagRecorder
    except ImportError as error:
        raise ValueError(
            f"bags are written by the package rosbags ({error}), expected it installed: "
            "pip install 'jepa_robot[import]'"
        ) from error
    import rclpy

    from jepa_robot.nodes.runtime import ros

    contract = load_contract(robot)
    with ros() as executor:
        recorder = BagRecorder(path, contract, namespace)
        executor.add_node(recorder)
        typer.echo(f"recording into {path}, until Ctrl-C")
        until = time.monotonic() + (seconds or float("inf"))
        try:
            while rclpy.ok() and time.monotonic() < until:
                executor.spin_once(timeout_sec=WAIT)
        finally:
            recorder.close()
    for topic, count in recorder.counts.items():
        typer.echo(f"{count:8} {topic}")
    if not any(recorder.counts.values()):
        raise ValueError(f"{path}: nothing came, expected a running robot")
