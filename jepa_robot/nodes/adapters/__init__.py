"""How a safe motion becomes a command, one file a kind of controller.

An adapter has the controller's ``message_type`` and makes its messages; one whose controller the
simulators play also reads them back.
"""

from __future__ import annotations

from jepa_robot.nodes.adapters.base import Adapter
from jepa_robot.nodes.adapters.forward_position import ForwardPosition
from jepa_robot.nodes.adapters.forward_velocity import ForwardVelocity
from jepa_robot.nodes.adapters.joint_trajectory import JointTrajectoryStream
from jepa_robot.nodes.adapters.servo import ServoPose, ServoTwist
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics

ADAPTERS: dict[str, type[Adapter]] = {
    "forward_position": ForwardPosition,
    "forward_velocity": ForwardVelocity,
    "joint_trajectory": JointTrajectoryStream,
    "servo_twist": ServoTwist,
    "servo_pose": ServoPose,
}


def adapter(contract: RobotContract, kinematics: Kinematics | None = None) -> Adapter:
    """The adapter for a contract's controller.

    Args:
        contract: the robot.
        kinematics: of the same contract; made where an adapter needs it.
    """
    return ADAPTERS[contract.controller.type](contract, kinematics)
