"""Reads a robot contract from YAML: every field checked, every error with file, line and field."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.contract import (
    COASTING_CONTROLLERS,
    CONTROLLERS,
    GRIPPER_CHANNEL,
    INTRINSIC,
    MOST_WEIGHT,
    SCHEMA,
    TWIST_CHANNELS,
    ActionChannel,
    Actions,
    Camera,
    Controller,
    Gripper,
    Joint,
    Obstacle,
    Rates,
    RobotContract,
    Safety,
    Watchdogs,
)
from jepa_robot.robot.geometry import in_radians, orientation_towards
from jepa_robot.validation import Section

TURN = 2 * np.pi


def read_contract(root: Section) -> RobotContract:
    """The contract in a YAML mapping.

    Raises:
        InvalidFile: names file, line, field, value and what was expected.
    """
    if root.value("schema") != SCHEMA:
        raise root.fail("schema", f"{SCHEMA}, the contract version that this release reads")
    joints: list[Joint] = []
    for section in root.sections("joints"):
        joints.append(_joint(section, [joint.name for joint in joints]))
    names = [joint.name for joint in joints]
    home = root.numbers("home", len(joints))
    for joint, angle in zip(joints, home, strict=True):
        if not joint.lower <= angle <= joint.upper:
            raise root.fail(
                "home",
                f"{joint.name} within its limits {joint.lower:g} to {joint.upper:g}"
                + _is_it_degrees(angle),
            )
    fixed = root.section("fixed_joints", {})
    cameras = tuple(_camera(section) for section in root.sections("cameras"))
    if len({camera.name for camera in cameras}) != len(cameras):
        raise root.fail("cameras", "each camera under a name of its own")
    gripper = _gripper(root.section("gripper"), names) if "gripper" in root else None
    contract = RobotContract(
        name=root.text("name"),
        urdf=root.text("urdf"),
        base_frame=root.text("base_frame"),
        ee_frame=root.text("ee_frame"),
        joints=tuple(joints),
        home=home,
        fixed_joints=tuple((name, fixed.number(name)) for name in fixed),
        controller=_controller(root.section("controller")),
        gripper=gripper,
        cameras=cameras,
        actions=_actions(root.section("actions"), names, gripper),
        rates=_rates(root.section("rates")),
        watchdogs=_watchdogs(root.section("watchdogs")),
        workspace=_workspace(root.section("workspace")),
        safety=_safety(root.section("safety")),
        intrinsic=_intrinsic(root.section("intrinsic", {})),
        source=root.source,
        lines=root.lines,
    )
    root.end()
    _check_together(root, contract)
    return contract


def _check_together(root: Section, contract: RobotContract) -> None:
    """What no section can tell alone."""
    if contract.rates.safety < contract.rates.image:
        raise root.section("rates").fail(
            "safety", f"at least the image rate, {contract.rates.image:g}"
        )
    if len(contract.joints) < 6 and contract.actions.keeps_orientation:
        raise root.section("actions").fail(
            "orientation", f"free, since {len(contract.joints)} joints cannot keep an orientation"
        )


def _joint(section: Section, before: list[str]) -> Joint:
    name = section.text("name")
    if name in before:
        raise section.fail("name", f"each joint once, but {name} is there twice")
    lower, upper = (_angle(section, field) for field in ("lower", "upper"))
    joint = Joint(
        name=name,
        lower=lower,
        upper=upper,
        velocity=_rate(section, "velocity", 50),
        acceleration=_rate(section, "acceleration", 1000),
        jerk=section.number("jerk", low=1e-2, high=1e6),
    )
    section.end()
    if joint.lower >= joint.upper:
        raise section.fail("lower", f"a value below upper, which is {joint.upper:g}")
    return joint


def _angle(section: Section, field: str) -> float:
    value = section.number(field)
    if abs(value) > TURN + 1e-4:
        raise section.fail(field, f"a number from -2π to 2π, in radians{_is_it_degrees(value)}")
    return value


def _rate(section: Section, field: str, high: float) -> float:
    value = section.number(field, low=1e-3)
    if value > high:
        raise section.fail(
            field, f"a number from 0.001 to {high:g}, in radians: {in_radians(value)}"
        )
    return value


def _is_it_degrees(value: float) -> str:
    return "" if abs(value) <= TURN + 1e-4 else f": {in_radians(value)}"


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


def _actions(section: Section, joint_names: list[str], gripper: Gripper | None) -> Actions:
    kind = section.text("kind", choices=("ee_twist", "joint_velocity"))
    names = [*(TWIST_CHANNELS if kind == "ee_twist" else joint_names)]
    if gripper is not None:
        names.append(GRIPPER_CHANNEL)
    channels = []
    for item in section.sections("channels"):
        name = item.text("name", choices=names)
        is_linear = name == GRIPPER_CHANNEL or (kind == "ee_twist" and name.startswith("v"))
        channel = ActionChannel(
            name=name,
            unit=item.text("unit", choices=("m/s",) if is_linear else ("rad/s",)),
            scale=item.number("scale", low=1e-4, high=10),
        )
        item.end()
        channels.append(channel)
    order = [names.index(channel.name) for channel in channels]
    if order != sorted(set(order)):
        raise section.fail("channels", f"each channel at most once, in the order {names}")
    orientation = section.text("orientation", "keep", choices=("keep", "free"))
    turns = any(channel.name in TWIST_CHANNELS[3:] for channel in channels)
    section.end()
    keeps = kind == "ee_twist" and not turns and orientation == "keep"
    return Actions(kind, tuple(channels), keeps)


def _controller(section: Section) -> Controller:
    kind, topic = section.text("type", choices=CONTROLLERS), section.text("topic")
    needs_timeout = kind in COASTING_CONTROLLERS
    if needs_timeout and "timeout" not in section:
        raise section.fail(
            "timeout",
            f"the {kind} controller's own, in s: without commands it would go on moving for ever",
        )
    controller = Controller(
        type=kind,
        topic=topic,
        timeout=section.number("timeout", 0.0, low=1e-3 if needs_timeout else 0, high=1),
        node=section.text("node", topic.rpartition("/")[0]),
    )
    section.end()
    return controller


def _gripper(section: Section, joint_names: list[str]) -> Gripper:
    names = section.value("joints", expected="a list of at least 1 joint")
    if not isinstance(names, list) or not names or not all(isinstance(n, str) for n in names):
        raise section.fail("joints", "a list of at least 1 joint")
    if set(names) & set(joint_names) or len(set(names)) != len(names):
        raise section.fail("joints", "each joint once, and none of the arm's")
    gripper = Gripper(
        joints=tuple(names),
        topic=section.text("topic"),
        lower=section.number("lower"),
        upper=section.number("upper"),
        velocity=section.number("velocity", low=1e-4, high=10),
    )
    section.end()
    if gripper.lower >= gripper.upper:
        raise section.fail("lower", f"a value below upper, which is {gripper.upper:g}")
    return gripper


def _rates(section: Section) -> Rates:
    rates = Rates(
        image=section.number("image", low=0.5, high=1000),
        joint_states=section.number("joint_states", low=1, high=5000),
        safety=section.number("safety", low=10, high=5000),
    )
    section.end()
    return rates


def _watchdogs(section: Section) -> Watchdogs:
    watchdogs = Watchdogs(
        joint_states=section.number("joint_states", low=1e-3, high=5),
        action=section.number("action", low=1e-3, high=5),
        heartbeat=section.number("heartbeat", 0.0, low=0, high=5),
    )
    section.end()
    return watchdogs


def _workspace(section: Section) -> tuple:
    box = _box(section)
    section.end()
    return box


def _box(section: Section) -> tuple:
    lower, upper = section.numbers("lower", 3), section.numbers("upper", 3)
    if not all(low < high for low, high in zip(lower, upper, strict=True)):
        raise section.fail("lower", f"each value below upper, which is {list(upper)}")
    return lower, upper


def _safety(section: Section) -> Safety:
    margin = section.number("margin", low=0, high=0.5)
    safety = Safety(
        margin=margin,
        slow_distance=section.number("slow_distance", low=margin, high=1),
        ramp=section.number("ramp", low=0, high=10),
        tracking_tolerance=section.number("tracking_tolerance", low=1e-3, high=3.2),
        obstacles=tuple(_obstacle(item) for item in section.sections("obstacles", 0)),
        ignored_pairs=_pairs(section, "ignored_pairs"),
    )
    section.end()
    return safety


def _intrinsic(section: Section) -> tuple:
    bounds = []
    for term in INTRINSIC:
        if section.value(term, None) is None:
            continue
        least, most = section.numbers(term, 2)
        if not 0 <= least <= most <= MOST_WEIGHT:
            raise section.fail(term, f"[least, most], weights from 0 to {MOST_WEIGHT:g}")
        bounds.append((term, least, most))
    section.end()
    return tuple(bounds)


def _obstacle(section: Section) -> Obstacle:
    obstacle = Obstacle(section.text("name"), *_box(section))
    section.end()
    return obstacle


def _pairs(section: Section, field: str) -> tuple:
    pairs = section.value(field, [])
    for pair in pairs if isinstance(pairs, list) else [None]:
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(n, str) for n in pair)
        ):
            raise section.fail(field, "a list of pairs of links")
    return tuple(tuple(pair) for pair in pairs)
