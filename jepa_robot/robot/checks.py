"""Compares a contract with what was seen of the running robot: rows for `jepa-robot check`."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.camera_checks import check_camera, check_cameras_together
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.controller_checks import check_controller
from jepa_robot.robot.description_checks import check_description
from jepa_robot.robot.geometry import in_radians
from jepa_robot.robot.seen import FAIL, NOTE, PASS, SKIP, WARN, Finding, JointSample, Seen, Stream
from jepa_robot.robot.stream_checks import check_age, check_clock, check_rate, check_topic, where

TURN = 2 * np.pi
OUTSIDE = 0.02  # rad beyond a limit from which on the safety stage follows nothing
AT_REST = 0.02, 0.05  # rad, rad/s
PERIODS = 3  # that a watchdog must wait for
TOLERANCE = 0.95  # of a measured rate
SUDDEN = 0.01  # s: no arm is at full speed as soon as that


def check_running(contract: RobotContract, seen: Seen) -> list[Finding]:
    """One row for everything that must agree between a contract and the robot that runs."""
    rows = [
        check_topic("joint_states topic", seen.joints, seen, shares=True),
        check_rate("joint_states rate", seen.joints, contract, "joint_states"),
        check_age("joint_states clock", seen.joints, seen),
        check_clock(seen),
        *_check_joints(contract, seen),
        *check_description(contract, seen.description),
    ]
    for index in range(len(contract.cameras)):
        rows += check_camera(contract, index, seen)
    rows += check_cameras_together(contract, seen)
    rows += check_controller(contract, seen)
    images = [seen.cameras[camera.name].images for camera in contract.cameras]
    slowest = min(images, key=lambda stream: stream.rate)
    rows.append(_check_watchdog(contract, "joint_states", seen.joints))
    rows.append(_check_watchdog(contract, "action", slowest))
    rows.append(_check_safety(seen))
    return rows


def question_limits(contract: RobotContract) -> Finding:
    """Numbers that no rule forbids but that no arm has."""
    for index, joint in enumerate(contract.joints):
        time = joint.velocity / joint.acceleration
        if time < SUDDEN:
            return Finding(
                "limits plausible",
                WARN,
                f"{joint.name} would be at full speed in {1000 * time:.1f} ms",
                f"degrees? {in_radians(joint.acceleration)}/s²: see "
                + where(contract, f"joints[{index}].acceleration"),
            )
    return Finding("limits plausible", PASS, "in radians, full speed in no less than 10 ms")


def _check_joints(contract: RobotContract, seen: Seen) -> list[Finding]:
    """Names, values, limits and rest."""
    rows = ["joint names", "joint values", "joints within limits", "robot at rest"]
    if not seen.samples:
        return [Finding(name, SKIP, "nothing came") for name in rows]
    names = _check_names(contract, seen.samples)
    if names.status == FAIL:
        return [names, *(Finding(name, SKIP, "joints are missing") for name in rows[1:])]
    values = _check_values(contract, seen.samples)
    if values.status == FAIL:
        return [names, values, *(Finding(name, SKIP, "no values") for name in rows[2:])]
    positions, velocities = (
        np.array([_sorted(contract, sample, field) for sample in seen.samples])
        for field in ("positions", "velocities")
    )
    return [
        names,
        values,
        _check_limits(contract, positions),
        _check_rest(contract, positions, velocities, seen),
    ]


def _sorted(contract: RobotContract, sample: JointSample, field: str) -> np.ndarray:
    """``[J]`` in the contract's order."""
    return getattr(sample, field)[[sample.names.index(name) for name in contract.joint_names]]


def _check_names(contract: RobotContract, samples: list[JointSample]) -> Finding:
    name, ours = "joint names", contract.joint_names
    for sample in samples:
        missing = [joint for joint in ours if joint not in sample.names]
        if missing:
            return Finding(
                name,
                FAIL,
                f"joint_states lacks {', '.join(missing)}; it has {', '.join(sample.names)}",
                f"correct the names in {where(contract, 'joints')}, or let one publisher send all "
                "joints in each message (joint_state_broadcaster without joints does)",
            )
    seen = samples[-1].names
    more = [joint for joint in seen if joint not in ours]
    if tuple(joint for joint in seen if joint in ours) != ours:
        return Finding(name, NOTE, "all, in another order: they are sorted by name")
    return Finding(name, PASS, f"all {len(ours)}" + (f", and {', '.join(more)}" if more else ""))


def _check_values(contract: RobotContract, samples: list[JointSample]) -> Finding:
    name = "joint values"
    for sample in samples:
        for field, values in (("positions", sample.positions), ("velocities", sample.velocities)):
            if len(values) != len(sample.names):
                return Finding(
                    name,
                    FAIL,
                    f"joint_states has {len(values)} {field} for {len(sample.names)} joints",
                    "add a velocity state interface to the joints of the hardware component, "
                    "or let the driver fill it in",
                )
            ours = _sorted(contract, sample, field)
            if not np.isfinite(ours).all():
                joint = contract.joint_names[int(np.argmin(np.isfinite(ours)))]
                return Finding(
                    name,
                    FAIL,
                    f"{field} of {joint} are not finite",
                    "see what the driver says of this joint: is it powered and homed?",
                )
    return Finding(name, PASS, "positions and velocities, finite")


def _check_limits(contract: RobotContract, positions: np.ndarray) -> Finding:
    name, last = "joints within limits", positions[-1]
    index = int(np.argmax(np.abs(last)))
    lower, upper = contract.limits("lower"), contract.limits("upper")
    if abs(last[index]) > TURN and lower[index] >= -TURN and upper[index] <= TURN:
        return Finding(
            name,
            FAIL,
            f"{contract.joint_names[index]} is at {last[index]:.4g}: degrees? "
            f"{in_radians(float(last[index]))}",
            "let the driver publish radians (REP 103), or turn the joint back by whole turns",
        )
    beyond = np.maximum(lower - last, last - upper)
    index = int(np.argmax(beyond))
    found = (
        f"{contract.joint_names[index]} is at {last[index]:.4g} rad, within "
        f"{lower[index]:g} to {upper[index]:g}"
    )
    if beyond[index] > OUTSIDE:
        return Finding(
            name,
            FAIL,
            found.replace(", within", ", outside"),
            "move it inside by hand or with the robot's own panel, or correct "
            + where(contract, f"joints[{index}]"),
        )
    return Finding(name, PASS, f"closest to a limit: {found}")


def _check_rest(
    contract: RobotContract, positions: np.ndarray, velocities: np.ndarray, seen: Seen
) -> Finding:
    name = "robot at rest"
    moved, fastest = np.ptp(positions, axis=0), np.median(np.abs(velocities), axis=0)
    index = int(np.argmax(np.maximum(moved / AT_REST[0], fastest / AT_REST[1])))
    found = (
        f"{contract.joint_names[index]} moved by {moved[index]:.4f} rad, "
        f"at {fastest[index]:.3f} rad/s"
    )
    if moved[index] <= AT_REST[0] and fastest[index] <= AT_REST[1]:
        return Finding(name, PASS, found)
    if seen.safety is not None and seen.safety.state == "following":
        return Finding(name, NOTE, f"{found}: the agent drives it")
    todo = "wait until it stands; see who moves it; if it stands, its velocities are wrong"
    return Finding(name, FAIL, found, todo)


def _check_watchdog(contract: RobotContract, field: str, stream: Stream) -> Finding:
    name, waits = f"watchdog {field}", getattr(contract.watchdogs, field)
    if not stream.rate:
        return Finding(name, SKIP, "nothing came")
    line = where(contract, f"watchdogs.{field}")
    periods = waits * stream.rate
    found = f"{waits:g} s are {periods:.1f} periods of {stream.topic}"
    if periods < TOLERANCE * PERIODS:
        return Finding(
            name,
            FAIL,
            f"{found}, expected at least {PERIODS}: the arm would stand still now and then",
            f"set {line} to {PERIODS / stream.rate:.2g} s, or let the driver publish faster",
        )
    if stream.longest_gap > waits:
        return Finding(
            name,
            WARN,
            f"{found}, but once nothing came for {stream.longest_gap:.2f} s",
            "look for a busy computer or a lossy network: the arm would have stood still",
        )
    return Finding(name, PASS, found)


def _check_safety(seen: Seen) -> Finding:
    name = "safety stage"
    release = f"when it is clear why: ros2 service call {seen.release} std_srvs/srv/Trigger"
    if seen.safety is None:
        if seen.latch:
            return Finding(name, WARN, f"not running; a stop is latched: {seen.latch}", release)
        return Finding(name, PASS, "not running, and no stop is latched")
    state, code, text = seen.safety.state, seen.safety.code, seen.safety.text
    dry = ", in a dry run" if seen.safety.is_dry_run else ""
    if state == "stopped":
        return Finding(name, FAIL, f"stopped: {text}", release)
    if state == "holding" and code != "no_action":
        todo = "docs/reference/safety.md says what ends it"
        return Finding(name, WARN, f"holding{dry}: {text}", todo)
    return Finding(name, PASS, f"{state}{dry}: {text}")
