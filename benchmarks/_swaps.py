"""Bundles put in force while the arm moves, in real time: is any observation left unanswered?"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from _report import Report, Row
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.graph import Settings
from jepa_robot.learning.export import write_version
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.messages import DATA, EVERY_ONE, from_time
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import load_contract

ROBOT, BUNDLE, GOAL = "panda", "reach_panda", (0.5, 0.1, 0.3)
SWAPS, QUICK_SWAPS = 20, 2
PAUSE = 2.0  # s between them
NUDGE = 1e-4  # of the policy's weights, so that the other bundle is another
LATE = 1.5  # periods after the one before, from which on a command is missed


def measure_swaps(report: Report, is_quick: bool) -> None:
    """Observations that got no action and commands that did not come, with swaps and without."""
    swaps = QUICK_SWAPS if is_quick else SWAPS
    with tempfile.TemporaryDirectory(prefix="jepa_robot_swaps_") as folder:
        other = _another(Path(folder) / "other")
        for name, bundles in (
            ("no swap", []),
            (f"{swaps} swaps", [str(other), BUNDLE] * (swaps // 2)),
        ):
            seconds = PAUSE * swaps
            unanswered, observations, missed, commands = _run(Path(folder), bundles, seconds)
            row = Row(f"{name}: observations without an action", unanswered, "", "", observations)
            report.add(row)
            report.add(Row(f"{name}: commands missed", missed, "", "", commands))


def _another(path: Path) -> Path:
    """A bundle of the same latent space, whose policy is a little different."""
    bundle = Bundle(BUNDLE)
    agent, rng = revive(bundle), np.random.default_rng(0)
    with torch.no_grad():
        for parameter in agent.policy.network.parameters():
            parameter.mul_(1 + NUDGE)
    states = rng.standard_normal((100, bundle.state_size)).astype(np.float32)
    actions = np.zeros((100, bundle.action_size), np.float32)
    write_version(agent, bundle, Lived(states, actions, np.array([100])), path, {})
    return path


def _run(folder: Path, bundles: list[str], seconds: float) -> tuple[int, int, int, int]:
    contract = load_contract(ROBOT)
    settings = Settings(robot=ROBOT, model=BUNDLE, simulator="realtime")
    group = ProcessGroup(settings, folder / f"logs_{len(bundles)}")
    seen: dict[str, list[int]] = {"state": [], "action": [], "command_echo": []}
    with group, AgentClient(contract, watch=group.watch) as client:
        for topic in ("state", "action"):
            stamps = seen[topic]
            client.listen(
                Image,
                topic,
                lambda message, stamps=stamps: stamps.append(from_time(message.header.stamp)),
                EVERY_ONE,
            )

        def take(message: JointTrajectory) -> None:
            after = from_time(message.points[0].time_from_start)
            seen["command_echo"].append(from_time(message.header.stamp) + after)

        client.listen(JointTrajectory, "command_echo", take, EVERY_ONE)
        announce = client.node.create_publisher(String, "bundle", DATA)
        client.wait_until_ready()
        client.set_goal_position(GOAL)
        client.wait(lambda: len(seen["action"]) > 20, "the arm to move")
        for stamps in seen.values():
            stamps.clear()
        for name in bundles or [""] * round(seconds / PAUSE):
            if name:
                announce.publish(String(data=name))
                wanted = Bundle(name).id
                client.wait(lambda wanted=wanted: client.status["bundle"] == wanted, "the swap")
            until = time.monotonic() + PAUSE
            client.wait(lambda until=until: time.monotonic() > until, "a moment")
    actions = set(seen["action"])
    states = [stamp for stamp in seen["state"] if min(actions) <= stamp <= max(actions)]
    unanswered = sum(stamp not in actions for stamp in states)
    period = 1e9 / contract.rates.safety
    gaps = np.diff(sorted(set(seen["command_echo"])))
    missed = int(np.round(gaps[gaps > LATE * period] / period - 1).sum())
    return unanswered, len(states), missed, len(gaps)
