"""MoveIt Servo, which takes the hand's motion and chooses the joints itself.

The joints that we limit are then the ones that we imagine: Servo's own limits must be set, too. A
redundant arm's null space follows what Servo does with it.
"""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped, TwistStamped

from jepa_robot.nodes.adapters.base import Adapter
from jepa_robot.nodes.messages import to_time
from jepa_robot.robot.geometry import quaternion_from_rotation
from jepa_robot.robot.profile import JointMotion, Profile


class ServoTwist(Adapter):
    """The hand's velocity in the base frame (m/s, rad/s; Servo's ``unitless`` input is not)."""

    message_type = TwistStamped

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> TwistStamped:
        twist = self.kinematics.jacobian(motion.positions) @ motion.velocities
        message = TwistStamped()
        message.header.stamp = to_time(stamp)
        message.header.frame_id = self.contract.base_frame
        for target, values in (
            (message.twist.linear, twist[:3]),
            (message.twist.angular, twist[3:]),
        ):
            target.x, target.y, target.z = (float(v) for v in values)
        return message


class ServoPose(Adapter):
    """The hand's pose in the base frame."""

    message_type = PoseStamped

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> PoseStamped:
        position, rotation = self.kinematics.pose(motion.positions)
        message = PoseStamped()
        message.header.stamp = to_time(stamp)
        message.header.frame_id = self.contract.base_frame
        point, orientation = message.pose.position, message.pose.orientation
        point.x, point.y, point.z = (float(v) for v in position)
        orientation.x, orientation.y, orientation.z, orientation.w = quaternion_from_rotation(
            rotation
        )
        return message
