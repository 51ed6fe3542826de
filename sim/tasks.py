"""Tasks in simulation: where episodes start, where they should end, and when they succeeded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.limiter import SafetyLimiter

MARGIN = 0.03  # m: starts and goals keep this far from the workspace's faces


@dataclass(frozen=True)
class Episode:
    """One trial: joint positions at the start, and the hand position to reach (m)."""

    start: np.ndarray
    goal: np.ndarray
    goal_joints: np.ndarray


class Reach:
    """Bring the hand to a place in the workspace, 20 to 30 cm away from where it starts."""

    name = "reach"
    steps = 25
    distance = (0.20, 0.30)
    success_distance = 0.03  # m, at the end of the episode

    def __init__(self, contract: RobotContract) -> None:
        self.lower, self.upper = (np.array(corner) for corner in contract.workspace)
        self._limiter = SafetyLimiter(contract)
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
    """The privileged baseline: straight to the true goal, seeing true positions. ``[A]``."""
    wanted = (goal - ee_position) / (2 * contract.rates.time_step)
    return np.clip(wanted / contract.actions.scale, -1, 1).astype(np.float32)
