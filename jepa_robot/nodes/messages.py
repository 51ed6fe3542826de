"""The one place where arrays become messages and back. Standard messages only.

Tensors travel as ``sensor_msgs/Image``: ``32FC1``, height x width = rows x columns. The stamp is
that of the observation the data descends from, ``frame_id`` the id of the model bundle.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from builtin_interfaces.msg import Duration, Time
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_robot.robot.contract import Camera, RobotContract

if TYPE_CHECKING:
    from jepa_robot.robot.profile import JointMotion

SENSOR_OUT = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
SENSOR_IN = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
DATA = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
EVERY_ONE = QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
KEPT_ACKNOWLEDGEMENTS = QoSProfile(  # of all modules, also those that came before the configurator
    depth=50,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


class InvalidMessage(ValueError):
    """A message that must be dropped; the text names what was wrong and what was expected."""


def to_time(stamp: int) -> Time:
    return Time(sec=stamp // 1_000_000_000, nanosec=stamp % 1_000_000_000)


def from_time(time: Time | Duration) -> int:
    """Nanoseconds."""
    return time.sec * 1_000_000_000 + time.nanosec


def to_duration(nanoseconds: int) -> Duration:
    return Duration(sec=nanoseconds // 1_000_000_000, nanosec=nanoseconds % 1_000_000_000)


def tensor_message(tensor: np.ndarray, stamp: int, frame_id: str) -> Image:
    """A tensor ``[rows, columns]`` as a message."""
    rows, columns = tensor.shape
    message = Image()
    message.header.stamp = to_time(stamp)
    message.header.frame_id = frame_id
    message.height, message.width, message.step = rows, columns, 4 * columns
    message.encoding = "32FC1"
    message.is_bigendian = int(sys.byteorder == "big")
    data = np.ascontiguousarray(tensor, np.float32)
    message.data = array.array("B", data.tobytes())
    return message


def read_tensor(
    message: Image, topic: str, columns: int, rows: int | None = 1, frame_id: str | None = None
) -> np.ndarray:
    """The tensor ``[rows, columns]`` float32 of a message.

    Args:
        message: what came.
        topic: for the error's text.
        columns: expected columns.
        rows: expected rows; None takes any number from 1.
        frame_id: expected id of the model bundle; None takes any.

    Raises:
        InvalidMessage: another latent space, encoding, size, or a value that is not finite.
    """
    if frame_id is not None and message.header.frame_id != frame_id:
        raise InvalidMessage(
            f"{topic} is of bundle {message.header.frame_id!r}, expected {frame_id!r}"
        )
    fits = message.width == columns and (message.height == rows if rows else message.height >= 1)
    size = 4 * message.width * message.height
    if message.encoding != "32FC1" or not fits or len(message.data) != size:
        raise InvalidMessage(
            f"{topic} is {message.height}x{message.width} {message.encoding} in "
            f"{len(message.data)} bytes, expected {rows or 'n'}x{columns} 32FC1"
        )
    order = ">f4" if message.is_bigendian else "<f4"
    tensor = np.frombuffer(message.data, order).reshape(message.height, columns)
    if not np.isfinite(tensor).all():
        raise InvalidMessage(f"{topic} holds NaN or infinity, expected finite numbers")
    return tensor.astype(np.float32)


def image_message(image: np.ndarray, camera: Camera, stamp: int) -> Image:
    """A camera image ``[H, W, 3]`` uint8, in the camera's encoding."""
    message = Image()
    message.header.stamp = to_time(stamp)
    message.header.frame_id = camera.frame
    message.height, message.width = image.shape[:2]
    message.step = 3 * message.width
    message.encoding = camera.encoding
    message.data = array.array("B", image.tobytes())
    return message


def read_image(message: Image, camera: Camera) -> np.ndarray:
    """The image ``[H, W, 3]`` uint8 of a camera.

    Raises:
        InvalidMessage: another size or encoding.
    """
    return _read_pixels(message, camera.topic, camera.width, camera.height, camera.encoding)


def read_goal_image(message: Image, cameras: Sequence[Camera]) -> list[np.ndarray]:
    """The goal images, one a camera, of one message that shows them side by side.

    Raises:
        InvalidMessage: another size or encoding.
    """
    first = cameras[0]
    width = sum(camera.width for camera in cameras)
    image = _read_pixels(message, "goal_image", width, first.height, first.encoding)
    edges = np.cumsum([camera.width for camera in cameras])[:-1]
    return [np.ascontiguousarray(part) for part in np.split(image, edges, axis=1)]


def goal_image_message(images: Sequence[np.ndarray], camera: Camera, stamp: int) -> Image:
    """Goal images, one a camera, side by side in the contract's order."""
    return image_message(np.concatenate(images, axis=1), camera, stamp)


def _read_pixels(message: Image, topic: str, width: int, height: int, encoding: str) -> np.ndarray:
    fits = (message.width, message.height, message.encoding) == (width, height, encoding)
    step = message.step or 3 * message.width
    if not fits or step < 3 * width or len(message.data) != step * height:
        raise InvalidMessage(
            f"{topic} is {message.width}x{message.height} {message.encoding} in "
            f"{len(message.data)} bytes, expected {width}x{height} {encoding}"
        )
    rows = np.frombuffer(message.data, np.uint8).reshape(height, step)
    return np.ascontiguousarray(rows[:, : 3 * width]).reshape(height, width, 3)


def camera_info_message(camera: Camera, stamp: int) -> CameraInfo:
    """Intrinsics as REP 104 has them, without distortion."""
    message = CameraInfo()
    message.header.stamp = to_time(stamp)
    message.header.frame_id = camera.frame
    message.width, message.height = camera.width, camera.height
    message.distortion_model = "plumb_bob"
    message.d = [0.0] * 5
    message.k = [camera.fx, 0.0, camera.cx, 0.0, camera.fy, camera.cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [
        *(camera.fx, 0.0, camera.cx, 0.0),
        *(0.0, camera.fy, camera.cy, 0.0),
        *(0.0, 0.0, 1.0, 0.0),
    ]
    return message


def joint_state_message(
    names: Sequence[str], positions: np.ndarray, velocities: np.ndarray, stamp: int
) -> JointState:
    message = JointState()
    message.header.stamp = to_time(stamp)
    message.name = list(names)
    message.position, message.velocity = doubles(positions), doubles(velocities)
    return message


def read_joint_state(message: JointState, contract: RobotContract) -> tuple[np.ndarray, np.ndarray]:
    """Positions (rad) and velocities (rad/s), each ``[J]``, sorted into the contract's order.

    Raises:
        InvalidMessage: a joint of the contract is missing, or a value is missing or not finite.
    """
    index = {name: i for i, name in enumerate(message.name)}
    missing = [name for name in contract.joint_names if name not in index]
    if missing:
        raise InvalidMessage(f"joint_states lacks {missing}, expected {list(contract.joint_names)}")
    order = [index[name] for name in contract.joint_names]
    result = []
    for field in ("position", "velocity"):
        values = np.array(getattr(message, field), float)
        if len(values) != len(message.name):
            raise InvalidMessage(
                f"joint_states has {len(values)} values in {field}, "
                f"expected {len(message.name)}, one a name"
            )
        values = values[order]
        if not np.isfinite(values).all():
            name = contract.joint_names[int(np.argmin(np.isfinite(values)))]
            raise InvalidMessage(f"joint_states has a {field} of {name} that is no finite number")
        result.append(values)
    return result[0], result[1]


def read_gripper(message: JointState, contract: RobotContract) -> float | None:
    """The gripper's position (m): the mean of its joints; None where it is not measured."""
    gripper = contract.gripper
    if gripper is None or not set(gripper.joints) <= set(message.name):
        return None
    values = [message.position[message.name.index(name)] for name in gripper.joints]
    return float(np.mean(values)) if np.isfinite(values).all() else None


def read_goal_pose(message: PoseStamped, contract: RobotContract) -> tuple[float, float, float]:
    """The position (m) of a pose in the robot's base frame.

    Raises:
        InvalidMessage: another frame, or not finite.
    """
    frame = message.header.frame_id
    if frame != contract.base_frame:
        raise InvalidMessage(f"goal_pose is in frame {frame!r}, expected {contract.base_frame!r}")
    point = message.pose.position
    position = (point.x, point.y, point.z)
    if not np.isfinite(position).all():
        raise InvalidMessage(f"goal_pose is at {position}, expected finite numbers")
    return position


def echo_message(
    contract: RobotContract,
    motion: JointMotion,
    gripper: float | None,
    stamp: int,
    time_from_start: int,
) -> JointTrajectory:
    """A commanded motion at ``time_from_start`` ns after the stamp (ns) of its observation.

    A gripper's joints come behind the arm's, with positions alone: the others are NaN.
    """
    message = JointTrajectory()
    message.header.stamp = to_time(stamp)
    names, rows = contract.joint_names, (motion.positions, motion.velocities, motion.accelerations)
    if contract.gripper and gripper is not None:
        fingers = contract.gripper.joints
        names = (*names, *fingers)
        values = (gripper, math.nan, math.nan)
        rows = [
            np.append(row, [value] * len(fingers)) for row, value in zip(rows, values, strict=True)
        ]
    message.joint_names = list(names)
    point = JointTrajectoryPoint()
    point.positions, point.velocities, point.accelerations = map(doubles, rows)
    point.time_from_start = to_duration(time_from_start)
    message.points = [point]
    return message


def doubles(values: np.ndarray | Sequence[float]) -> array.array:
    """Numbers as rclpy takes them without looking at each."""
    return array.array("d", np.asarray(values, float).tobytes())


def read_doubles(message: Float64MultiArray, topic: str, size: int) -> np.ndarray:
    """The numbers ``[size]`` of a message.

    Raises:
        InvalidMessage: another size, or not finite.
    """
    values = np.array(message.data, float)
    if values.shape != (size,) or not np.isfinite(values).all():
        raise InvalidMessage(f"{topic} is {values.tolist()}, expected {size} finite numbers")
    return values


def status_message(name: str, level: bytes, text: str, values: dict) -> DiagnosticStatus:
    status = DiagnosticStatus()
    status.name, status.level, status.message = name, level, text
    status.hardware_id = "jepa_robot"
    status.values = [KeyValue(key=str(key), value=str(value)) for key, value in values.items()]
    return status
