"""The robot contract, version 1: the one place that says what a robot is.

Joints and their order, limits, controller, cameras, action channels, units, rates and watchdog
times, read from YAML. Data, training, simulation, export and deployment all read it. SI units and
radians (REP 103); frames right-handed, camera frames optical: z forward, x right, y down (REP 103).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa_robot import resources
from jepa_robot.robot.geometry import orientation_towards, rotation_from_quaternion
from jepa_robot.validation import InvalidFile, Section

SCHEMA = 1
TWIST_CHANNELS = ("vx", "vy", "vz", "wx", "wy", "wz")
CONTROLLERS = ("forward_position", "joint_trajectory")


class InvalidContract(InvalidFile):
    """A robot contract that cannot be used; the message names field, value and expectation."""


@dataclass(frozen=True)
class Joint:
    """One actuated joint: limits in rad, rad/s and rad/s^2."""

    name: str
    lower: float
    upper: float
    velocity: float
    acceleration: float


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
    """What an action means: ``ee_twist`` in the base frame, or ``joint_velocity``."""

    kind: str
    channels: tuple[ActionChannel, ...]

    @property
    def size(self) -> int:
        return len(self.channels)

    @property
    def scale(self) -> np.ndarray:
        """``[A]``, in the channels' units."""
        return np.array([channel.scale for channel in self.channels])


@dataclass(frozen=True)
class Controller:
    """The ros2_control controller that takes joint commands."""

    type: str
    topic: str


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
    """Ages in s after which the arm holds."""

    joint_states: float
    action: float


@dataclass(frozen=True)
class RobotContract:
    """A robot arm as everything in this package sees it."""

    name: str
    urdf: str
    base_frame: str
    ee_frame: str
    joints: tuple[Joint, ...]
    home: tuple[float, ...]
    fixed_joints: tuple[tuple[str, float], ...]
    controller: Controller
    cameras: tuple[Camera, ...]
    actions: Actions
    rates: Rates
    watchdogs: Watchdogs
    workspace: tuple[tuple[float, float, float], tuple[float, float, float]]
    tracking_tolerance: float
    source: str

    @property
    def joint_names(self) -> tuple[str, ...]:
        return tuple(joint.name for joint in self.joints)

    def limits(self, field: str) -> np.ndarray:
        """``[J]`` of ``lower``, ``upper``, ``velocity`` or ``acceleration``."""
        return np.array([getattr(joint, field) for joint in self.joints])

    @property
    def urdf_path(self) -> Path:
        """The URDF file.

        Raises:
            InvalidContract: if it is not there.
        """
        package, _, relative = self.urdf.removeprefix("package://").partition("/")
        if not self.urdf.startswith("package://"):
            path = Path(self.source).parent / self.urdf
        elif package == "pybullet_data":
            path = _pybullet_data() / relative
        else:
            path = _ament_share(package) / relative
        if not path.is_file():
            raise InvalidContract(
                f"{self.source}: urdf is {self.urdf!r}, expected a file that exists ({path})"
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


def load_contract(name: str | Path) -> RobotContract:
    """Read a contract from a path, or by the name of a shipped one (``config/robots``).

    Raises:
        FileNotFoundError: no such contract; the message lists the shipped ones.
        InvalidContract: names file, field, value and what was expected.
    """
    path = resources.find("config/robots", name, ".yaml")
    try:
        return _read(Section.from_file(path))
    except InvalidContract:
        raise
    except InvalidFile as error:
        raise InvalidContract(str(error)) from error


def _read(root: Section) -> RobotContract:
    if root.value("schema") != SCHEMA:
        raise root.fail("schema", f"{SCHEMA}, the contract version that this release reads")
    joints = tuple(_joint(section) for section in root.sections("joints"))
    names = [joint.name for joint in joints]
    for name in names:
        if names.count(name) > 1:
            raise root.fail("joints", f"each joint once, but {name} is there twice")
    home = root.numbers("home", len(joints))
    for joint, angle in zip(joints, home, strict=True):
        if not joint.lower <= angle <= joint.upper:
            raise root.fail(
                "home", f"{joint.name} within its limits {joint.lower:g} to {joint.upper:g}"
            )
    fixed = root.section("fixed_joints", {})
    cameras = tuple(_camera(section) for section in root.sections("cameras"))
    if len({camera.name for camera in cameras}) != len(cameras):
        raise root.fail("cameras", "each camera under a name of its own")
    contract = RobotContract(
        name=root.text("name"),
        urdf=root.text("urdf"),
        base_frame=root.text("base_frame"),
        ee_frame=root.text("ee_frame"),
        joints=joints,
        home=home,
        fixed_joints=tuple((name, fixed.number(name)) for name in fixed),
        controller=_controller(root.section("controller")),
        cameras=cameras,
        actions=_actions(root.section("actions"), names),
        rates=_rates(root.section("rates")),
        watchdogs=_watchdogs(root.section("watchdogs")),
        workspace=_workspace(root.section("workspace")),
        tracking_tolerance=root.number("tracking_tolerance", low=1e-3, high=3.2),
        source=root.source,
    )
    root.end()
    return contract


def _joint(section: Section) -> Joint:
    joint = Joint(
        name=section.text("name"),
        lower=section.number("lower", low=-2 * np.pi, high=2 * np.pi),
        upper=section.number("upper", low=-2 * np.pi, high=2 * np.pi),
        velocity=section.number("velocity", low=1e-3, high=50),
        acceleration=section.number("acceleration", low=1e-3, high=1000),
    )
    section.end()
    if joint.lower >= joint.upper:
        raise section.fail("lower", f"a value below upper, which is {joint.upper:g}")
    return joint


def _camera(section: Section) -> Camera:
    width = section.integer("width", low=8, high=8192)
    height = section.integer("height", low=8, high=8192)
    position = section.numbers("position", 3)
    if ("look_at" in section) == ("orientation" in section):
        raise section.fail("orientation", "either orientation or look_at, and not both")
    if "look_at" in section:
        target = section.numbers("look_at", 3)
        if np.allclose(target, position):
            raise section.fail("look_at", "a point other than position")
        orientation = orientation_towards(position, target)
    else:
        orientation = section.numbers("orientation", 4)
        if abs(np.linalg.norm(orientation) - 1) > 1e-3:
            raise section.fail("orientation", "a unit quaternion x, y, z, w")
    crop = section.value("crop", [0, 0, width, height])
    valid = isinstance(crop, list) and len(crop) == 4 and all(isinstance(v, int) for v in crop)
    if not valid or not (
        0 <= crop[0] < crop[0] + crop[2] <= width and 0 <= crop[1] < crop[1] + crop[3] <= height
    ):
        raise section.fail("crop", f"[x, y, width, height] in pixels inside {width}x{height}")
    camera = Camera(
        name=section.text("name"),
        width=width,
        height=height,
        encoding=section.text("encoding", choices=("rgb8", "bgr8")),
        fx=section.number("fx", low=1),
        fy=section.number("fy", low=1),
        cx=section.number("cx", low=0, high=width),
        cy=section.number("cy", low=0, high=height),
        position=position,
        orientation=orientation,
        crop=tuple(crop),
    )
    section.end()
    return camera


def _actions(section: Section, joint_names: list[str]) -> Actions:
    kind = section.text("kind", choices=("ee_twist", "joint_velocity"))
    names = TWIST_CHANNELS if kind == "ee_twist" else joint_names
    channels = []
    for item in section.sections("channels"):
        name = item.text("name", choices=names)
        angular = kind == "joint_velocity" or name.startswith("w")
        channel = ActionChannel(
            name=name,
            unit=item.text("unit", choices=("rad/s",) if angular else ("m/s",)),
            scale=item.number("scale", low=1e-4, high=10),
        )
        item.end()
        channels.append(channel)
    order = [names.index(channel.name) for channel in channels]
    if order != sorted(set(order)):
        raise section.fail("channels", f"each channel at most once, in the order {list(names)}")
    section.end()
    return Actions(kind, tuple(channels))


def _controller(section: Section) -> Controller:
    controller = Controller(
        type=section.text("type", choices=CONTROLLERS), topic=section.text("topic")
    )
    section.end()
    return controller


def _rates(section: Section) -> Rates:
    rates = Rates(
        image=section.number("image", low=0.5, high=1000),
        joint_states=section.number("joint_states", low=1, high=5000),
        safety=section.number("safety", low=10, high=5000),
    )
    section.end()
    if rates.safety < rates.image:
        raise section.fail("safety", f"at least the image rate, {rates.image:g}")
    return rates


def _watchdogs(section: Section) -> Watchdogs:
    watchdogs = Watchdogs(
        joint_states=section.number("joint_states", low=1e-3, high=5),
        action=section.number("action", low=1e-3, high=5),
    )
    section.end()
    return watchdogs


def _workspace(section: Section) -> tuple:
    lower, upper = section.numbers("lower", 3), section.numbers("upper", 3)
    section.end()
    if not all(low < high for low, high in zip(lower, upper, strict=True)):
        raise section.fail("lower", f"each value below upper, which is {list(upper)}")
    return lower, upper


def _pybullet_data() -> Path:
    try:
        import pybullet_data
    except ImportError as error:
        raise InvalidContract(
            "package://pybullet_data is named, expected pybullet to be installed"
        ) from error
    return Path(pybullet_data.getDataPath())


def _ament_share(package: str) -> Path:
    from ament_index_python.packages import PackageNotFoundError, get_package_share_directory

    try:
        return Path(get_package_share_directory(package))
    except PackageNotFoundError as error:
        raise InvalidContract(
            f"package://{package} is named, expected it in the ament index"
        ) from error
