"""Moves an arm without an agent, through the safety stage: first motions, and wandering about."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.nodes import messages
from jepa_robot.nodes.client import AgentClient
from jepa_robot.nodes.messages import COMMAND, DATA, LATCHED, SENSOR_IN
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.safety import FOLLOWING, JOINT_STATES_STALE, NO_JOINT_STATES

Motion = Callable[[np.ndarray], np.ndarray]
FRAME = "jog"  # the frame_id of our actions
OURS = "agent_client"  # a node that may publish actions, and does so when it is told to
LISTEN = 2.5  # s in which whoever is there is discovered and heard
SETTLE = 0.3  # s from the last command to the joints at rest
REST_TIMEOUT = 5.0  # s


@dataclass(frozen=True)
class Jogged:
    """What came of it: joint positions ``[J]`` (rad), and the gripper's (m) before and after.

    ``said`` are the safety stage's messages in order, ``following`` among them if the arm followed;
    ``limited`` what it limited meanwhile. ``is_stopped``: it has latched a stop.
    """

    before: np.ndarray
    after: np.ndarray
    gripper: tuple[float | None, float | None]
    said: tuple[str, ...]
    limited: tuple[str, ...]
    is_interrupted: bool
    is_stopped: bool


def jog_action(contract: RobotContract, channel: str, speed: float) -> np.ndarray:
    """The normalised action ``[1, A]`` that moves one channel at ``speed``, in its unit.

    Raises:
        ValueError: unknown channel, or a speed that is zero or above the channel's scale.
    """
    channels = contract.actions.channels
    names = [known.name for known in channels]
    if channel not in names:
        raise ValueError(f"channel is {channel!r}, expected one of {', '.join(names)}")
    index = names.index(channel)
    unit, scale = channels[index].unit, channels[index].scale
    if not 0 < abs(speed) <= scale:
        raise ValueError(
            f"speed is {speed:g} {unit}, expected at most {scale:g} {unit} either way, "
            f"the scale of {channel}, and not 0"
        )
    action = np.zeros((1, len(channels)), np.float32)
    action[0, index] = speed / scale
    return action


class Jogger:
    """Jogs the robot that a client talks to."""

    def __init__(self, client: AgentClient) -> None:
        self._client = client
        self._joints: np.ndarray | None = None
        self._gripper: float | None = None
        self._heard: set[str] = set()  # topics on which somebody acts
        self._speeds = np.zeros(0)  # of the last command
        self._said: list[str] = []
        self._limited: list[str] = []
        self._hold = client.node.create_publisher(DiagnosticArray, "hold", DATA)
        client.listen(JointState, "joint_states", self._on_joints, SENSOR_IN)
        client.listen(JointTrajectory, "command_echo", self._on_echo, DATA)
        client.listen(DiagnosticStatus, "safety_state", self._on_safety, LATCHED)
        for topic in ("action", "plan"):
            client.listen(Image, topic, partial(self._on_action, topic), COMMAND)

    def run(self, motion: Motion, seconds: float) -> Jogged:
        """Publish actions at the image rate, then have the arm hold. Ctrl-C ends it.

        Args:
            motion: the action ``[1, A]`` from measured joints ``[J]`` (rad), once a time step.
            seconds: for how long.

        Raises:
            AgentTimeout: no joint states or no safety stage.
            ValueError: the safety stage is stopped, somebody else acts, or the arm never followed.
        """
        client = self._client
        client.wait(lambda: self._joints is not None, "joint_states of all joints", 10.0)
        client.wait(self._has_safety, "a safety stage that takes in joint_states", 10.0)
        self._spin(LISTEN)
        self._refuse_company()
        if client.safety_state.level == DiagnosticStatus.ERROR:
            raise ValueError(
                f"the safety stage is stopped ({client.safety_state.message}), expected it to be "
                "released with safety/release, once that is safe"
            )
        before, opening = self._joints, self._gripper
        self._said.clear()
        self._limited.clear()
        is_interrupted = self._act(motion, seconds)
        client.wait(lambda: not self._speeds.any(), "the arm to be commanded to rest", REST_TIMEOUT)
        self._spin(SETTLE)
        said = tuple(dict.fromkeys(self._said))
        is_stopped = client.safety_state.level == DiagnosticStatus.ERROR
        if FOLLOWING not in said and not is_interrupted and not is_stopped:
            raise ValueError(
                f"the arm did not follow, the safety stage said: {'; '.join(said) or 'nothing'} "
                f"({client.complaints()})"
            )
        return Jogged(
            before,
            self._joints,
            (opening, self._gripper),
            said,
            tuple(dict.fromkeys(self._limited)),
            is_interrupted,
            is_stopped,
        )

    def _has_safety(self) -> bool:
        state = self._client.safety_state
        return state is not None and state.message not in (NO_JOINT_STATES, JOINT_STATES_STALE)

    def _act(self, motion: Motion, seconds: float) -> bool:
        """Publish until the time is over, the arm is stopped or Ctrl-C, which is told by True."""
        client, period = self._client, self._client.contract.rates.time_step
        begin = due = time.monotonic()
        try:
            while due < begin + seconds:
                client.act(motion(self._joints), self._now(), FRAME)
                due += period
                self._spin(due - time.monotonic())
                self._refuse_company()  # who was not discovered before
                if client.safety_state.level == DiagnosticStatus.ERROR:
                    break
        except KeyboardInterrupt:
            return True
        finally:
            self._ask_to_hold()
        return False

    def _ask_to_hold(self) -> None:
        """Nothing that was sent so far is followed any more: no need to wait for a watchdog."""
        message = DiagnosticArray()
        message.header.stamp = messages.to_time(self._now())
        message.status = [DiagnosticStatus(name=FRAME, message="the jog is over")]
        self._hold.publish(message)

    def _refuse_company(self) -> None:
        """Two who act would be told apart by nobody but the safety stage, which then holds."""
        node, others = self._client.node, set()
        for topic in ("action", "plan"):
            name = node.resolve_topic_name(topic)
            nodes = {about.node_name for about in node.get_publishers_info_by_topic(name)} - {OURS}
            others |= {f"{other} publishes {topic}" for other in nodes}
        others |= {f"somebody publishes {topic}" for topic in self._heard if not others}
        if others:
            raise ValueError(
                f"{', '.join(sorted(others))}: expected nobody else to act, as with "
                "`jepa-robot up --bundle ''`"
            )

    def _now(self) -> int:
        return self._client.node.get_clock().now().nanoseconds

    def _spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self._client.spin(min(left, 0.02))

    # What comes.

    def _on_joints(self, message: JointState) -> None:
        contract = self._client.contract
        try:
            self._joints, _ = messages.read_joint_state(message, contract)
        except messages.InvalidMessage:
            return  # the safety stage says so
        self._gripper = messages.read_gripper(message, contract)

    def _on_action(self, topic: str, message: Image) -> None:
        if message.header.frame_id != FRAME:
            self._heard.add(topic)

    def _on_echo(self, message: JointTrajectory) -> None:
        self._speeds = np.array(message.points[0].velocities[: len(self._client.contract.joints)])

    def _on_safety(self, message: DiagnosticStatus) -> None:
        self._said.append(message.message)
        values = {pair.key: pair.value for pair in message.values}
        self._limited += filter(None, values.get("limited", "").split(","))
