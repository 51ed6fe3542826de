"""Rows about the URDF that the running robot shows on /robot_description."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.seen import FAIL, PASS, SKIP, WARN, Finding
from jepa_robot.robot.stream_checks import where
from jepa_robot.robot.urdf import DRIVEN_TYPES, InvalidUrdf, Urdf, read_urdf

ROUNDING = 1e-4  # rad, rad/s
SAME, NEAR = 1e-3, 0.01  # m and rad between two descriptions of one arm: as written, calibrated


def check_description(contract: RobotContract, text: str) -> list[Finding]:
    """The running robot's limits and geometry against the contract's."""
    name = "robot_description"
    if not text:
        return [
            Finding(
                name,
                WARN,
                "nobody publishes it, so the running robot's limits are not known",
                "start robot_state_publisher; or compare the limits in the contract with those "
                "set in the robot's own controller",
            )
        ]
    try:
        urdf = read_urdf(text)
    except InvalidUrdf as error:
        return [Finding(name, FAIL, f"it {error}", "start robot_state_publisher with a URDF")]
    joints = _check_joints(contract, urdf)
    if joints.status == FAIL:
        return [joints, Finding("robot_description geometry", SKIP, "joints differ")]
    return [joints, _check_geometry(contract, urdf)]


def _check_joints(contract: RobotContract, urdf: Urdf) -> Finding:
    name = "robot_description limits"
    for index, joint in enumerate(contract.joints):
        line = where(contract, f"joints[{index}]")
        found = urdf.joints.get(joint.name)
        if found is None or found.type not in DRIVEN_TYPES or found.mimic:
            what = "is not there" if found is None else f"is of type {found.type}"
            if found is not None and found.mimic:
                what = f"mimics {found.mimic}"
            return Finding(
                name, FAIL, f"{joint.name} {what} in the running robot's URDF", f"correct {line}"
            )
        for field in ("lower", "upper", "velocity"):
            value, theirs = getattr(joint, field), getattr(found, field)
            is_wider = value < theirs - ROUNDING if field == "lower" else value > theirs + ROUNDING
            if is_wider:
                return Finding(
                    name,
                    FAIL,
                    f"the running robot's {field} of {joint.name} is {theirs:g}, tighter than the "
                    f"contract's {value:g}",
                    f"set {where(contract, f'joints[{index}].{field}')} to {theirs:g} or inside",
                )
    return Finding(name, PASS, f"the contract's {len(contract.joints)} joints are within them")


def _check_geometry(contract: RobotContract, running: Urdf) -> Finding:
    """Where the joints are: a calibrated robot differs a little, another robot or tool a lot."""
    name = "robot_description geometry"
    ours = read_urdf(contract.urdf_path.read_bytes())
    worst, which = 0.0, ""
    for joint in ours.between(contract.base_frame, contract.ee_frame):
        theirs = running.joints.get(joint.name)
        if theirs is None or theirs.parent != joint.parent or theirs.child != joint.child:
            return Finding(
                name,
                WARN,
                f"the running robot's URDF has no joint {joint.name} from {joint.parent} to "
                f"{joint.child}",
                f"see that the hand and tool are the same, or correct {where(contract, 'urdf')}",
            )
        apart = float(np.abs(np.subtract(theirs.origin, joint.origin)).max())
        if joint.moves:
            apart = max(apart, float(np.abs(np.subtract(theirs.axis, joint.axis)).max()))
        if apart > worst:
            worst, which = apart, joint.name
    if worst <= SAME:
        return Finding(name, PASS, "the joints are where the contract's URDF has them")
    return Finding(
        name,
        WARN if worst <= NEAR else FAIL,
        f"{which} is {worst:.4f} m or rad from where the contract's URDF has it",
        f"save the running robot's URDF and name it in {where(contract, 'urdf')}: ros2 topic echo "
        "--once --full-length --field data /robot_description",
    )
