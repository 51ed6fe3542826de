"""Dynamic programming: iLQR on the learned dynamics (Li & Todorov 2004), with limits on actions.

Dynamics are taken to first order, the cost to second, around the last plan; actions at a limit
stay there, and have no feedback, as in Tassa, Mansard & Todorov 2014, "Control-limited differential
dynamic programming" (with the active set found in as many passes as there are channels).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.planner import Planner, PlannerConfig, Search, check_numbers
from jepa_robot.planning.problem import Expansion

HALVING = 0.5  # of the step, from one candidate of the line search to the next
DAMPING = (1e-4, 1e6)  # least and most of what is added to the curvature
CAUTION = 4.0  # times more damping after a failure, times less after a success


@dataclass(frozen=True)
class ILQRConfig(PlannerConfig):
    """Settings; ``candidates``: steps that the line search tries, each half as far.

    ``damping``: curvature by the actions that is added at first.
    """

    candidates: int = 6
    iterations: int = 3
    damping: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, {"damping": DAMPING})


class ILQR(Planner):
    """Improves one trajectory: the last plan, or what the policy does where that is better."""

    Config = ILQRConfig
    needs_gradients = True

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._damping = np.full(len(start), self.config.damping)

    def _improve(self, search: Search, done: int) -> None:
        if not done:
            self._compare(search)
        nominal, before = search.best.copy(), search.best_cost.copy()
        expansion = search.problem.expand(nominal)
        feed, gains = _backward(expansion, nominal, self._damping)
        sizes = HALVING ** np.arange(self.config.candidates)
        candidates = self._forward(search, expansion, nominal, feed, gains, sizes)
        search.costs(search.limited(candidates))
        is_better = search.best_cost < before
        factor = np.where(is_better, 1 / CAUTION, CAUTION)
        self._damping = np.clip(self._damping * factor, *DAMPING)

    def _forward(
        self,
        search: Search,
        expansion: Expansion,
        nominal: np.ndarray,
        feed: np.ndarray,
        gains: np.ndarray,
        sizes: np.ndarray,
    ) -> np.ndarray:
        """Actions ``[B, N, H, A]`` of each size of step, with feedback on the way."""
        starts, horizon, size = nominal.shape
        states = np.repeat(expansion.states[:, :1], len(sizes), axis=1)
        actions = np.empty((starts, len(sizes), horizon, size), np.float32)
        for step in range(horizon):
            away = states - expansion.states[:, None, step]
            change = sizes[None, :, None] * feed[:, None, step]
            change = change + np.einsum("bas,bns->bna", gains[:, step], away)
            actions[:, :, step] = np.clip(nominal[:, None, step] + change, -1, 1)
            if step + 1 < horizon:
                flat = states.reshape(-1, states.shape[-1]), actions[:, :, step].reshape(-1, size)
                states = search.problem.step(*flat).reshape(states.shape)
        return actions

    def _center(self, search: Search) -> np.ndarray:
        return search.best


def _backward(
    expansion: Expansion, actions: np.ndarray, damping: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Changes of the actions ``[B, H, A]`` and feedback gains ``[B, H, A, S]``."""
    starts, horizon, size = actions.shape
    feed = np.zeros((starts, horizon, size))
    gains = np.zeros((starts, horizon, size, expansion.states.shape[-1]))
    for start in range(starts):
        slope = expansion.cost[start, -1].astype(float)
        bend = expansion.curvature[start, -1].astype(float)
        for step in reversed(range(horizon)):
            by_state = expansion.by_state[start, step].astype(float)
            by_action = expansion.by_action[start, step].astype(float)
            action_slope = expansion.effort[start, step] + by_action.T @ slope
            action_bend = expansion.effort_curvature[start, step] + by_action.T @ bend @ by_action
            action_bend = action_bend + damping[start] * np.eye(size)
            mixed = by_action.T @ bend @ by_state
            change, gain = _minimise(action_slope, action_bend, mixed, actions[start, step])
            feed[start, step], gains[start, step] = change, gain
            slope = by_state.T @ slope + gain.T @ (action_bend @ change + action_slope)
            slope = slope + mixed.T @ change
            bend = by_state.T @ bend @ by_state + gain.T @ action_bend @ gain
            bend = bend + gain.T @ mixed + mixed.T @ gain
            if step:
                slope = slope + expansion.cost[start, step - 1]
                bend = bend + expansion.curvature[start, step - 1]
            bend = (bend + bend.T) / 2
    return feed, gains


def _minimise(
    slope: np.ndarray, bend: np.ndarray, mixed: np.ndarray, action: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The change of an action that costs least within its limits, and its gain ``[A, S]``."""
    change, gain = np.zeros(len(slope)), np.zeros_like(mixed)
    is_free = np.ones(len(slope), bool)
    for _ in range(len(slope)):
        rest = slope[is_free] + bend[np.ix_(is_free, ~is_free)] @ change[~is_free]
        inner = bend[np.ix_(is_free, is_free)]
        change[is_free] = -np.linalg.solve(inner, rest)
        beyond = is_free & (np.abs(action + change) > 1)
        if not beyond.any():
            gain[is_free] = -np.linalg.solve(inner, mixed[is_free])
            break
        change = np.clip(action + change, -1, 1) - action
        is_free &= ~beyond
        if not is_free.any():
            break
    return change, gain
