"""ros2_control's forward_command_controller on position interfaces."""

from __future__ import annotations

import numpy as np
from std_msgs.msg import Float64MultiArray

from jepa_robot.nodes.adapters.base import Adapter, JointCommand
from jepa_robot.nodes.messages import doubles, read_doubles
from jepa_robot.robot.profile import JointMotion, Profile


class ForwardPosition(Adapter):
    """Joint positions (rad) in the contract's order; the controller keeps the last ones."""

    message_type = Float64MultiArray

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> Float64MultiArray:
        return Float64MultiArray(data=doubles(motion.positions))

    def read(self, message: Float64MultiArray) -> JointCommand:
        return JointCommand(positions=read_doubles(message, "command", len(self.contract.joints)))
