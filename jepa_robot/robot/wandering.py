"""Wandering about in the workspace: motion to record, before anything is learned."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics

AXES = ("vx", "vy", "vz")
MARGIN = 0.1  # of the workspace's sides, that targets keep from its border
LONGEST = 60  # steps to a target, as it may be where the arm cannot go
REACHED = 0.03  # m
SLOWEST = 0.15  # of the fastest
BRAKING = 4.0  # 1/s: speed per distance to a target
NOISE, CORRELATION = 0.3, 0.85  # standard deviation of what is added, a share of the speed
RETURN = 0.05  # of what a channel without a target has gone, taken back each step


class Wanderer:
    """Goes from target to target, at ever another speed, with smooth noise.

    The hand's linear channels go to places in the workspace; others (turns, joints, a gripper)
    wander around where they began.

    Args:
        contract: the robot.
        seed: of targets, speeds and noise.
        speed: the largest action, 0 to 1.

    Raises:
        ValueError: the speed is out of range.
    """

    def __init__(self, contract: RobotContract, seed: int, speed: float = 1.0) -> None:
        if not 0 < speed <= 1:
            raise ValueError(f"speed is {speed:g}, expected above 0, to 1, a share of the largest")
        self._contract, self._kinematics = contract, Kinematics(contract)
        self._rng, self._fastest = np.random.default_rng(seed), speed
        names = [channel.name for channel in contract.actions.channels]
        self._linear = [(names.index(axis), AXES.index(axis)) for axis in AXES if axis in names]
        self._noise = np.zeros(len(names))
        self._gone = np.zeros(len(names))  # summed actions
        self._left = 0  # steps for the target

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        """The next action ``[1, A]``, from measured joints ``[J]`` (rad); one a time step."""
        hand = self._kinematics.position(joints)
        if self._left <= 0 or self._is_there(hand):
            self._aim()
        self._left -= 1
        fresh = self._rng.standard_normal(len(self._noise)) * np.sqrt(1 - CORRELATION**2)
        self._noise = CORRELATION * self._noise + fresh
        action = NOISE * self._speed * self._noise
        scale = self._contract.actions.scale
        free = np.ones(len(action), bool)
        for channel, axis in self._linear:
            wanted = BRAKING * (self._target[axis] - hand[axis]) / scale[channel]
            action[channel] += np.clip(wanted, -self._speed, self._speed)
            free[channel] = False
        action[free] += self._speed * self._noise[free] - RETURN * self._gone[free]
        action = np.clip(action, -self._fastest, self._fastest)
        self._gone += action
        return action[None].astype(np.float32)

    def _is_there(self, hand: np.ndarray) -> bool:
        away = [self._target[axis] - hand[axis] for _, axis in self._linear]
        return bool(away) and float(np.linalg.norm(away)) < REACHED

    def _aim(self) -> None:
        lower, upper = (np.array(corner) for corner in self._contract.workspace)
        inside = MARGIN * (upper - lower)
        self._target = self._rng.uniform(lower + inside, upper - inside)
        self._speed = self._fastest * SLOWEST ** self._rng.uniform()
        self._left = LONGEST
