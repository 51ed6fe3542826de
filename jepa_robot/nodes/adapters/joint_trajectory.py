"""ros2_control's joint_trajectory_controller, streamed: each message replaces the one before.

The first point is one period ahead and the others lead to rest along the checked braking path: if
nothing comes after a message, the controller itself brakes the arm.
"""

from __future__ import annotations

import numpy as np
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from jepa_robot.nodes.adapters.base import Adapter, JointCommand
from jepa_robot.nodes.messages import InvalidMessage, doubles, to_duration
from jepa_robot.robot.profile import JointMotion, Profile

BRAKING_POINTS = 3


class JointTrajectoryStream(Adapter):
    """Positions and velocities; stamp 0, since a controller takes a past stamp for a late start."""

    message_type = JointTrajectory

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> JointTrajectory:
        period = 1 / self.contract.rates.safety
        points = [(period, motion)]
        if stop.duration > 0:
            for share in np.arange(1, BRAKING_POINTS + 1) / BRAKING_POINTS:
                time = share * stop.duration
                points.append((period + time, stop.at(time)))
        message = JointTrajectory(joint_names=list(self.contract.joint_names))
        message.points = [_point(*point) for point in points]
        return message

    def read(self, message: JointTrajectory) -> JointCommand:
        """The first point; a simulated controller that gets no more stands there."""
        names = self.contract.joint_names
        if sorted(message.joint_names) != sorted(names) or not message.points:
            raise InvalidMessage(
                f"command is for {list(message.joint_names)} with {len(message.points)} points, "
                f"expected {list(names)} with at least 1"
            )
        times = [p.time_from_start.sec + p.time_from_start.nanosec / 1e9 for p in message.points]
        if times[0] <= 0 or not all(np.diff(times) > 0):
            raise InvalidMessage(f"command has points at {times} s, expected increasing times")
        values = np.array(message.points[0].positions, float)
        if values.shape != (len(names),) or not np.isfinite(values).all():
            raise InvalidMessage(
                f"command is {values.tolist()}, expected {len(names)} finite numbers"
            )
        order = [message.joint_names.index(name) for name in names]
        return JointCommand(positions=values[order])


def _point(time: float, motion: JointMotion) -> JointTrajectoryPoint:
    point = JointTrajectoryPoint()
    point.positions, point.velocities = doubles(motion.positions), doubles(motion.velocities)
    point.time_from_start = to_duration(round(time * 1e9))
    return point
