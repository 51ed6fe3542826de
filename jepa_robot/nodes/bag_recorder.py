"""Writes what a robot and its agent say into a ROS 2 bag, as it goes over the wire."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.nodes.messages import LATCHED
from jepa_robot.robot.contract import RobotContract

VERSION = 9  # of rosbag2's layout: Jazzy's
TENSORS = ("state", "prediction", "surprise", "cost", "action", "plan")
TEXTS = ("configuration", "task_status", "progress")
# As deep as a moment of a busy disk; sensors may be published best effort, and so match.
ANY = QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
FOREVER = QosTime(2**31 - 1, 0)


def topics_of(contract: RobotContract) -> dict[str, tuple[type, QoSProfile]]:
    """What is recorded: names relative to the namespace, types and how they are subscribed to."""
    known: dict[str, tuple[type, QoSProfile]] = {}
    for camera in contract.cameras:
        known[camera.topic] = (Image, ANY)
        known[camera.info_topic] = (CameraInfo, ANY)
    known["joint_states"] = (JointState, ANY)
    known |= {name: (Image, ANY) for name in TENSORS}
    known |= {name: (String, LATCHED) for name in TEXTS}
    known["safety_state"] = (DiagnosticStatus, LATCHED)
    known["command_echo"] = (JointTrajectory, ANY)
    if contract.controller.type.startswith("forward"):
        known[contract.controller.topic] = (Float64MultiArray, ANY)
    elif contract.controller.type == "joint_trajectory":
        known[contract.controller.topic] = (JointTrajectory, ANY)
    return known


class BagRecorder(Node):
    """Records until it is closed. Nothing is decoded, so that recording costs little.

    Args:
        path: of the bag, a new folder.
        contract: of the robot.
        namespace: of robot and agent.

    Raises:
        FileExistsError: there is something there.
    """

    def __init__(self, path: Path, contract: RobotContract, namespace: str = "") -> None:
        super().__init__("bag_recorder", namespace=namespace)
        if path.exists():
            raise FileExistsError(f"{path}: exists, expected the name of a new bag")
        self._writer = Writer(path, version=VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self.counts: dict[str, int] = {}
        store = get_typestore(Stores.ROS2_JAZZY)
        for name, (kind, qos) in topics_of(contract).items():
            topic = self.resolve_topic_name(name)
            described = f"{kind.__module__.split('.')[0]}/msg/{kind.__name__}"
            connection = self._writer.add_connection(
                topic, described, typestore=store, offered_qos_profiles=[_offered(qos)]
            )
            self.counts[topic] = 0
            take = partial(self._take, topic, connection)
            self.create_subscription(kind, name, take, qos, raw=True)

    def close(self) -> None:
        self._writer.close()

    def _take(self, topic: str, connection: object, data: bytes) -> None:
        self._writer.write(connection, time.time_ns(), data)
        self.counts[topic] += 1


def _offered(qos: QoSProfile) -> Qos:
    """What a player is to offer, so that who was subscribed before can be again."""
    is_latched = qos.durability == DurabilityPolicy.TRANSIENT_LOCAL
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=qos.depth,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if is_latched else QosDurability.VOLATILE,
        deadline=FOREVER,
        lifespan=FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=FOREVER,
        avoid_ros_namespace_conventions=False,
    )
