"""From normalised actions to joint positions that respect the contract's limits. No ROS.

The one way to a joint command: the safety node, in-process evaluation and data collection all step
the same limiter. It keeps the last commanded positions and integrates velocities from them.
"""

from __future__ import annotations

import numpy as np
import pinocchio

from jepa_robot.robot.contract import TWIST_CHANNELS, RobotContract
from jepa_robot.robot.kinematics import Kinematics

DAMPING = 0.03  # of the least squares, in m: bounds joint velocities near singularities
ORIENTATION_GAIN = 4.0  # 1/s
POSTURE_GAIN = 1.0  # 1/s
WORKSPACE_TIME = 0.2  # s: the workspace's faces are approached exponentially
BRAKING = 0.8  # of the acceleration limit is counted on to stop before a joint limit


class SafetyLimiter:
    """Turns actions into joint positions within position, velocity and acceleration limits.

    Args:
        contract: the robot.
        kinematics: built from the same contract; made here if not given.
    """

    def __init__(self, contract: RobotContract, kinematics: Kinematics | None = None) -> None:
        self.contract = contract
        self.kinematics = kinematics or Kinematics(contract)
        self._lower, self._upper = contract.limits("lower"), contract.limits("upper")
        self._velocity_limit = contract.limits("velocity")
        self._acceleration_limit = contract.limits("acceleration")
        self._home = np.array(contract.home)
        names = [channel.name for channel in contract.actions.channels]
        self._is_twist = contract.actions.kind == "ee_twist"
        order = TWIST_CHANNELS if self._is_twist else contract.joint_names
        self._channels = np.array([order.index(name) for name in names])
        self._keeps_orientation = self._is_twist and not any(n.startswith("w") for n in names)
        self._orientation = self.kinematics.pose(self._home)[1]
        self._box_lower, self._box_upper = (np.array(corner) for corner in contract.workspace)
        self.positions: np.ndarray | None = None
        self.velocities = np.zeros(len(contract.joints))

    def reset(self, positions: np.ndarray) -> None:
        """Hold at measured joint positions ``[J]`` (rad), at rest."""
        self.positions = np.clip(np.asarray(positions, float), self._lower, self._upper)
        self.velocities = np.zeros_like(self.positions)

    def step(self, period: float, action: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
        """Advance the command by ``period`` s.

        Args:
            period: time since the last step in s; 0 leaves the command as it is.
            action: ``[A]``, normalised to [-1, 1]; ``None`` slows down to a hold.

        Returns:
            Joint positions ``[J]`` (rad), and the names of the limits that acted.
        """
        if self.positions is None:
            raise RuntimeError("the limiter was stepped before reset() gave it joint positions")
        if period <= 0:
            return self.positions, []
        active: list[str] = []
        if action is None:
            wanted = np.zeros_like(self.positions)
        else:
            wanted = self._joint_velocities(np.asarray(action, float), active)
        wanted = self._limit_velocity(wanted, active)
        change = wanted - self.velocities
        ratio = np.max(np.abs(change) / (self._acceleration_limit * period))
        if ratio > 1:
            change /= ratio
            active.append("acceleration")
        velocities = self.velocities + change
        braking = self._braking_velocity(period)
        limited = np.clip(velocities, -braking[0], braking[1])
        if not np.array_equal(limited, velocities):
            active.append("position")
        self.velocities = limited
        self.positions = np.clip(self.positions + limited * period, self._lower, self._upper)
        return self.positions, active

    def _joint_velocities(self, action: np.ndarray, active: list[str]) -> np.ndarray:
        clipped = np.clip(action, -1, 1)
        if not np.array_equal(clipped, action):
            active.append("action")
        if not self._is_twist:
            velocities = np.zeros_like(self.positions)
            velocities[self._channels] = clipped * self.contract.actions.scale
            return velocities
        twist = np.zeros(6)
        twist[self._channels] = clipped * self.contract.actions.scale
        position, rotation = self.kinematics.pose(self.positions)
        linear = np.clip(
            twist[:3],
            np.minimum((self._box_lower - position) / WORKSPACE_TIME, 0),
            np.maximum((self._box_upper - position) / WORKSPACE_TIME, 0),
        )
        if not np.array_equal(linear, twist[:3]):
            active.append("workspace")
        twist[:3] = linear
        if self._keeps_orientation:
            twist[3:] = ORIENTATION_GAIN * pinocchio.log3(self._orientation @ rotation.T)
        jacobian = self.kinematics.jacobian(self.positions)
        # Damped least squares (Wampler 1986), with the posture drawn home in the null space.
        gram = jacobian @ jacobian.T + DAMPING**2 * np.eye(6)
        posture = POSTURE_GAIN * (self._home - self.positions)
        return posture + jacobian.T @ np.linalg.solve(gram, twist - jacobian @ posture)

    def _limit_velocity(self, velocities: np.ndarray, active: list[str]) -> np.ndarray:
        ratio = np.max(np.abs(velocities) / self._velocity_limit)
        if ratio <= 1:
            return velocities
        active.append("velocity")
        return velocities / ratio

    def _braking_velocity(self, period: float) -> tuple[np.ndarray, np.ndarray]:
        """The speeds towards the lower and upper limits from which each joint can still stop."""
        below = np.maximum(self.positions - self._lower, 0)
        above = np.maximum(self._upper - self.positions, 0)
        deceleration = BRAKING * self._acceleration_limit
        step = deceleration * period
        return tuple(
            np.minimum(np.sqrt(2 * deceleration * room + step**2 / 4) - step / 2, room / period)
            for room in (below, above)
        )
