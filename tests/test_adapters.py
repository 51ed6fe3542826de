"""Adapters: what each kind of controller is sent, and that the arm goes where it was meant to."""

import dataclasses

import numpy as np
import pytest

from jepa_robot.nodes.adapters import adapter, gripper
from jepa_robot.nodes.messages import InvalidMessage
from jepa_robot.robot.contract import Gripper
from jepa_robot.robot.geometry import rotation_from_quaternion
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.safety import FOLLOWING, Instant, SafetyStage

PERIOD = 0.004
TICK = 4_000_000
ACTION = np.array([[0.2, 0.7, -0.3]])


def with_controller(contract, kind):
    controller = dataclasses.replace(contract.controller, type=kind, timeout=0.1)
    return dataclasses.replace(contract, controller=controller)


def drive(contract, robot, ticks=250):
    """Run the stage against ``robot(message) -> joints``; the stage, adapter and messages."""
    stage = SafetyStage(contract)
    made = adapter(contract, stage.limiter.kinematics)
    now, joints, sent = 10**9, np.array(contract.home), []
    for _ in range(3):  # joint states that agree
        now += TICK
        stage.observe(joints, now, Instant(now, now))
    for tick in range(ticks):
        now += TICK
        at = Instant(now, now)
        if tick % 2 == 0:
            stage.observe(joints, now, at)
        if tick % 10 == 1:
            stage.follow("action", ACTION, now, at)
        output = stage.tick(at)
        message = made.message(output.motion, output.stop, stage.measured_now(at), now)
        sent.append(message)
        joints = robot(message)
    assert output.state == FOLLOWING, output.reason
    return stage, made, sent, joints


def test_forward_position_commands_the_positions(contract):
    robot = with_controller(contract, "forward_position")
    made = adapter(robot)
    stage, _, _, joints = drive(robot, lambda m: made.read(m).positions)
    assert np.array_equal(joints, stage.limiter.positions)


def test_forward_velocity_keeps_the_position_although_the_robot_drifts(contract):
    robot = with_controller(contract, "forward_velocity")
    made, joints = adapter(robot), np.array(contract.home)

    def drifting(message):
        velocities = made.read(message).velocities
        assert (np.abs(velocities) <= robot.limits("velocity")).all()
        joints[:] += PERIOD * (0.97 * velocities + 0.01)
        return joints.copy()

    stage, _, _, joints_now = drive(robot, drifting)
    assert np.abs(joints_now - stage.limiter.positions).max() < 0.02


def test_forward_velocity_without_joint_states_does_not_correct(contract):
    robot = with_controller(contract, "forward_velocity")
    stage, made, _, _ = drive(robot, lambda m: np.array(contract.home), 3)
    motion, stop = stage.limiter.motion, stage.limiter.way_to_rest
    assert list(made.message(motion, stop, None, 0).data) == list(motion.velocities)


def test_a_trajectory_begins_one_period_ahead_and_ends_at_rest(contract):
    robot = with_controller(contract, "joint_trajectory")
    made = adapter(robot)
    _, _, sent, _ = drive(robot, lambda m: made.read(m).positions)
    moving = 0
    for message in sent:
        assert (message.header.stamp.sec, message.header.stamp.nanosec) == (0, 0)
        times = [p.time_from_start.sec + p.time_from_start.nanosec / 1e9 for p in message.points]
        assert times[0] == pytest.approx(PERIOD)
        assert (np.diff(times) > 0).all()
        assert not np.any(message.points[-1].velocities)
        moving += len(message.points) > 1
    assert moving > 100


@pytest.mark.parametrize("kind", ["servo_twist", "servo_pose"])
def test_the_hand_follows_through_a_servo_that_chooses_its_own_joints(contract, kind):
    robot = with_controller(contract, kind)
    kinematics, joints = Kinematics(robot), np.array(contract.home)

    def servo(message):
        """Like MoveIt Servo: pseudo-inverse of the hand's motion, no posture of its own."""
        assert message.header.frame_id == robot.base_frame
        jacobian = kinematics.jacobian(joints)
        if kind == "servo_twist":
            linear, angular = message.twist.linear, message.twist.angular
            twist = [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]
            step = PERIOD * np.array(twist)
        else:
            position, rotation = kinematics.pose(joints)
            point, q = message.pose.position, message.pose.orientation
            wanted = rotation_from_quaternion((q.x, q.y, q.z, q.w))
            turn = wanted @ rotation.T
            axis = np.array(
                [turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]
            )
            step = np.concatenate([[point.x, point.y, point.z] - position, axis / 2])
        joints[:] += np.linalg.pinv(jacobian) @ step
        return joints.copy()

    start = kinematics.pose(joints)[0]
    stage, _, _, joints_now = drive(robot, servo)
    hand, meant = kinematics.pose(joints_now)[0], kinematics.pose(stage.limiter.positions)[0]
    assert np.linalg.norm(hand - meant) < 0.01
    assert np.linalg.norm(hand - start) > 0.1
    assert np.abs(joints_now - stage.limiter.positions).max() < 0.1  # the null space goes along


def test_a_command_that_is_no_command_is_refused_by_the_simulated_controller(contract):
    made = adapter(with_controller(contract, "joint_trajectory"))
    _, _, sent, _ = drive(with_controller(contract, "joint_trajectory"), lambda m: contract.home, 3)
    message = sent[-1]
    message.points[0].time_from_start.nanosec = 0
    with pytest.raises(InvalidMessage, match="expected increasing times"):
        made.read(message)
    message.joint_names[0] = "elbow"
    with pytest.raises(InvalidMessage, match=r"command is for \['elbow'"):
        made.read(message)
    with pytest.raises(ValueError, match=r"controller.type is 'servo_pose'"):
        adapter(with_controller(contract, "servo_pose")).read(message)


def test_all_joints_of_a_gripper_are_sent_to_its_position():
    fingers = Gripper(("left", "right"), "gripper", 0.0, 0.04, 0.1)
    message = gripper.message(fingers, 0.03)
    assert list(message.data) == [0.03, 0.03]
    assert gripper.read(message, fingers) == 0.03
