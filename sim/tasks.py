"""Tasks in simulation: where episodes start, where they should end, and when they succeeded."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from jepa_robot.robot.contract import TWIST_CHANNELS, ActionChannel, Actions, RobotContract
from jepa_robot.robot.limiter import SafetyLimiter

MARGIN = 0.03  # m: starts and goals keep this far from the workspace's faces
LINEAR_CHANNELS = TWIST_CHANNELS[:3]
LINEAR_SCALE = 0.25  # m/s, to find joints for places with, where the contract has none


@dataclass(frozen=True)
class Episode:
    """One trial: joint positions at the start, and the hand position to reach (m)."""

    start: np.ndarray
    goal: np.ndarray
    goal_joints: np.ndarray


class Reach:
    """Bring the hand to a place in the workspace, 20 to 30 cm away from where it starts.

    Less where the workspace is small: at most half of the diagonal of where goals can be.
    """

    name = "reach"
    steps = 25
    distance = (0.20, 0.30)
    success_distance = 0.03  # m, at the end of the episode

    def __init__(self, contract: RobotContract) -> None:
        self.lower, self.upper = (np.array(corner) for corner in contract.workspace)
        diagonal = np.linalg.norm(self.upper - self.lower - 2 * MARGIN)
        share = min(1.0, 0.5 * diagonal / self.distance[1])
        self.distance = tuple(share * distance for distance in self.distance)
        actions = _linear_actions(contract)
        self.keeps_orientation = actions.keeps_orientation
        self._limiter = SafetyLimiter(replace(contract, actions=actions))
        self._home = contract.home

    def sample(self, rng: np.random.Generator) -> Episode:
        """A start and a goal, uniform in the workspace at the task's distance."""
        start = self.sample_position(rng)
        goal = self.sample_from(start, rng)
        return Episode(self.joints_at(start), goal, self.joints_at(goal))

    def sample_from(self, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A goal at the task's distance from ``start`` (m)."""
        while True:
            goal = self.sample_position(rng)
            if self.distance[0] <= np.linalg.norm(goal - start) <= self.distance[1]:
                return goal

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.lower + MARGIN, self.upper - MARGIN)

    def joints_at(self, position: np.ndarray) -> np.ndarray:
        """Joint positions ``[J]`` (rad) that put the hand at ``position`` (m), from home."""
        limiter = self._limiter
        limiter.reset(self._home)
        scale = limiter.contract.actions.scale
        for _ in range(400):
            error = position - limiter.kinematics.pose(limiter.positions)[0]
            if np.linalg.norm(error) < 2e-3:
                break
            limiter.step(0.01, np.clip(error / (0.1 * scale), -1, 1))
        return limiter.positions.copy()

    def is_success(self, ee_position: np.ndarray, goal: np.ndarray) -> bool:
        return float(np.linalg.norm(ee_position - goal)) < self.success_distance


def oracle_action(contract: RobotContract, ee_position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The privileged baseline: straight to the true goal, seeing true positions. ``[A]``.

    Raises:
        ValueError: the arm is not moved by the velocity of its hand.
    """
    actions = contract.actions
    if actions.kind != "ee_twist":
        raise contract.invalid(
            "actions.kind", f"actions.kind is {actions.kind!r}, expected ee_twist for the oracle"
        )
    wanted = (goal - ee_position) / (2 * contract.rates.time_step)
    by_name = dict(zip(LINEAR_CHANNELS, wanted, strict=True))
    channels = np.array([by_name.get(channel.name, 0.0) for channel in actions.channels])
    return np.clip(channels / actions.scale, -1, 1).astype(np.float32)


def _linear_actions(contract: RobotContract) -> Actions:
    """Actions that move the hand along all three axes, and nothing else."""
    actions = contract.actions
    is_twist = actions.kind == "ee_twist"
    scale = {c.name: c.scale for c in actions.channels} if is_twist else {}
    turns = any(name in scale for name in TWIST_CHANNELS[3:])
    keeps = actions.keeps_orientation or (len(contract.joints) >= 6 and (turns or not is_twist))
    channels = [ActionChannel(n, "m/s", scale.get(n, LINEAR_SCALE)) for n in LINEAR_CHANNELS]
    return Actions("ee_twist", tuple(channels), keeps)
