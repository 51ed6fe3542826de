"""`jepa-robot check` on a robot in a process of its own: the right one passes, others do not."""

import json
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64MultiArray, String

from jepa_robot.nodes.check import observe
from jepa_robot.nodes.messages import COMMAND, DATA
from jepa_robot.robot.checks import check_running, question_limits
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.seen import Endpoint, SafetySeen
from tests.tiny_bundle import build
from tests.wrong_robots import NODE, fake_robot, write_contract

DOMAIN = "101"  # the others are below


@pytest.fixture(scope="module")
def robot(tmp_path_factory):
    """The file of a contract, and its robot running."""
    path = write_contract(tmp_path_factory.mktemp("robot") / "robot.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROS_DOMAIN_ID", DOMAIN)
        with fake_robot(path):
            yield path


@pytest.fixture(scope="module")
def seen(robot):
    """What is seen of the robot that runs."""
    return observe(load_contract(robot), seconds=15.0)


def rows(findings):
    return {finding.name: finding for finding in findings}


def test_a_robot_as_its_contract_says_passes_every_row(robot, tmp_path):
    bundle = build(tmp_path / "tiny", load_contract(robot))
    file = tmp_path / "check.json"
    command = [sys.executable, "-m", "jepa_robot.cli.main", "check", "--robot", str(robot)]
    command += ["--bundle", str(bundle), "--json", str(file), "--timeout", "15"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Nothing failed." in result.stdout
    result = json.loads(file.read_text())
    assert result["passed"]
    statuses = {finding["name"]: finding["status"] for finding in result["findings"]}
    unsure = {name for name, status in statuses.items() if status not in ("pass", "note")}
    assert unsure <= {"camera_side: view", "camera_front: view"}, statuses  # a bundle without views
    assert {"contract", "bundle", "joint_states rate", "command topic", "controller joints"} <= set(
        statuses
    )


# The row that fails, a change of the contract, and the words in what was found and what to do.
# Places that are {} are those of the changed text in the contract.
CONTRACTS = {
    "joint_states rate": (
        ("joint_states: 20", "joint_states: 90"),
        "the contract says 90",
        "make the driver publish at 90 Hz, or correct {} (rates.joint_states)",
    ),
    "camera_side: image rate": (
        ("{image: 10", "{image: 5"),
        "the contract says 5",
        "make the camera publish at 5 Hz, or correct {} (rates.image)",
    ),
    "camera_side: size and encoding": (
        ("encoding: rgb8", "encoding: bgr8"),
        "images are 64x64 rgb8, the contract says 64x64 bgr8",
        "(cameras[0])",
    ),
    "camera_side: intrinsics": (
        ("fx: 88.0", "fx: 95.0"),
        "fx is 88 in camera_info, 95 in the contract",
        "correct {} (cameras[0].fx)",
    ),
    "joint names": (
        ("panda_joint7", "panda_joint8"),
        "joint_states lacks panda_joint8; it has panda_joint1, panda_joint2",
        "(joints)",
    ),
    "joints within limits": (
        ("lower: 0.0, upper: 3.7", "lower: 0.0, upper: 1.8"),
        "panda_joint6 is at 1.9 rad, outside 0 to 1.8",
        "or correct {} (joints[5])",
    ),
    "robot_description limits": (
        ("upper: 1.7", "upper: 1.9"),
        "the running robot's upper of panda_joint2 is 1.8326, tighter than the contract's 1.9",
        "set {} (joints[1].upper) to 1.8326 or inside",
    ),
    "controller joints": (
        ("name: panda_joint2", "name: panda_joint9"),
        f"/{NODE} lacks panda_joint9; /{NODE} also has panda_joint2",
        "(joints)",
    ),
    "controller type": (
        ("type: forward_position ", "type: joint_trajectory "),
        f"/{NODE} is a forward_command_controller on position: a controller of another type than "
        "the contract's, joint_trajectory",
        "spawn the right controller, or correct {} (controller.type)",
    ),
    "watchdog joint_states": (
        ("{joint_states: 1.0", "{joint_states: 0.1"),
        "0.1 s are ",
        "set {} (watchdogs.joint_states) to ",
    ),
    "watchdog action": (
        ("action: 2.0}", "action: 0.2}"),
        "expected at least 3: the arm would stand still now and then",
        "set {} (watchdogs.action) to ",  # three of the periods that it measured
    ),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_that_says_otherwise_fails_by_its_line(name, seen, tmp_path):
    (old, new), found, todo = CONTRACTS[name]
    path = tmp_path / "robot.yaml"
    # Another home than the one where the robot is, so that its limits may exclude where it is.
    text = write_contract(path, ("-2.3, 0.0, 1.9", "-2.3, 0.0, 1.5")).read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    line = next(n for n, one in enumerate(path.read_text().splitlines(), 1) if new in one)
    finding = rows(check_running(load_contract(path), seen))[name]
    assert finding.status == "fail", finding
    assert found in finding.found
    assert todo.format(f"{path}:{line}") in finding.todo


def test_joints_in_another_order_fail_where_commands_have_no_names(robot, seen):
    contract = load_contract(robot)
    names = list(contract.joint_names)
    names[0], names[1] = names[1], names[0]
    other = replace(seen, parameters={"joints": names, "interface_name": "position"})
    row = rows(check_running(contract, other))["controller joints"]
    assert row.status == "fail"
    assert "value 1 is for panda_joint2" in row.found
    assert "Commands carry no names" in row.found
    trajectories = replace(
        contract, controller=replace(contract.controller, type="joint_trajectory")
    )
    other.parameters = {"joints": names, "command_interfaces": ["position"]}
    findings = rows(check_running(trajectories, other))
    assert findings["controller joints"].status == "pass"
    assert findings["controller type"].status == "pass"


@pytest.mark.parametrize(
    ("kind", "parameters", "status", "says"),
    [
        ("forward_velocity", {"watchdog_timeout": 0.05}, "pass", "watchdog_timeout is 0.05 s"),
        ("forward_velocity", {"watchdog_timeout": 0.5}, "fail", "the contract says 0.1 s"),
        ("forward_velocity", {}, "warn", "goes on moving without commands"),
        ("servo_twist", {"incoming_command_timeout": 0.0}, "fail", "incoming_command_timeout is"),
    ],
)
def test_a_controller_that_coasts_must_stop_by_itself(robot, seen, kind, parameters, status, says):
    contract = load_contract(robot)
    contract = replace(contract, controller=replace(contract.controller, type=kind, timeout=0.1))
    row = rows(check_running(contract, replace(seen, parameters=parameters)))["controller timeout"]
    assert row.status == status
    assert says in row.found


def test_another_arm_than_the_contracts_is_told_by_its_description(robot, seen):
    contract = load_contract(robot)
    lines = seen.description.splitlines()
    moved = [line.replace('xyz="0 0 0.105"', 'xyz="0 0 0.155"') for line in lines]
    assert moved != lines
    row = rows(check_running(contract, replace(seen, description="\n".join(moved))))
    assert row["robot_description geometry"].status == "fail"
    assert "panda_grasptarget_hand is 0.0500 m" in row["robot_description geometry"].found
    row = rows(check_running(contract, replace(seen, description="")))["robot_description"]
    assert row.status == "warn"
    assert "robot_state_publisher" in row.todo


def test_degrees_are_questioned(robot, seen):
    contract = load_contract(robot)
    degrees = [replace(s, positions=np.degrees(s.positions)) for s in seen.samples]
    row = rows(check_running(contract, replace(seen, samples=degrees)))["joints within limits"]
    assert row.status == "fail"
    assert "degrees? -13" in row.found
    joints = (replace(contract.joints[0], acceleration=430.0), *contract.joints[1:])
    row = question_limits(replace(contract, joints=joints))
    assert row.status == "warn"
    assert "degrees? 430° would be 7.505 rad" in row.todo


def test_a_stopped_safety_stage_and_a_latched_stop_are_told(robot, seen):
    contract = load_contract(robot)
    stopped = SafetySeen("stopped", "tracking", False, "tracking: panda_joint3 is 0.5 rad off")
    row = rows(check_running(contract, replace(seen, safety=stopped)))["safety stage"]
    assert (row.status, row.found) == ("fail", f"stopped: {stopped.text}")
    assert "safety/release" in row.todo
    row = rows(check_running(contract, replace(seen, latch="stop_requested")))["safety stage"]
    assert row.status == "warn"
    assert "stop_requested" in row.found


def test_clocks_that_differ_are_told_with_what_to_do(robot, seen):
    contract = load_contract(robot)
    late = replace(seen.joints, ages=[age + 80_000_000 for age in seen.joints.ages])
    row = rows(check_running(contract, replace(seen, joints=late)))["joint_states clock"]
    assert row.status == "fail"
    assert "expected at most 50" in row.found
    assert "chrony" in row.todo
    simulated = replace(seen.joints, stamps=[5_000_000_000], ages=[10**18])
    row = rows(check_running(contract, replace(seen, joints=simulated)))["joint_states clock"]
    assert "--use-sim-time" in row.todo


def test_a_picture_unlike_the_training_pictures_fails(robot, seen):
    contract = load_contract(robot)
    for distance, status in ((0.4, "pass"), (1.7, "fail"), (None, "skip")):
        cameras = {n: replace(camera, distance=distance) for n, camera in seen.cameras.items()}
        findings = rows(check_running(contract, replace(seen, cameras=cameras)))
        assert findings["camera_side: view"].status == status


def test_subscriptions_that_cannot_match_ours_are_named(robot, seen):
    contract = load_contract(robot)
    asks = Endpoint(
        "/arm", seen.command_type, "volatile is published, transient local is asked for"
    )
    row = rows(check_running(contract, replace(seen, commands=[asks])))["command topic"]
    assert row.status == "fail"
    assert "set /arm's QoS" in row.todo
    other = Endpoint("/arm", "trajectory_msgs/msg/JointTrajectory")
    row = rows(check_running(contract, replace(seen, commands=[other])))["command topic"]
    assert "taken as trajectory_msgs/msg/JointTrajectory by /arm" in row.found


@pytest.fixture
def stranger(robot):
    """A node of somebody else, in this process: it publishes commands and injects faults."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("stranger", context=context)
    faults = node.create_publisher(String, "fake_robot/fault", DATA)
    node.create_publisher(Float64MultiArray, f"{NODE}/commands", COMMAND)

    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)

    def inject(*kinds):
        deadline = time.monotonic() + 15
        while not faults.get_subscription_count():
            assert time.monotonic() < deadline, "the robot takes no faults"
            executor.spin_once(timeout_sec=0.05)
        for kind in kinds:
            faults.publish(String(data=json.dumps({"kind": kind, "for": 4})))

    yield inject
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_broken_robot_fails_in_the_rows_that_say_why(robot, stranger, tmp_path):
    wrong = load_contract(write_contract(tmp_path / "robot.yaml", ("camera_front", "camera_top")))
    stranger("camera_black", "joints_nan")
    findings = rows(check_running(wrong, observe(wrong, seconds=3.5)))
    for name, says in {
        "camera_side: picture": "black",
        "joint values": "positions of panda_joint3 are not finite",
        "camera_top: image topic": "nobody publishes /camera_top/image",
        "no other commands": f"/stranger publishes on /{NODE}/commands, which is ours alone",
    }.items():
        assert findings[name].status == "fail"
        assert says in findings[name].found
    assert "/camera_front/image" in findings["camera_top: image topic"].todo


def test_a_controller_that_is_not_there_is_told(robot, tmp_path):
    changes = [(f"topic: {NODE}/commands", "topic: other/commands\n  node: other")]
    wrong = load_contract(write_contract(tmp_path / "robot.yaml", *changes))
    findings = rows(check_running(wrong, observe(wrong, seconds=3.0)))
    assert findings["command topic"].found == "nobody listens on /other/commands"
    assert f"of this type are there: /{NODE}/commands" in findings["command topic"].todo
    assert findings["controller"].status == "fail"
    assert "/other does not tell its parameters" in findings["controller"].found
