"""Evaluation through the ROS graph: real nodes in their processes, the simulator in lock-step."""

from __future__ import annotations

import json

import numpy as np
from rclpy.subscription import MessageInfo
from sensor_msgs.msg import Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.evaluation import BASELINES, BaselinePolicy, EpisodeResult, judge_episode
from jepa_robot.models import Bundle
from jepa_robot.nodes import messages
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.runtime import with_info
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.tasks import Task as Judge

EPISODE_TIMEOUT = 120.0  # s


class RosRunner:
    """Runs episodes on a graph whose simulator is in lock-step and paused.

    Args:
        client: talks to that graph.
        bundle: the one the graph runs.
        judge: the task.
        mode: ``1``, ``2``, or a baseline, which then acts in the actor's place.
        goal: ``image`` or ``position``.
        task: YAML of the task, without a goal.

    Attributes:
        ahead: of the last episode, frame by frame, what an upper level was then after: the place
            that it asked for, and where it expected that to lead ``[P + 2, 3]`` (m), if anything.
    """

    def __init__(
        self,
        client: AgentClient,
        bundle: Bundle,
        judge: Judge,
        mode: str,
        goal: str,
        task: str,
    ) -> None:
        self._client, self._bundle, self.judge = client, bundle, judge
        self._contract: RobotContract = client.contract
        self._mode, self._goal = mode, goal
        self._actions: dict[int, np.ndarray] = {}
        self._answered: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self._labels: dict[int, dict[str, np.ndarray]] = {}
        self._baseline: BaselinePolicy | None = None
        self.ahead: list[list[list[float]]] = []
        many = messages.EVERY_ONE
        client.listen(Image, "action", self._on_action, many)
        client.listen(JointTrajectory, "command_echo", with_info(self._on_echo), many)
        client.listen(String, "simulator/ground_truth", with_info(self._on_truth), many)
        client.wait_until_ready()
        client.set_task(task)
        self._count = 0

    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        client = self._client
        self._count += 1
        scene = episode.to_dict()
        client.place_arm(episode.start, f"place {self._count}", scene)
        if self._mode in BASELINES:
            self._baseline = BaselinePolicy(self._mode, self._contract, self.judge, episode, seed)
        elif self._goal == "image":
            client.set_goal_image(goal_images)
        else:
            client.set_goal_position(episode.goal)
        for kept in (self._actions, self._answered, self._seen, self._labels):
            kept.clear()
        self.ahead = []
        name = f"episode {self._count}"
        client.start_episode(name, None, self.judge.steps, scene)
        client.wait(lambda: client.result.get("id") == name, name, EPISODE_TIMEOUT)
        client.wait(lambda: len(self._actions) >= self.judge.steps, "the episode's actions")
        stamps = sorted(self._actions)[: self.judge.steps]
        times = [self._answered[s] - self._seen[s] for s in stamps if s in self._answered]
        actions = [self._actions[stamp] for stamp in stamps]
        labels = [self._labels[stamp] for stamp in sorted(self._labels) if stamp > stamps[0]]
        labels.append(_labels(client.result))
        return judge_episode(self.judge, labels, episode, actions, times)

    def _on_action(self, message: Image) -> None:
        size = self._bundle.action_size
        stamp = messages.from_time(message.header.stamp)
        self._actions[stamp] = messages.read_tensor(message, "action", size)[0]

    def _on_echo(self, message: JointTrajectory, info: MessageInfo) -> None:
        stamp = messages.from_time(message.header.stamp)
        self._answered.setdefault(stamp, info["source_timestamp"] / 1e9)

    def _on_truth(self, message: String, info: MessageInfo) -> None:
        truth = json.loads(message.data)
        stamp = truth["stamp"]
        self._seen.setdefault(stamp, info["source_timestamp"] / 1e9)
        self._labels[stamp] = labels = _labels(truth)
        self.ahead.append(self._client.progress.get("ahead", []))
        if self._baseline is None:
            return
        if stamp not in self._actions:
            self._actions[stamp] = self._baseline.act(labels)[0]
        self._client.act(self._actions[stamp][None], stamp, self._bundle.id)


def _labels(message: dict) -> dict[str, np.ndarray]:
    return {name: np.array(value) for name, value in message["labels"].items()}
