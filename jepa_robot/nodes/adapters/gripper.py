"""A gripper that takes positions: a forward_command_controller, one value a gripper joint."""

from __future__ import annotations

from std_msgs.msg import Float64MultiArray

from jepa_robot.nodes.messages import doubles, read_doubles
from jepa_robot.robot.contract import Gripper

message_type = Float64MultiArray


def message(gripper: Gripper, position: float) -> Float64MultiArray:
    """Brings all the gripper's joints to a position (m)."""
    return Float64MultiArray(data=doubles([position] * len(gripper.joints)))


def read(message: Float64MultiArray, gripper: Gripper) -> float:
    """The commanded position (m).

    Raises:
        InvalidMessage: another size, or not finite.
    """
    return float(read_doubles(message, gripper.topic, len(gripper.joints))[0])
