"""Model predictive path integral control (Williams et al. 2017, arXiv:1707.02342, algorithm 2).

The plan is the mean of all samples, weighted by the exponential of what they cost less; it is
smoothed along the horizon by the filter of Savitzky & Golay (1964), as there in section VI.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.planner import (
    Planner,
    PlannerConfig,
    Search,
    check_numbers,
    check_whole,
)

DEGREE = 2  # of the polynomials that smooth


@dataclass(frozen=True)
class MPPIConfig(PlannerConfig):
    """Settings of MPPI.

    ``temperature``: in standard deviations of what the better half of the samples cost, so that it
    means the same whatever costs are measured in. ``window``: steps that are smoothed over, odd;
    below 4 nothing is smoothed. ``shrink``: how much less noise each iteration has.
    """

    temperature: float = 0.3
    window: int = 5
    shrink: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, {"temperature": (1e-6, 1000), "shrink": (0.01, 1)})
        check_whole(self, {"window": (1, 199)})
        if self.window % 2 == 0:
            raise ValueError(f"planner.window is {self.window}, expected an odd number")


class MPPI(Planner):
    """Weighs all samples."""

    Config = MPPIConfig

    def __init__(self, config: MPPIConfig, action_size: int, seed: int = 0) -> None:
        super().__init__(config, action_size, seed)
        self._filter = smoothing(config.horizon, config.window)

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._mean = start

    def _improve(self, search: Search, done: int) -> None:
        config = self.config
        noise = self._noise(len(self._mean), config.candidates)
        candidates = self._mean[:, None] + config.std * config.shrink**done * noise
        candidates[:, 0] = self._mean
        if not done:
            self._sow(search, candidates, noise)
        candidates = search.limited(candidates)
        costs = search.costs(candidates)
        for start, cost in enumerate(costs):
            finite = np.isfinite(cost)
            if finite.any():
                weights = self._weights(cost[finite])
                self._mean[start] = np.tensordot(weights, candidates[start, finite], 1)
        self._mean = np.einsum("hk,bka->bha", self._filter, self._mean)

    def _weights(self, costs: np.ndarray) -> np.ndarray:
        better = np.sort(costs)[: max(len(costs) // 2, 1)]
        spread = max(float(better.std()), 1e-6 * max(abs(float(better[0])), 1e-6))
        weights = np.exp(-(costs - better[0]) / (self.config.temperature * spread))
        return (weights / weights.sum()).astype(np.float32)

    def _center(self, search: Search) -> np.ndarray:
        return self._mean


def smoothing(horizon: int, window: int) -> np.ndarray:
    """A matrix ``[H, H]``: at each step the value of a parabola fitted to the steps around it."""
    matrix, half = np.zeros((horizon, horizon), np.float32), window // 2
    for step in range(horizon):
        near = np.arange(max(step - half, 0), min(step + half + 1, horizon))
        powers = np.vander(near - step, min(DEGREE, len(near) - 1) + 1, increasing=True)
        matrix[step, near] = np.linalg.pinv(powers)[0]
    return matrix
