"""ros2_control's forward_command_controller on velocity interfaces.

It goes on moving when nothing comes, so the contract must name the timeout of its own that stops
the robot when the safety stage itself dies.
"""

from __future__ import annotations

import numpy as np
from std_msgs.msg import Float64MultiArray

from jepa_robot.nodes.adapters.base import Adapter, JointCommand
from jepa_robot.nodes.messages import doubles, read_doubles
from jepa_robot.robot.profile import JointMotion, Profile
from jepa_robot.robot.tracking import tracking_velocities


class ForwardVelocity(Adapter):
    """Joint velocities (rad/s) in the contract's order, with the position error fed back."""

    message_type = Float64MultiArray
    heeds_measured = True

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> Float64MultiArray:
        velocities = tracking_velocities(self.contract, motion, measured)
        return Float64MultiArray(data=doubles(velocities))

    def read(self, message: Float64MultiArray) -> JointCommand:
        return JointCommand(velocities=read_doubles(message, "command", len(self.contract.joints)))
