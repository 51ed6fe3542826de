"""Joint motion within velocity, acceleration and jerk limits, by Ruckig (Berscheid 2021, RSS)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import ruckig

from jepa_robot.robot.contract import RobotContract


@dataclass(frozen=True)
class JointMotion:
    """Commanded positions (rad), velocities (rad/s) and accelerations (rad/s^2), each ``[J]``."""

    positions: np.ndarray
    velocities: np.ndarray
    accelerations: np.ndarray

    @classmethod
    def at_rest(cls, positions: np.ndarray) -> JointMotion:
        zeros = np.zeros_like(positions)
        return cls(positions, zeros, zeros)

    @property
    def is_at_rest(self) -> bool:
        return not self.velocities.any() and not self.accelerations.any()


class Profile:
    """A motion from one state to wanted velocities, as fast as the limits allow."""

    def __init__(
        self, trajectory: ruckig.Trajectory, velocities: np.ndarray, begin: float = 0.0
    ) -> None:
        self._trajectory, self._velocities, self._begin = trajectory, velocities, begin
        self.duration = max(trajectory.duration - begin, 0.0)  # s

    def at(self, time: float) -> JointMotion:
        """The motion ``time`` s after the start; from the end on at the wanted velocities."""
        position, velocity, acceleration = self._trajectory.at_time(self._begin + time)
        if time >= self.duration:  # exactly, so that a stop ends at rest
            velocity, acceleration = self._velocities, np.zeros(len(position))
        return JointMotion(np.array(position), np.array(velocity), np.array(acceleration))

    def after(self, time: float) -> Profile:
        """What is left of it after ``time`` s."""
        return Profile(self._trajectory, self._velocities, self._begin + time)


class ProfileGenerator:
    """Makes profiles within a contract's acceleration and jerk limits."""

    def __init__(self, contract: RobotContract) -> None:
        joints = len(contract.joints)
        self._otg = ruckig.Ruckig(joints)
        self._input = ruckig.InputParameter(joints)
        self._input.control_interface = ruckig.ControlInterface.Velocity
        self._input.max_velocity = contract.limits("velocity")
        self._input.max_acceleration = contract.limits("acceleration")
        self._input.max_jerk = contract.limits("jerk")
        self._zeros = np.zeros(joints)

    def towards(self, motion: JointMotion, velocities: np.ndarray) -> Profile:
        """From ``motion`` to ``velocities`` ``[J]`` (rad/s); all joints arrive together."""
        return self._make(motion, velocities, ruckig.Synchronization.Time)

    def stop(self, motion: JointMotion) -> Profile:
        """From ``motion`` to rest, all joints together: so the hand hardly leaves its way.

        Each as soon as it can, and a hand that brakes would sink, rise or turn by centimetres.
        """
        return self._make(motion, self._zeros, ruckig.Synchronization.Phase)

    def _make(
        self, motion: JointMotion, velocities: np.ndarray, synchronization: ruckig.Synchronization
    ) -> Profile:
        given = self._input
        given.synchronization = synchronization
        given.current_position = motion.positions.tolist()
        given.current_velocity = motion.velocities.tolist()
        given.current_acceleration = motion.accelerations.tolist()
        given.target_velocity = velocities.tolist()
        trajectory = ruckig.Trajectory(given.degrees_of_freedom)
        result = self._otg.calculate(given, trajectory)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise RuntimeError(f"no profile from {motion} to {velocities}: {result}")
        return Profile(trajectory, velocities)
