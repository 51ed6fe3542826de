"""Listens to a running agent: what follows a goal, and how old each message was."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from rclpy.subscription import MessageInfo
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.models import Bundle
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.nodes import messages
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.messages import EVERY_ONE, SENSOR_IN
from jepa_robot.nodes.runtime import with_info
from jepa_robot.robot.contract import Camera

HOPS = ("image", "state", "action", "command_echo")
OURS = "agent"  # from image to command_echo, without what simulator or camera need to show it
SENT = "source_timestamp"  # as DDS has it: how busy we are does not count


@dataclass
class Frame:
    """One observation: the arm, its images, the hand path imagined from it, and the true block.

    ``ahead`` is the place that an upper level asks for, and then where it expects that to lead.
    """

    joints: np.ndarray
    images: dict[str, np.ndarray] = field(default_factory=dict)
    imagined: np.ndarray | None = None  # [H, 3] m
    block: np.ndarray | None = None  # [3] m
    ahead: Sequence[np.ndarray] = ()  # [P + 2, 3] m


@dataclass
class Run:
    """What followed one goal."""

    goal: np.ndarray
    times: list[float] = field(default_factory=list)  # s since the goal was in force
    distances: list[float] = field(default_factory=list)  # m, at those times
    frames: list[Frame] = field(default_factory=list)
    decisions: int = 0

    def arrival(self, distance: float) -> float | None:
        """The time (s) from which on the hand stayed within ``distance`` (m), or None."""
        away = [i for i, d in enumerate(self.distances) if d >= distance]
        first = away[-1] + 1 if away else 0
        return self.times[first] if first < len(self.times) else None


class Recorder:
    """Subscribes through a client and records runs."""

    def __init__(self, client: AgentClient, bundle: Bundle) -> None:
        self.client, self._bundle = client, bundle
        self._model = WorldModel(bundle)
        self._readout = bundle.session("readout")
        self._ages: dict[str, dict[int, float]] = defaultdict(dict)
        self._run: Run | None = None
        self._since = 0.0
        self._state: tuple[int, np.ndarray] | None = None
        self._joints: np.ndarray | None = None
        self._hand: np.ndarray | None = None
        self._plan: np.ndarray | None = None
        self.plans = 0  # that have come so far
        self._images: dict[str, np.ndarray] = {}
        for camera in client.contract.cameras:
            callback = with_info(partial(self._on_image, camera))
            client.listen(Image, camera.topic, callback, SENSOR_IN)
        for topic, callback in (
            ("state", self._on_state),
            ("action", self._on_action),
            ("plan", self._on_plan),
        ):
            client.listen(Image, topic, with_info(callback), EVERY_ONE)
        client.listen(JointTrajectory, "command_echo", with_info(self._on_echo), EVERY_ONE)
        client.listen(JointState, "joint_states", self._on_joint_states, SENSOR_IN)
        client.listen(String, "simulator/ground_truth", self._on_truth, EVERY_ONE)

    def wait_for_hand(self) -> np.ndarray:
        """The true hand position ``[3]`` (m), once the simulator has told it."""
        self.client.wait(lambda: self._hand is not None, "the simulator's images")
        return self._hand

    def record(self, goal: np.ndarray, seconds: float) -> Run:
        """Record for some seconds of real time."""
        self._run, self._since = Run(goal), time.monotonic()
        while time.monotonic() - self._since < seconds:
            self.client.spin()
        run, self._run = self._run, None
        return run

    def clear(self) -> None:
        """Forget the ages so far."""
        self._ages.clear()

    def latencies(self) -> dict[str, np.ndarray]:
        """Ages (ms) of the observation when each hop's message was sent.

        Last, how long the agent took from a camera's image to the command that answers it.
        """
        images, echoes = self._ages["image"], self._ages["command_echo"]
        took = [age - images[stamp] for stamp, age in echoes.items() if stamp in images]
        ages = {hop: list(self._ages[hop].values()) for hop in HOPS}
        return {hop: 1000 * np.array(values) for hop, values in (*ages.items(), (OURS, took))}

    def _age(self, hop: str, message: Image | JointTrajectory, info: MessageInfo) -> None:
        stamp = messages.from_time(message.header.stamp)
        if stamp:
            self._ages[hop].setdefault(stamp, (info[SENT] - stamp) / 1e9)

    def _on_image(self, camera: Camera, message: Image, info: MessageInfo) -> None:
        if camera == self.client.contract.cameras[-1]:  # nobody can begin with less than all
            self._age("image", message, info)
        self._images[camera.name] = messages.read_image(message, camera)

    def _on_joint_states(self, message: JointState) -> None:
        self._joints = messages.read_joint_state(message, self.client.contract)[0]

    def _on_state(self, message: Image, info: MessageInfo) -> None:
        self._age("state", message, info)
        stamp = messages.from_time(message.header.stamp)
        size = self._bundle.state_size
        self._state = (stamp, messages.read_tensor(message, "state", size))

    def _on_action(self, message: Image, info: MessageInfo) -> None:
        self._age("action", message, info)
        if self._run is not None:
            self._run.decisions += 1

    def _on_plan(self, message: Image, info: MessageInfo) -> None:
        self.plans += 1
        size = self._bundle.action_size
        plan = messages.read_tensor(message, "plan", size, rows=None)
        if self._state is None or self._state[0] != messages.from_time(message.header.stamp):
            return
        if not self._bundle.reads_positions:
            return  # there is nothing to draw
        states = self._model.rollout(self._state[1], plan[None])[0]
        self._plan = self._readout(latent=np.ascontiguousarray(self._bundle.latent(states)))

    def _on_echo(self, message: JointTrajectory, info: MessageInfo) -> None:
        self._age("command_echo", message, info)

    def _on_truth(self, message: String) -> None:
        self._hand = np.array(json.loads(message.data)["ee_position"])
        if self._run is None or self._joints is None:
            return
        self._run.times.append(time.monotonic() - self._since)
        self._run.distances.append(float(np.linalg.norm(self._hand - self._run.goal)))
        self._run.frames.append(Frame(self._joints, dict(self._images), self._plan))
