"""A robot that is none: it behaves like an arm under ros2_control, and can be made to fail.

Joints are servos with a bandwidth of their own, integrated at 1 kHz; commands take effect after a
latency with jitter; what is measured is noisy; the cameras see the arm (PyBullet draws it) where it
truly is, off by the calibration error. It records what it is told and where it is: ``~/begin``
starts a recording, ``~/end`` writes it to the parameter ``file``. ``~/fault`` takes faults as JSON
(``fake_faults.py``).
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
from rclpy.node import Node
from rclpy.subscription import MessageInfo
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.nodes import messages
from jepa_robot.nodes.adapters import adapter
from jepa_robot.nodes.adapters.base import JointCommand
from jepa_robot.nodes.messages import COMMAND, DATA, LATCHED, SENSOR_OUT
from jepa_robot.nodes.runtime import STEADY, Diagnostics, ros, spin, with_info
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.fake_faults import Faults
from jepa_robot_sim.recording import Recorder

STEP = 0.001  # s of the dynamics
MOST_BEHIND = 0.2  # s that the dynamics catch up on
COMMANDS = messages.EVERY_ONE  # deep, so that no command goes unjudged
CLOCK_PERIOD = 0.004  # s


class Servos:
    """Joints that follow commanded positions or velocities: critically damped, 1 kHz."""

    def __init__(self, positions: np.ndarray, bandwidth: float, timeout: float) -> None:
        self.positions, self.velocities = positions.copy(), np.zeros_like(positions)
        self._target, self._speed = positions.copy(), None
        self._bandwidth, self._timeout = bandwidth, timeout
        self._told_at = -np.inf

    def tell(self, command: JointCommand, now: float) -> None:
        """A command takes effect at ``now`` (s)."""
        self._told_at = now
        self._speed = command.velocities
        if command.positions is not None:
            self._target = command.positions

    def step(self, now: float) -> None:
        if self._speed is not None:
            is_alive = now - self._told_at <= self._timeout
            self._target = self._target + STEP * (self._speed if is_alive else 0.0)
        pull = self._bandwidth**2 * (self._target - self.positions)
        self.velocities = self.velocities + STEP * (pull - 2 * self._bandwidth * self.velocities)
        self.positions = self.positions + STEP * self.velocities


class FakeRobotNode(Node):
    """The robot's side of the contract's topics, with faults on demand."""

    def __init__(self) -> None:
        super().__init__("fake_robot")
        for name, default in (
            ("robot", "panda"),
            ("seed", 0),
            ("bandwidth", 60.0),  # rad/s of the servos
            ("latency", 0.002),  # s until a command takes effect
            ("jitter", 0.001),  # s, uniform, on top
            ("noise", 2e-4),  # rad of the measured joints
            ("calibration_error", 0.0),  # rad that the cameras see the joints off
            ("publishes_clock", False),
            ("relayed_topics", [""]),  # X from X to X_relayed, through the faults
            ("file", "recording.npz"),
        ):
            self.declare_parameter(name, default)
        self.contract = load_contract(self._value("robot"))
        self._rng = np.random.default_rng(self._value("seed"))
        self._adapter = adapter(self.contract)
        home = np.array(self.contract.home)
        timeout = self.contract.controller.timeout
        self._servos = Servos(home, self._value("bandwidth"), timeout)
        self._camera = SimulatedArm(self.contract)
        self._faults, self._recorder = Faults(self._rng), Recorder(len(home))
        self._is_recording = False
        self._senders: dict[bytes, int] = {}
        self._queue: deque = deque()
        self._time = time.monotonic()
        self._clock_offset, self._clock_stopped_at = 0, None
        self.diagnostics = Diagnostics(self)
        self.diagnostics.ok("up")
        self._connect()

    def _value(self, name: str):
        return self.get_parameter(name).value

    def _connect(self) -> None:
        contract = self.contract
        publish, subscribe = self.create_publisher, self.create_subscription
        self._joint_states = publish(JointState, "joint_states", SENSOR_OUT)
        self._images = [publish(Image, camera.topic, SENSOR_OUT) for camera in contract.cameras]
        self._infos = [publish(CameraInfo, c.info_topic, SENSOR_OUT) for c in contract.cameras]
        description = publish(String, "/robot_description", LATCHED)
        description.publish(String(data=contract.urdf_path.read_text(encoding="utf-8")))
        kind, topic = self._adapter.message_type, contract.controller.topic
        subscribe(kind, topic, with_info(self._on_command), COMMANDS)
        subscribe(JointTrajectory, "command_echo", with_info(self._on_echo), COMMANDS)
        subscribe(String, "~/fault", self._on_fault, DATA)
        self.create_service(Trigger, "~/begin", self._on_begin)
        self.create_service(Trigger, "~/end", self._on_end)
        for name in filter(None, self._value("relayed_topics")):
            out = publish(Image, f"{name}_relayed", COMMAND)
            subscribe(Image, name, partial(self._relay, name, out), COMMANDS)
        timer = partial(self.create_timer, clock=STEADY)
        timer(1 / contract.rates.joint_states, self._every_joint_state)
        timer(1 / contract.rates.image, self._every_image)
        if self._value("publishes_clock"):
            self._clock = publish(Clock, "/clock", 10)
            timer(CLOCK_PERIOD, lambda: self._clock.publish(Clock(clock=self._stamp())))

    # Time.

    def _now(self) -> int:
        """What we stamp with, ns: the machine's clock, or the one that we make."""
        if not self._value("publishes_clock"):
            return time.time_ns()
        if self._faults.get("clock_stopped"):
            self._clock_stopped_at = self._clock_stopped_at or time.monotonic_ns()
            return self._clock_stopped_at + self._clock_offset
        if self._clock_stopped_at is not None:
            self._clock_offset -= time.monotonic_ns() - self._clock_stopped_at
            self._clock_stopped_at = None
        return time.monotonic_ns() + self._clock_offset

    def _stamp(self):
        return messages.to_time(self._now())

    def _advance(self) -> None:
        """Bring the servos up to now."""
        now = time.monotonic()
        self._time = max(self._time, now - MOST_BEHIND)
        while self._time + STEP <= now:
            self._time += STEP
            while self._queue and self._queue[0][0] <= self._time:
                self._servos.tell(self._queue.popleft()[1], self._time)
            self._servos.step(self._time)
        for fault in self._faults.expire(now):
            self._note({"kind": "end", "fault": fault["kind"]})

    def _note(self, event: dict) -> None:
        self._recorder.events.append({"time": time.monotonic(), **event})

    # What it sends.

    def _every_joint_state(self) -> None:
        self._advance()
        noise = self._rng.normal(0, self._value("noise"), len(self._servos.positions))
        message = messages.joint_state_message(
            self.contract.joint_names,
            self._servos.positions + noise,
            self._servos.velocities,
            self._now(),
        )
        spoilt = self._faults.spoil_joints(message)
        if spoilt is None:
            return
        now = time.monotonic()
        for delivered in self._faults.deliver("joint_states", spoilt, now):
            self._joint_states.publish(delivered)
            if self._is_recording:
                self._recorder.add(joints_time=now, joints=self._servos.positions)

    def _every_image(self) -> None:
        self._advance()
        stamp = self._now()
        error = self._value("calibration_error")
        self._camera.reset(self._servos.positions + error)
        made = [
            messages.image_message(image, camera, stamp)
            for image, camera in zip(self._camera.images(), self.contract.cameras, strict=True)
        ]
        spoilt = self._faults.spoil_images(made)
        now = time.monotonic()
        for image, publisher in zip(spoilt, self._images, strict=False):
            for delivered in self._faults.deliver("image", (publisher, image), now):
                delivered[0].publish(delivered[1])
        for camera, publisher in zip(self.contract.cameras, self._infos, strict=True):
            publisher.publish(messages.camera_info_message(camera, stamp))
        if spoilt and self._is_recording:
            self._recorder.add(image_time=now, image_stamp=stamp)

    def _relay(self, topic: str, publisher, message: Image) -> None:
        for delivered in self._faults.deliver(topic, message, time.monotonic()):
            publisher.publish(delivered)

    # What it is told.

    def _on_command(self, message, info: MessageInfo) -> None:
        now, sent = time.monotonic(), _sent_at(info)
        try:
            command = self._adapter.read(message)
        except ValueError as error:
            self.diagnostics.error(f"the controller rejects a command: {error}")
            return
        if self._is_recording:
            values = command.velocities if command.positions is None else command.positions
            self._recorder.add(
                command_time=sent,
                command_sender=self._sender(info),
                command_number=info["publication_sequence_number"] or 0,
                command=values,
            )
        if self._faults.get("controller_inactive"):
            return
        delay = self._value("latency") + self._rng.uniform(0, self._value("jitter"))
        for delivered in self._faults.deliver("command", command, now):
            last = self._queue[-1][0] if self._queue else 0.0
            self._queue.append((max(now + delay, last), delivered))

    def _sender(self, info: MessageInfo) -> int:
        """Which node a message is from, by what DDS says of its publisher."""
        gid = bytes((info.get("publisher_gid") or {}).get("data", b""))
        if gid not in self._senders:
            topic = self.resolve_topic_name(self.contract.controller.topic)
            for endpoint in self.get_publishers_info_by_topic(topic):
                if bytes(endpoint.endpoint_gid)[: len(gid)] == gid:
                    self._senders[gid] = endpoint.node_name
        return self._recorder.sender(self._senders.get(gid, "unknown"))

    def _on_echo(self, message: JointTrajectory, info: MessageInfo) -> None:
        if not self._is_recording:
            return
        stamp, point = messages.from_time(message.header.stamp), message.points[0]
        rows = np.array([point.positions, point.velocities, point.accelerations])
        self._recorder.add(
            echo_time=_sent_at(info),
            echo_stamp=stamp,
            echo_tick=stamp + messages.from_time(point.time_from_start),
            echo=rows[:, : len(self.contract.joints)],  # a gripper's come behind
        )

    def _on_fault(self, message: String) -> None:
        try:
            fault = self._faults.begin(message.data, time.monotonic())
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        if fault["kind"] == "clock_jump":
            self._clock_offset += round(1e9 * fault["jump"])
        self._note({"kind": "fault", "fault": fault["kind"]})

    def _on_begin(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._recorder.clear()
        self._is_recording = True
        response.success = True
        return response

    def _on_end(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._is_recording = False
        path = Path(self._value("file"))
        try:
            self._recorder.save(path)
        except OSError as error:
            response.message = f"{path} cannot be written: {error.strerror}"
            return response
        response.success, response.message = True, str(path)
        return response


class ControllerNode(Node):
    """The parameters that a ros2_control controller node shows, and nothing else."""

    def __init__(self, robot: FakeRobotNode) -> None:
        controller = robot.contract.controller
        super().__init__(controller.node)
        self.declare_parameter("joints", list(robot.contract.joint_names))
        if controller.type == "joint_trajectory":
            self.declare_parameter("command_interfaces", ["position"])
        else:
            self.declare_parameter("interface_name", controller.type.removeprefix("forward_"))


def _sent_at(info: MessageInfo) -> float:
    """When a message was sent, by DDS, in s on the steady clock: how we are busy does not count."""
    return time.monotonic() - (time.time_ns() - info["source_timestamp"]) / 1e9


def run() -> None:
    with ros() as executor:
        robot = FakeRobotNode()
        executor.add_node(robot)
        if robot.contract.controller.node:
            executor.add_node(ControllerNode(robot))
        spin(executor)


if __name__ == "__main__":
    run()
