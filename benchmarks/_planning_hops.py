"""Where the time of a decision goes, hop by hop, in the actor's process and spread over three.

Two graphs in lock-step, in ROS domains of their own, run the same episodes in turns; what one of
them waits for meanwhile takes no processor time. In lock-step each observation has one chain of
messages, so the times at which DDS sent them tell what each hop took, the way there included.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.cli.evaluate import own_domain
from jepa_robot.cli.recorder import SENT
from jepa_robot.evaluation import sample_episodes
from jepa_robot.graph import Settings
from jepa_robot.models import Bundle
from jepa_robot.modules.distributed import PLACES
from jepa_robot.modules.tasks import load_task, task_text
from jepa_robot.nodes import messages, requests
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.evaluation import RosRunner
from jepa_robot.nodes.runtime import with_info
from jepa_robot.processes import ProcessGroup
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.arm import SimulatedArm

# In the order of a decision. A planner's iterations repeat the three in the middle.
ITERATION = (requests.CANDIDATES, requests.ROLLOUTS, requests.COSTS)
HOPS = {
    "perception": ("image", "state"),
    "rollouts": ITERATION[:2],
    "costs": ITERATION[1:],
    "planning in all": ("state", "action"),
    "safety": ("action", "command_echo"),
    "a decision": ("image", "command_echo"),
}
MANY = messages.QoSProfile(depth=1000, reliability=messages.ReliabilityPolicy.RELIABLE)


class Hops:
    """When each message was sent (s), by topic and by the stamp of its observation."""

    def __init__(self, client: AgentClient, contract: RobotContract) -> None:
        self._sent: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        topics = {
            contract.cameras[-1].topic: "image",
            **{name: name for name in ("state", *ITERATION, "action")},
        }
        for topic, name in topics.items():
            client.listen(Image, topic, with_info(partial(self._on, name)), MANY)
        echo = with_info(partial(self._on, "command_echo"))
        client.listen(JointTrajectory, "command_echo", echo, MANY)

    def clear(self) -> None:
        """Forget what was sent so far."""
        self._sent.clear()

    def took(self, begin: str, end: str) -> np.ndarray:
        """Seconds from one topic to another, by decision, summed over its iterations."""
        first, last = self._sent[begin], self._sent[end]
        pairs = [(first[stamp], last[stamp]) for stamp in sorted(first) if stamp in last]
        if begin in ITERATION:
            return np.array([np.sum(b) - np.sum(a) for a, b in pairs if len(a) == len(b)])
        return np.array([b[0] - a[0] for a, b in pairs])

    def _on(self, name: str, message: Image | JointTrajectory, info: dict) -> None:
        self._sent[name][messages.from_time(message.header.stamp)].append(info[SENT] / 1e9)


@contextlib.contextmanager
def running(planning: str, domain: int, cell: tuple, bundle: Bundle, judge) -> Iterator[tuple]:
    """A graph of its own: what runs episodes on it, and what listens."""
    contract, name, goal = cell
    os.environ["ROS_DOMAIN_ID"] = str(domain)
    settings = Settings(
        robot=contract.name,
        model=str(bundle.path),
        task=name,
        simulator="lockstep",
        scene=name,
        paused=True,
        planning=planning,
    )
    with tempfile.TemporaryDirectory(prefix="jepa_robot_logs_") as logs:
        group = ProcessGroup(settings, Path(logs))
        with group, AgentClient(contract, watch=group.watch) as client:
            hops = Hops(client, contract)
            task = task_text(replace(load_task(name), mode=2, goal_position=None))
            yield RosRunner(client, bundle, judge, "2", goal, task), hops


def time_hops(
    cell: tuple[RobotContract, str, str], bundle: Bundle, goals: int, seed: int
) -> dict[str, dict[str, np.ndarray]]:
    """What each hop took (s) by decision, for each of `PLACES`; episode by episode in turns.

    Args:
        cell: robot, task, and how goals are given.
        bundle: of it.
        goals: episodes.
        seed: of them.
    """
    own_domain()
    contract, name, _ = cell
    first = int(os.environ["ROS_DOMAIN_ID"])
    judge, episodes = sample_episodes(contract, name, goals + 1, seed)  # the first warms up
    took = {planning: defaultdict(list) for planning in PLACES}
    camera_man = SimulatedArm(contract, scene=judge.scene)
    with contextlib.ExitStack() as stack:
        stack.callback(camera_man.close)
        graphs = {
            planning: stack.enter_context(running(planning, first + i, cell, bundle, judge))
            for i, planning in enumerate(PLACES)
        }
        for index, episode in enumerate(episodes):
            camera_man.show_goal(episode)
            for planning, (runner, hops) in graphs.items():
                hops.clear()
                runner.run(episode, camera_man.images(), seed)
                if index:
                    for hop, ends in HOPS.items():
                        took[planning][hop].append(hops.took(*ends))
    return {
        planning: {hop: np.concatenate(parts) for hop, parts in by_hop.items()}
        for planning, by_hop in took.items()
    }
