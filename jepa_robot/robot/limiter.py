"""From normalised actions to joint positions that respect the contract's limits. No ROS.

The one way to a joint command: the safety node, in-process evaluation and data collection all step
the same limiter. Every command it gives has a braking path that was checked to stay within the
joint limits and the workspace, and clear of obstacles and of the arm itself. Where a wanted motion
has none, the arm brakes along the last one that was checked: it can always stop.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from jepa_robot.robot.collision import Clearance, DistanceBounds
from jepa_robot.robot.contract import GRIPPER_CHANNEL, TWIST_CHANNELS, RobotContract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.profile import JointMotion, Profile, ProfileGenerator

DAMPING = 0.05  # greatest damping of the least squares, at a singularity
NEAR_SINGULAR = 0.08  # least singular value of the Jacobian from which on it is damped
POSE_GAIN = 4.0  # 1/s, back to what of the hand's pose at home is held
HELD_SPEED = 0.1  # m/s of that, at most
POSTURE_GAIN = 1.0  # 1/s
APPROACH_TIME = 0.2  # s: workspace faces and obstacles are approached exponentially
BRAKING = 0.6  # of the acceleration limit is what joint limits are approached with
LIMIT_MARGIN = 1e-3  # rad: a joint that ends braking may turn back by a fraction of this
PATH_CHECKS = 3  # times that a braking path is halved where its clearance is in doubt
NEAREST = 3  # pairs of bodies that the approach is slowed down for
FACES = 6  # of the workspace


@dataclass(frozen=True)
class Surroundings:
    """Where a command puts the arm.

    ``hand`` ``[3]`` (m), ``rotation`` ``[3, 3]`` and ``jacobian`` ``[6, J]`` are the end effector's
    in the base frame.
    ``slack`` ``[FACES + P]`` (m): from the hand to the workspace's faces, and from each pair of
    bodies to its margin. ``near``: the nearest pairs, with their gap (m) and its gradient ``[J]``.
    """

    hand: np.ndarray
    rotation: np.ndarray
    jacobian: np.ndarray
    slack: np.ndarray
    near: list[tuple[int, float, np.ndarray]]


class SafetyLimiter:
    """Turns actions into joint positions within the contract's limits.

    Args:
        contract: the robot.
        kinematics: built from the same contract; made here if not given.
        longest_period: s that a gripper may move on in one step, however late it comes; the safety
            stage's period if not given.
    """

    def __init__(
        self,
        contract: RobotContract,
        kinematics: Kinematics | None = None,
        longest_period: float | None = None,
    ) -> None:
        self.contract = contract
        self._longest_period = longest_period or 1 / contract.rates.safety
        self.kinematics = kinematics or Kinematics(contract)
        self._clearance = Clearance(contract, self.kinematics)
        # Where the command is, where the arm would come to rest, and between the two.
        self._here, self._there, self._between = (
            DistanceBounds(self._clearance, contract.safety.slow_distance) for _ in range(3)
        )
        self._reach = np.concatenate(
            [np.tile(self._clearance.hand_reach, (FACES, 1)), self._clearance.pair_reach]
        )
        self._profiles = ProfileGenerator(contract)
        self._lower = contract.limits("lower") + LIMIT_MARGIN
        self._upper = contract.limits("upper") - LIMIT_MARGIN
        self._velocity_limit = contract.limits("velocity")
        self._jerk_limit = contract.limits("jerk")
        self._deceleration = BRAKING * contract.limits("acceleration")
        self._home = np.array(contract.home)
        self._place, self._orientation = self.kinematics.pose(self._home)
        self._box = tuple(np.array(corner) for corner in contract.workspace)
        self._scale = contract.actions.scale
        self._is_twist = contract.actions.kind == "ee_twist"
        names = [channel.name for channel in contract.actions.channels]
        self._moves_gripper = GRIPPER_CHANNEL in names
        order = TWIST_CHANNELS if self._is_twist else contract.joint_names
        self._channels = np.array([order.index(n) for n in names if n != GRIPPER_CHANNEL], int)
        held = [axis for axis in range(3) if self._is_twist and axis not in self._channels]
        self._held = np.array(held, int)
        self._is_positional = self._is_twist and not (
            contract.actions.keeps_orientation or any(n in TWIST_CHANNELS[3:] for n in names)
        )
        self.motion: JointMotion | None = None
        self.path: Profile | None = None  # of the last step; None where it did not move
        self.gripper: float | None = None

    @property
    def positions(self) -> np.ndarray | None:
        """The last command ``[J]`` (rad), None before the first :meth:`reset`."""
        return None if self.motion is None else self.motion.positions

    @property
    def velocities(self) -> np.ndarray:
        """Of the last command ``[J]`` (rad/s)."""
        return self.motion.velocities

    @property
    def way_to_rest(self) -> Profile | None:
        """The checked braking path from the last command."""
        return None if self.motion is None else self._stop

    def reset(
        self, positions: np.ndarray, gripper: float | None = None, is_ramped: bool = True
    ) -> None:
        """Hold at measured joint positions ``[J]`` (rad), at rest.

        Args:
            positions: of the joints.
            gripper: its position, None for what was last commanded.
            is_ramped: begin slowly, over the contract's ramp, when actions come.
        """
        motion = JointMotion.at_rest(np.array(positions, float))
        for bounds in (self._here, self._there, self._between):
            bounds.forget()
        self._take(motion, self._profiles.stop(motion), self._look_around(motion.positions))
        self.gripper = self.gripper if gripper is None else float(gripper)
        self._ramp = 0.0 if is_ramped else 1.0

    def come_to_rest(self) -> None:
        """The last command is where the arm is and it is at rest: nothing was sent for a while."""
        self.reset(self.motion.positions)

    def follow_null_space(self, measured: np.ndarray) -> None:
        """Go along with joints ``[J]`` (rad) that move without moving the hand.

        For a controller that is commanded by the hand's motion and chooses the joints itself.
        """
        jacobian = self._around.jacobian
        drift = measured - self.positions
        drift = drift - np.linalg.pinv(jacobian, rcond=0.02) @ (jacobian @ drift)
        motion = JointMotion(
            self.positions + drift, self.motion.velocities, self.motion.accelerations
        )
        self._take(motion, self._profiles.stop(motion), self._look_around(motion.positions))

    def step(self, period: float, action: np.ndarray | None) -> tuple[np.ndarray, list[str]]:
        """Advance the command by ``period`` s.

        Args:
            period: time since the last step in s; 0 leaves the command as it is.
            action: ``[A]``, normalised to [-1, 1]; ``None`` slows down to a hold.

        Returns:
            Joint positions ``[J]`` (rad), and the names of the limits that acted.
        """
        if self.motion is None:
            raise RuntimeError("the limiter was stepped before reset() gave it joint positions")
        if period <= 0:
            return self.positions, []
        active: list[str] = []
        self.path = None
        if action is None:
            self._ramp = 0.0
            if not self.motion.is_at_rest:
                self._brake(period)
            return self.positions, active
        wanted = self._wanted_velocities(np.asarray(action, float), period, active)
        path = self._profiles.towards(self.motion, wanted)
        if self._accept(path.at(period), active):
            self.path = path
        else:
            active.append("braking")
            self._brake(period)
        return self.positions, active

    # What is wanted.

    def _wanted_velocities(
        self, action: np.ndarray, period: float, active: list[str]
    ) -> np.ndarray:
        clipped = np.minimum(np.maximum(action, -1), 1)
        if (clipped != action).any():
            active.append("action")
        ramp = self.contract.safety.ramp
        self._ramp = min(1.0, self._ramp + (period / ramp if ramp else 1.0))
        if self._ramp < 1:
            active.append("ramp")
        scaled = clipped * self._scale
        if self._moves_gripper:
            self._move_gripper(scaled[-1], period)
            scaled = scaled[:-1]
        if self._is_twist:
            wanted = self._from_twist(self._ramp * scaled, active)
        else:
            wanted = np.zeros_like(self._home)
            wanted[self._channels] = self._ramp * scaled
        wanted = self._slow_down_near_bodies(wanted, active)
        ratio = np.max(np.abs(wanted) / self._velocity_limit)
        if ratio > 1:
            active.append("velocity")
            wanted = wanted / ratio
        below, above = self._approach_velocity(period)
        limited = np.minimum(np.maximum(wanted, -below), above)
        if (limited != wanted).any():
            active.append("position")
        return limited

    def _move_gripper(self, velocity: float, period: float) -> None:
        gripper = self.contract.gripper
        if self.gripper is not None:
            velocity = np.clip(velocity, -gripper.velocity, gripper.velocity)
            moved = self.gripper + velocity * min(period, self._longest_period)
            self.gripper = float(np.clip(moved, gripper.lower, gripper.upper))

    def _from_twist(self, channels: np.ndarray, active: list[str]) -> np.ndarray:
        """Joint velocities for a twist, with the posture drawn home in the null space.

        Damped least squares with a damping that grows near singularities (Nakamura and
        Hanafusa 1986).
        """
        twist = np.zeros(6)
        twist[self._channels] = channels
        around = self._around
        if len(self._held):
            back = POSE_GAIN * (self._place - around.hand)[self._held]
            twist[self._held] = self._ramp * np.clip(back, -HELD_SPEED, HELD_SPEED)
        least = np.minimum((self._box[0] - around.hand) / APPROACH_TIME, 0)
        most = np.maximum((self._box[1] - around.hand) / APPROACH_TIME, 0)
        linear = np.minimum(np.maximum(twist[:3], least), most)
        if (linear != twist[:3]).any():
            active.append("workspace")
        twist[:3] = linear
        if self.contract.actions.keeps_orientation:
            twist[3:] = POSE_GAIN * pinocchio.log3(self._orientation @ around.rotation.T)
        jacobian = around.jacobian
        if self._is_positional:
            jacobian, twist = jacobian[:3], twist[:3]
        squares, left = np.linalg.eigh(jacobian @ jacobian.T)  # of the singular values, ascending
        nearness = max(0.0, 1 - max(squares[0], 0.0) / NEAR_SINGULAR**2)
        if nearness:
            active.append("singularity")
        damped = np.maximum(squares, 0) + nearness * DAMPING**2
        posture = POSTURE_GAIN * (self._home - self.positions)
        return posture + jacobian.T @ (left @ ((twist - jacobian @ posture) @ left / damped))

    def _slow_down_near_bodies(self, wanted: np.ndarray, active: list[str]) -> np.ndarray:
        """Bound the speed towards near bodies: a velocity damper (Faverjon, Tournassoud 1987)."""
        for pair, gap, gradient in self._around.near:
            too_fast = gradient @ wanted + max(gap, 0.0) / APPROACH_TIME
            norm = gradient @ gradient
            if too_fast < 0 and norm > 1e-9:
                wanted = wanted - gradient * (too_fast / norm)
                is_obstacle = self._clearance.is_obstacle(pair)
                active.append("obstacle" if is_obstacle else "self_collision")
        return wanted

    def _approach_velocity(self, period: float) -> tuple[np.ndarray, np.ndarray]:
        """The speeds towards lower and upper limits from which each joint comes to rest gently."""
        room = np.maximum((self.positions - self._lower, self._upper - self.positions), 0)
        step = self._deceleration * period
        gentle = np.sqrt(2 * self._deceleration * room + step**2 / 4) - step / 2
        return tuple(np.minimum(gentle, room / period))

    # What is safe.

    def _brake(self, period: float) -> None:
        self.path = self._stop
        motion = self._stop.at(period)
        self._take(motion, self._stop.after(period), self._look_around(motion.positions))

    def _take(self, motion: JointMotion, stop: Profile, around: Surroundings) -> None:
        self.motion, self._stop, self._around = motion, stop, around

    def _look_around(self, positions: np.ndarray) -> Surroundings:
        hand, rotation = self.kinematics.pose(positions)
        jacobian = self.kinematics.jacobian(positions)
        slack, safety = self._slack_at(positions, self._here, hand), self.contract.safety
        gaps = slack[FACES:]
        near = np.flatnonzero(gaps < safety.slow_distance - safety.margin)
        if len(near) > 1:
            near = near[np.argsort(gaps[near])][:NEAREST]
        steepness = [
            (pair, gaps[pair], self._clearance.gradient(positions, pair)) for pair in near.tolist()
        ]
        return Surroundings(hand, rotation, jacobian, slack, steepness)

    def _accept(self, motion: JointMotion, active: list[str]) -> bool:
        """Take a motion if the arm can stop from it within all limits."""
        peak = motion.velocities + motion.accelerations * np.abs(motion.accelerations) / (
            2 * self._jerk_limit
        )
        if (np.abs(peak) > self._velocity_limit * (1 + 1e-6)).any():
            active.append("velocity")
            return False
        stop = self._profiles.stop(motion)
        end = stop.at(stop.duration).positions
        if not self._is_within_limits(motion.positions, end):
            active.append("position")
            return False
        around = self._look_around(motion.positions)
        least = np.minimum(self._around.slack, 0) - 1e-9  # no worse than where it is bad already
        path = (
            (0.0, motion.positions, around.slack),
            (stop.duration, end, self._slack_at(end, self._there)),
        )
        for _, _, slack in path:
            if (slack < least).any():
                is_hand = (slack[:FACES] < least[:FACES]).any()
                active.append("workspace" if is_hand else "collision")
                return False
        if not self._is_clear_between(stop, *path, least, PATH_CHECKS):
            active.append("collision")
            return False
        self._take(motion, stop, around)
        return True

    def _is_within_limits(self, *positions: np.ndarray) -> bool:
        """Within them, or no further out than the arm is now."""
        lower = np.minimum(self._lower, self.positions)
        upper = np.maximum(self._upper, self.positions)
        return all(((lower <= p) & (p <= upper)).all() for p in positions)

    def _is_clear_between(
        self, stop: Profile, one: tuple, other: tuple, least: np.ndarray, checks: int
    ) -> bool:
        """Whether a path between two clear points is clear, by how far bodies can have moved."""
        moved = self._reach @ np.abs(other[1] - one[1])
        if not checks or (one[2] + other[2] - 2 * least >= moved).all():
            return True
        time = (one[0] + other[0]) / 2
        positions = stop.at(time).positions
        slack = self._slack_at(positions, self._between)
        middle = (time, positions, slack)
        return (
            not (slack < least).any()
            and self._is_clear_between(stop, one, middle, least, checks - 1)
            and self._is_clear_between(stop, middle, other, least, checks - 1)
        )

    def _slack_at(
        self, positions: np.ndarray, distances: DistanceBounds, hand: np.ndarray | None = None
    ) -> np.ndarray:
        """``[FACES + P]`` (m): the hand to the workspace's faces, bodies to their margins."""
        if hand is None:
            hand = self.kinematics.pose(positions)[0]
        gaps = distances(positions) - self.contract.safety.margin
        return np.concatenate([hand - self._box[0], self._box[1] - hand, gaps])
