"""Listens to a running robot for `jepa-robot check`. It publishes nothing and moves nothing."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticStatus
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter, parameter_value_to_python
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import MessageInfo
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String

from jepa_robot.nodes import messages
from jepa_robot.nodes.adapters import ADAPTERS, gripper
from jepa_robot.nodes.latch import state_file
from jepa_robot.nodes.messages import COMMAND, LATCHED, SENSOR_IN
from jepa_robot.robot.contract import Camera, RobotContract
from jepa_robot.robot.seen import CameraSeen, Endpoint, JointSample, SafetySeen, Seen, Stream

ENOUGH = 12  # messages of a stream
LEAST = 2.5  # s of listening, so that whoever is there has been discovered
# Deep, so that what waits for a busy computer is counted, too.
LISTEN = QoSProfile(depth=200, reliability=ReliabilityPolicy.BEST_EFFORT)
OUR_WRITERS = ("actor", "agent_client")  # of actions and plans
INFINITE = 2**62  # ns, from which on a duration is meant so
TOOLS = ("_ros2cli", "rosbag2")  # whose subscriptions drive nothing


def observe(
    contract: RobotContract, namespace: str = "", seconds: float = 5.0, use_sim_time: bool = False
) -> Seen:
    """Listen to a robot for at most ``seconds``: less where all has come by then."""
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)
    node = CheckNode(contract, namespace, use_sim_time, context)
    executor.add_node(node)
    try:
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            if now > LEAST and node.has_heard_enough():
                break
            executor.spin_once(timeout_sec=0.02)
            node.ask()
        return node.conclude()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown(context=context)


class CheckNode(Node):
    """Fills a :class:`Seen`."""

    def __init__(
        self, contract: RobotContract, namespace: str, use_sim_time: bool, context: rclpy.Context
    ) -> None:
        super().__init__(
            "check",
            namespace=namespace,
            context=context,
            parameter_overrides=[Parameter("use_sim_time", value=use_sim_time)],
        )
        self._contract, self._uses_sim_time = contract, use_sim_time
        streams = {
            camera.name: CameraSeen(
                self._stream(camera.topic, Image), self._stream(camera.info_topic, CameraInfo)
            )
            for camera in contract.cameras
        }
        self._seen = Seen(self._stream("joint_states", JointState), streams, use_sim_time)
        self._parameters = ParameterReader(self, contract.controller.node)
        self._subscribe()

    def _stream(self, topic: str, message_type: type) -> Stream:
        return Stream(self.resolve_topic_name(topic), _type_name(message_type))

    def _subscribe(self) -> None:
        subscribe = self.create_subscription
        subscribe(JointState, "joint_states", self._on_joints, LISTEN)
        for camera in self._contract.cameras:
            found = self._seen.cameras[camera.name]
            subscribe(Image, camera.topic, partial_with_info(self._on_image, camera, found), LISTEN)
            subscribe(
                CameraInfo, camera.info_topic, partial_with_info(self._on_info, found), LISTEN
            )
        subscribe(Clock, "/clock", self._on_clock, LISTEN)
        for topic in {"robot_description", "/robot_description"}:
            subscribe(String, topic, self._on_description, LATCHED)
        subscribe(DiagnosticStatus, "safety_state", self._on_safety, LATCHED)

    def has_heard_enough(self) -> bool:
        seen = self._seen
        streams = [seen.joints]
        for camera in seen.cameras.values():
            streams += [camera.images, camera.infos]
        return (
            all(len(stream.arrivals) >= ENOUGH for stream in streams)
            and bool(seen.description)
            and self._parameters.is_done
        )

    def ask(self) -> None:
        """Go on asking for the controller's parameters."""
        self._parameters.ask()

    # What comes.

    def _note(self, stream: Stream, stamp: Any, info: MessageInfo) -> None:
        """An arrival. When the middleware had it counts, not when we came to it."""
        stamp = messages.from_time(stamp)
        now, waited = time.monotonic(), 0
        received = info["received_timestamp"]
        if received:
            waited = max(time.time_ns() - received, 0)
        clock = self.get_clock().now().nanoseconds
        stream.arrivals.append(now - waited / 1e9)
        stream.stamps.append(stamp)
        stream.ages.append(clock - stamp - (0 if self._uses_sim_time else waited))

    def _on_joints(self, message: JointState, info: MessageInfo) -> None:
        self._note(self._seen.joints, message.header.stamp, info)
        self._seen.samples.append(
            JointSample(tuple(message.name), np.array(message.position), np.array(message.velocity))
        )

    def _on_image(
        self, camera: Camera, found: CameraSeen, message: Image, info: MessageInfo
    ) -> None:
        self._note(found.images, message.header.stamp, info)
        found.kinds.add((message.width, message.height, message.encoding))
        found.digests.append(zlib.crc32(message.data))
        try:
            found.picture = messages.read_image(message, camera)
        except ValueError:
            return  # the row about size and encoding says it

    def _on_info(self, found: CameraSeen, message: CameraInfo, info: MessageInfo) -> None:
        self._note(found.infos, message.header.stamp, info)
        k = message.k
        found.intrinsics = (k[0], k[4], k[2], k[5])
        found.info_size = (message.width, message.height)
        found.distortion = tuple(message.d)

    def _on_clock(self, message: Clock, info: MessageInfo) -> None:
        self._note(self._seen.clock, message.clock, info)

    def _on_description(self, message: String) -> None:
        self._seen.description = message.data

    def _on_safety(self, message: DiagnosticStatus) -> None:
        values = {value.key: value.value for value in message.values}
        self._seen.safety = SafetySeen(
            state=values.get("state", ""),
            code=values.get("code", ""),
            is_dry_run=values.get("dry_run") == "true",
            text=message.message,
        )

    # What the graph says.

    def conclude(self) -> Seen:
        """What was seen, with who is at the topics' other ends."""
        seen, contract = self._seen, self._contract
        seen.topics = dict(self.get_topic_names_and_types())
        streams = [seen.joints, seen.clock]
        for camera in seen.cameras.values():
            streams += [camera.images, camera.infos]
        for stream in streams:
            found = self.get_publishers_info_by_topic(stream.topic)
            stream.publishers = [self._endpoint(i, i.qos_profile, SENSOR_IN) for i in found]
        seen.command_topic = self.resolve_topic_name(contract.controller.topic)
        seen.command_type = _type_name(ADAPTERS[contract.controller.type].message_type)
        seen.commands = self._takers(seen.command_topic)
        if contract.gripper is not None:
            seen.gripper_topic = self.resolve_topic_name(contract.gripper.topic)
            seen.gripper_type = _type_name(gripper.message_type)
            seen.grippers = self._takers(seen.gripper_topic)
        ours = {seen.command_topic: ("safety",), seen.gripper_topic: ("safety",)}
        ours |= {self.resolve_topic_name(topic): OUR_WRITERS for topic in ("action", "plan")}
        seen.writers = {topic: self._others(topic, names) for topic, names in ours.items() if topic}
        seen.controller, seen.parameters = self._parameters.node_name, self._parameters.values
        seen.release = self.resolve_service_name("safety/release")
        latch = state_file(contract.name, self.get_namespace(), "stopped")
        if latch.is_file():
            seen.latch = latch.read_text(encoding="utf-8") or "stop_requested"
        if seen.safety is not None and not self.get_publishers_info_by_topic("safety_state"):
            seen.safety = None
        return seen

    def _takers(self, topic: str) -> list[Endpoint]:
        return [
            self._endpoint(info, COMMAND, info.qos_profile)
            for info in self.get_subscriptions_info_by_topic(topic)
            if not info.node_name.startswith(TOOLS)
        ]

    def _others(self, topic: str, names: tuple[str, ...]) -> list[str]:
        ours = {(name, self.get_namespace()) for name in names}
        found = self.get_publishers_info_by_topic(topic)
        return sorted({_full(i) for i in found if (i.node_name, i.node_namespace) not in ours})

    def _endpoint(self, info: Any, offered: QoSProfile, asked: QoSProfile) -> Endpoint:
        return Endpoint(_full(info), info.topic_type, _clash(offered, asked))


class ParameterReader:
    """Asks a node for all its parameters, until it answers; an empty name asks nobody."""

    def __init__(self, node: Node, name: str) -> None:
        self.values: dict[str, Any] | None = None
        self.node_name = ""
        self._future: Any = None
        self._names: list[str] = []
        self._take: Callable[[Any], None]
        if name:
            self._list = node.create_client(ListParameters, f"{name}/list_parameters")
            self._get = node.create_client(GetParameters, f"{name}/get_parameters")
            self.node_name = self._list.service_name.removesuffix("/list_parameters")

    @property
    def is_done(self) -> bool:
        return not self.node_name or self.values is not None

    def ask(self) -> None:
        """One step, without waiting."""
        if self.is_done:
            return
        if self._future is None:
            if self._list.service_is_ready() and self._get.service_is_ready():
                self._future = self._list.call_async(ListParameters.Request())
                self._take = self._on_names
        elif self._future.done():
            self._take(self._future.result())

    def _on_names(self, answer: ListParameters.Response) -> None:
        self._names = list(answer.result.names)
        self._future = self._get.call_async(GetParameters.Request(names=self._names))
        self._take = self._on_values

    def _on_values(self, answer: GetParameters.Response) -> None:
        # MoveIt Servo puts a prefix before its names, `moveit_servo.`.
        pairs = zip(self._names, answer.values, strict=False)
        self.values = {n.rpartition(".")[2]: parameter_value_to_python(v) for n, v in pairs}


def partial_with_info(callback: Callable, *arguments: Any) -> Callable:
    """A callback with leading arguments of its own; rclpy sees that it takes the message info."""

    def call(message: Any, info: MessageInfo) -> None:
        callback(*arguments, message, info)

    return call


def _clash(offered: QoSProfile, asked: QoSProfile) -> str:
    """Why DDS does not connect a publisher and a subscription, in words; empty where it does.

    rclpy's own comparison takes the infinite deadlines that the graph tells for finite ones.
    """
    if ReliabilityPolicy.BEST_EFFORT == offered.reliability != asked.reliability:
        return "best effort is published, reliable is asked for"
    if asked.durability == DurabilityPolicy.TRANSIENT_LOCAL != offered.durability:
        return "volatile is published, transient local is asked for"
    deadline = asked.deadline.nanoseconds
    if 0 < deadline < INFINITE and not 0 < offered.deadline.nanoseconds <= deadline:
        return f"a deadline of {deadline / 1e9:g} s is asked for, a longer one is published"
    return ""


def _full(info: Any) -> str:
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"


def _type_name(message_type: type) -> str:
    """As the graph names it: ``sensor_msgs/msg/Image``."""
    return f"{message_type.__module__.split('.')[0]}/msg/{message_type.__name__}"
