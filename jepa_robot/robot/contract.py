"""The robot contract, version 2: the one place that says what a robot is.

Joints and their order, limits, controller, gripper, cameras, action channels, units, rates,
watchdog times and what the arm must keep clear of. Data, training, simulation, export and
deployment all read it. SI units and radians (REP 103); frames right-handed, camera frames optical:
z forward, x right, y down (REP 103). Read from YAML by ``contract_file.py``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa_robot import resources
from jepa_robot.robot.geometry import rotation_from_quaternion
from jepa_robot.validation import InvalidFile, Section, place

SCHEMA = 2
TWIST_CHANNELS = ("vx", "vy", "vz", "wx", "wy", "wz")
GRIPPER_CHANNEL = "gripper"
# What a controller takes, by type; those that go on moving when nothing comes need a timeout.
CONTROLLERS = (
    "forward_position",
    "forward_velocity",
    "joint_trajectory",
    "servo_twist",
    "servo_pose",
)
COASTING_CONTROLLERS = ("forward_velocity", "servo_twist")


# Cost terms of the body and its motion, which tasks weigh within bounds: see modules/intrinsic.py.
INTRINSIC = (
    *("joint_limits", "speed", "effort", "jerk", "surprise"),
    *("self_collision", "obstacles", "workspace"),
)
MOST_WEIGHT = 1e6  # of a cost term


class InvalidContract(InvalidFile):
    """A robot contract that cannot be used; the message names field, value and expectation."""


@dataclass(frozen=True)
class Joint:
    """One actuated joint: limits in rad, rad/s, rad/s^2 and rad/s^3."""

    name: str
    lower: float
    upper: float
    velocity: float
    acceleration: float
    jerk: float


@dataclass(frozen=True)
class Camera:
    """One fixed camera: pixels as published, pinhole intrinsics, pose in the robot's base frame."""

    name: str
    width: int
    height: int
    encoding: str
    fx: float
    fy: float
    cx: float
    cy: float
    position: tuple[float, float, float]
    orientation: tuple[float, float, float, float]  # x, y, z, w of the optical frame
    crop: tuple[int, int, int, int]  # x, y, width, height

    @property
    def topic(self) -> str:
        return f"{self.name}/image"

    @property
    def info_topic(self) -> str:
        return f"{self.name}/camera_info"

    @property
    def frame(self) -> str:
        return f"{self.name}_optical_frame"

    @property
    def rotation(self) -> np.ndarray:
        """``[3, 3]``: columns are the optical axes in the base frame."""
        return rotation_from_quaternion(self.orientation)


@dataclass(frozen=True)
class ActionChannel:
    """One action channel: a normalised action of 1 means ``scale`` in ``unit``."""

    name: str
    unit: str
    scale: float


@dataclass(frozen=True)
class Actions:
    """What an action means: ``ee_twist`` in the base frame, or ``joint_velocity``.

    Along an axis without a linear channel a twist keeps the hand where it is at home. So does
    ``keeps_orientation`` with how it is turned, without angular channels. The last channel may be
    ``gripper``.
    """

    kind: str
    channels: tuple[ActionChannel, ...]
    keeps_orientation: bool

    @property
    def size(self) -> int:
        return len(self.channels)

    @property
    def scale(self) -> np.ndarray:
        """``[A]``, in the channels' units."""
        return np.array([channel.scale for channel in self.channels])


@dataclass(frozen=True)
class Controller:
    """What takes our commands: a ros2_control controller or MoveIt Servo.

    ``timeout`` (s) is the controller's own, after which it stops without commands; 0 where it
    keeps the last position. ``node`` is the controller's node, whose parameters
    ``jepa-robot check`` reads; empty if there is none.
    """

    type: str
    topic: str
    timeout: float
    node: str


@dataclass(frozen=True)
class Gripper:
    """A gripper that takes positions: limits in m (rad for a revolute one) and m/s.

    All ``joints`` stand at the commanded position.
    """

    joints: tuple[str, ...]
    topic: str
    lower: float
    upper: float
    velocity: float


@dataclass(frozen=True)
class Rates:
    """In Hz. ``image`` is also the rate of decisions: one action a frame."""

    image: float
    joint_states: float
    safety: float

    @property
    def time_step(self) -> float:
        """Seconds from one decision to the next."""
        return 1.0 / self.image


@dataclass(frozen=True)
class Watchdogs:
    """Ages in s after which the arm holds. ``heartbeat`` is 0 for a robot without a deadman."""

    joint_states: float
    action: float
    heartbeat: float


@dataclass(frozen=True)
class Obstacle:
    """A box in the base frame that no link of the arm may enter: corners in m."""

    name: str
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class Safety:
    """What the safety stage keeps beside the joint limits.

    ``margin`` (m) is kept between links and to obstacles; the arm slows down from
    ``slow_distance`` (m) on. ``ramp`` (s): from a hold to full speed. ``tracking_tolerance`` (rad):
    commanded against measured joints. ``ignored_pairs``: links that may touch.
    """

    margin: float
    slow_distance: float
    ramp: float
    tracking_tolerance: float
    obstacles: tuple[Obstacle, ...]
    ignored_pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class RobotContract:
    """A robot arm as everything in this package sees it.

    ``intrinsic``: names of intrinsic cost terms, and the least and the most that they weigh.
    """

    name: str
    urdf: str
    base_frame: str
    ee_frame: str
    joints: tuple[Joint, ...]
    home: tuple[float, ...]
    fixed_joints: tuple[tuple[str, float], ...]
    controller: Controller
    gripper: Gripper | None
    cameras: tuple[Camera, ...]
    actions: Actions
    rates: Rates
    watchdogs: Watchdogs
    workspace: tuple[tuple[float, float, float], tuple[float, float, float]]
    safety: Safety
    intrinsic: tuple[tuple[str, float, float], ...]
    source: str
    lines: dict[str, int] = dataclasses.field(default_factory=dict, repr=False, compare=False)

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    @property
    def moves_gripper(self) -> bool:
        """Whether actions do, and its opening is measured."""
        return moves_gripper(self.interface())

    def weigh(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Weights by cost term, with the least of intrinsic terms that are not named.

        Raises:
            ValueError: an intrinsic term weighs less or more than it may; names it.
        """
        weighed = dict(weights)
        for term, least, most in self.intrinsic:
            weight = weighed.setdefault(term, least)
            if not (isinstance(weight, (int, float)) and least <= weight <= most):
                raise ValueError(
                    f"weights.{term} is {weight!r}, expected {least:g} to {most:g}, the bounds "
                    f"that the contract of {self.name} sets for this intrinsic term"
                )
        return weighed

    def limits(self, field: str) -> np.ndarray:
        """``[J]`` of ``lower``, ``upper``, ``velocity``, ``acceleration`` or ``jerk``."""
        return np.array([getattr(joint, field) for joint in self.joints])

    def invalid(self, path: str, text: str) -> InvalidContract:
        """The error to raise for a field by its full path, such as ``joints[2].velocity``."""
        return InvalidContract(f"{place(self.source, self.lines, path)}: {text}")

    @property
    def urdf_path(self) -> Path:
        """The URDF file.

        Raises:
            InvalidContract: if it is not there.
        """
        package, _, relative = self.urdf.removeprefix("package://").partition("/")
        if not self.urdf.startswith("package://"):
            path = Path(self.source).parent / self.urdf
        else:
            find = _pybullet_data if package == "pybullet_data" else _ament_share
            try:
                path = find(package) / relative
            except LookupError as error:
                raise self.invalid("urdf", f"urdf is {self.urdf!r}, expected {error}") from error
        if not path.is_file():
            raise self.invalid(
                "urdf", f"urdf is {self.urdf!r}, expected a file that exists ({path})"
            )
        return path

    def interface(self) -> dict:
        """What a model bundle must share with this robot, as plain JSON values."""
        return {
            "joints": list(self.joint_names),
            "actions": {
                "kind": self.actions.kind,
                "channels": [dataclasses.asdict(channel) for channel in self.actions.channels],
            },
            "cameras": [
                {k: list(v) if isinstance(v, tuple) else v for k, v in vars(camera).items()}
                for camera in self.cameras
            ],
            "time_step": self.rates.time_step,
        }


def moves_gripper(interface: Mapping) -> bool:
    """Whether actions of a ``RobotContract.interface()`` move a gripper."""
    channels = interface["actions"]["channels"]
    return any(channel["name"] == GRIPPER_CHANNEL for channel in channels)


def measured_size(interface: Mapping) -> int:
    """2J, of joint positions and velocities, and 1 of a gripper that actions move."""
    return 2 * len(interface["joints"]) + moves_gripper(interface)


def load_contract(name: str | Path) -> RobotContract:
    """Read a contract from a path, or by the name of a shipped one (``config/robots``).

    Raises:
        FileNotFoundError: no such contract; the message lists the shipped ones.
        InvalidContract: names file, field, value and what was expected.
    """
    from jepa_robot.robot.contract_file import read_contract

    path = resources.find("config/robots", name, ".yaml")
    try:
        return read_contract(Section.from_file(path))
    except InvalidContract:
        raise
    except InvalidFile as error:
        raise InvalidContract(str(error)) from error


def _pybullet_data(package: str) -> Path:
    try:
        import pybullet_data
    except ImportError as error:
        raise LookupError("pybullet to be installed") from error
    return Path(pybullet_data.getDataPath())


def _ament_share(package: str) -> Path:
    try:
        from ament_index_python.packages import get_package_share_directory

        return Path(get_package_share_directory(package))
    except (ImportError, LookupError, ValueError) as error:
        raise LookupError(f"{package} in the ament index") from error
