"""Rows about what takes our commands: the topic, the controller's joints, type and timeout."""

from __future__ import annotations

from jepa_robot.robot.contract import COASTING_CONTROLLERS, RobotContract
from jepa_robot.robot.seen import FAIL, PASS, SKIP, WARN, Endpoint, Finding, Seen
from jepa_robot.robot.stream_checks import check_ends, others, where

FORWARD = {"forward_position": "position", "forward_velocity": "velocity"}
ANSWERS_IN_PARAMETERS = ("forward_position", "forward_velocity", "joint_trajectory")
SERVO_TIMEOUT = "incoming_command_timeout"


def check_controller(contract: RobotContract, seen: Seen) -> list[Finding]:
    """The command's and the gripper's topics, and the controller's parameters."""
    topic = (seen.command_topic, seen.command_type)
    findings = [_check_takers("command topic", contract, "controller", *topic, seen.commands, seen)]
    if contract.gripper is not None:
        topic = (seen.gripper_topic, seen.gripper_type)
        findings.append(
            _check_takers("gripper topic", contract, "gripper", *topic, seen.grippers, seen)
        )
    findings.append(_check_writers(seen))
    if seen.parameters is None:
        return [*findings, _unknown(contract, seen), _check_timeout(contract, {})]
    return [
        *findings,
        _check_joints(contract, seen.controller, seen.parameters),
        _check_type(contract, seen.controller, seen.parameters),
        _check_timeout(contract, seen.parameters),
    ]


def _check_takers(
    name: str,
    contract: RobotContract,
    section: str,
    topic: str,
    wanted: str,
    ends: list[Endpoint],
    seen: Seen,
) -> Finding:
    if not ends:
        return Finding(
            name,
            FAIL,
            f"nobody listens on {topic}",
            "spawn the controller (ros2 control list_controllers says which are), or correct "
            f"{where(contract, f'{section}.topic')}" + others(topic, wanted, seen),
        )
    found = check_ends(name, topic, wanted, ends, "taken")
    return found or Finding(name, PASS, f"{topic} to {', '.join(end.node for end in ends)}")


def _check_writers(seen: Seen) -> Finding:
    name = "no other commands"
    for topic, nodes in seen.writers.items():
        if nodes:
            return Finding(
                name,
                FAIL,
                f"{', '.join(nodes)} publishes on {topic}, which is ours alone",
                "stop it: two sources of commands fight over the arm",
            )
    return Finding(name, PASS, f"nobody else publishes on {', '.join(seen.writers)}")


def _unknown(contract: RobotContract, seen: Seen) -> Finding:
    """The controller tells nothing about itself."""
    name, line = "controller", where(contract, "controller.node")
    order = ", ".join(contract.joint_names)
    if not seen.controller:
        return Finding(
            name,
            WARN,
            "the contract names no controller node, so its type and its joints' order are unknown",
            f"name it in {line}; or see that its joints are, in this order: {order}",
        )
    found = f"{seen.controller} does not tell its parameters"
    if "controller.node" in contract.lines:
        return Finding(name, FAIL, found, f"spawn the controller, or correct {line}")
    return Finding(
        name, WARN, found, f"name its node in {line}; or see that its joints are {order}"
    )


def _check_joints(contract: RobotContract, node: str, parameters: dict) -> Finding:
    name, ours = "controller joints", list(contract.joint_names)
    kind = contract.controller.type
    if kind not in ANSWERS_IN_PARAMETERS:
        return Finding(name, SKIP, f"{kind} takes motions of the hand")
    theirs = list(parameters.get("command_joints") or parameters.get("joints") or [])
    if not theirs:
        return Finding(
            name,
            WARN,
            f"{node} has no parameter joints",
            f"see in its configuration that its joints are, in this order: {', '.join(ours)}",
        )
    if set(theirs) != set(ours):
        lacks, more = [n for n in ours if n not in theirs], [n for n in theirs if n not in ours]
        found = "; ".join(
            text
            for text, names in (
                (f"{node} lacks {', '.join(lacks)}", lacks),
                (f"{node} also has {', '.join(more)}", more),
            )
            if names
        )
        todo = f"set its joints, or correct {where(contract, 'joints')}"
        return Finding(name, FAIL, found, todo)
    if theirs != ours and kind in FORWARD:
        index = next(
            i for i, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]
        )
        return Finding(
            name,
            FAIL,
            f"the order differs: value {index + 1} is for {theirs[index]} at {node}, for "
            f"{ours[index]} in the contract. Commands carry no names: the wrong joints would move",
            f"set joints of {node} to {', '.join(ours)}, or reorder "
            f"{where(contract, f'joints[{index}]')} (and home; a bundle is for one order)",
        )
    order = "in this order" if kind in FORWARD else "by name"
    return Finding(name, PASS, f"{len(ours)}, {order}, at {node}")


def _check_type(contract: RobotContract, node: str, parameters: dict) -> Finding:
    name, kind = "controller type", contract.controller.type
    what, fits = _what_it_is(kind, parameters)
    if fits is None:
        return Finding(
            name,
            WARN,
            f"{node} does not tell what it is",
            f"see with ros2 control list_controllers -v that it is a {kind} one",
        )
    if not fits:
        return Finding(
            name,
            FAIL,
            f"{node} is {what}: a controller of another type than the contract's, {kind}",
            f"spawn the right controller, or correct {where(contract, 'controller.type')}",
        )
    return Finding(name, PASS, f"{node} is {what}")


def _what_it_is(kind: str, parameters: dict) -> tuple[str, bool | None]:
    """What the parameters tell, in words, and whether it is of this kind; None for no answer."""
    if interfaces := parameters.get("command_interfaces"):
        fits = kind == "joint_trajectory" and not set(interfaces) <= {"effort"}
        return f"a joint_trajectory_controller on {', '.join(interfaces)}", fits
    if interface := parameters.get("interface_name"):
        return f"a forward_command_controller on {interface}", FORWARD.get(kind) == interface
    if SERVO_TIMEOUT in parameters:
        what, units = "MoveIt Servo", parameters.get("command_in_type")
        if kind == "servo_twist" and units:
            return f"{what}, taking {units}", units == "speed_units"
        return what, kind.startswith("servo")
    return "", None


def _check_timeout(contract: RobotContract, parameters: dict) -> Finding:
    """Whether the arm stops when we ourselves are gone."""
    name, kind, wanted = "controller timeout", contract.controller.type, contract.controller.timeout
    if kind not in COASTING_CONTROLLERS:
        keeps = "brakes along our last trajectory" if kind == "joint_trajectory" else "keeps still"
        return Finding(name, PASS, f"{kind}: without commands the arm {keeps}")
    line = where(contract, "controller.timeout")
    found = {key: value for key, value in parameters.items() if "timeout" in key}
    key = SERVO_TIMEOUT if SERVO_TIMEOUT in found else next(iter(found), None)
    if key is None:
        return Finding(
            name,
            WARN,
            f"{kind} goes on moving without commands, and the controller shows no timeout",
            f"find out what stops it within {line}, {wanted:g} s (the hardware's own watchdog), "
            "and try it at lowest speed, a hand on the emergency stop: kill the safety process",
        )
    if not isinstance(found[key], (int, float)) or not 0 < found[key] <= wanted + 1e-9:
        return Finding(
            name,
            FAIL,
            f"{key} is {found[key]} s, the contract says {wanted:g} s",
            f"set {key} to at most {wanted:g} and above 0, or correct {line}",
        )
    return Finding(name, PASS, f"{key} is {found[key]:g} s, at most {wanted:g}")
