"""The cross-entropy method (Rubinstein 1999), warm-started, with time-correlated samples.

The correlation follows iCEM (Pinneri et al. 2020, arXiv:2008.06389): smooth actions reach further
than white noise of the same size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.planner import (
    Planner,
    PlannerConfig,
    Search,
    check_elites,
    check_numbers,
)


@dataclass(frozen=True)
class CEMConfig(PlannerConfig):
    """Settings of the cross-entropy method.

    ``elites``: the best samples, whose mean and standard deviation, at least ``min_std``, the next
    ones are drawn with. ``smoothing`` is the share of the old ones that an iteration keeps.
    """

    elites: int = 24
    min_std: float = 0.05
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_elites(self)
        check_numbers(self, {"min_std": (0, 10), "smoothing": (0, 0.999)})


class CEM(Planner):
    """Draws samples, and moves their distribution to the best of them."""

    Config = CEMConfig

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._mean, self._std = start, np.full_like(start, self.config.std)

    def _improve(self, search: Search, done: int) -> None:
        candidates = self._sample(search, done)
        self._move(candidates, search.costs(candidates))

    def _sample(self, search: Search, done: int) -> np.ndarray:
        """Candidates ``[B, N, H, A]``: the mean, the best so far, what the policy does, others."""
        noise = self._noise(len(self._mean), self.config.candidates)
        candidates = self._mean[:, None] + self._std[:, None] * noise
        candidates[:, 0] = self._mean
        if done and self.config.candidates > 1:
            candidates[:, 1] = search.best
        elif not done:
            self._sow(search, candidates, noise)
        return search.limited(candidates)

    def _move(self, candidates: np.ndarray, costs: np.ndarray) -> None:
        """Fit mean and deviation to the elites; a start without any keeps its own."""
        order = np.argsort(costs, axis=1, kind="stable")[:, : self.config.elites]
        keep = self.config.smoothing
        for start, best in enumerate(order):
            elites = candidates[start, best[np.isfinite(costs[start, best])]]
            if len(elites):
                mean = np.add.reduce(elites) / np.float32(len(elites))  # np.mean takes as long
                spread = np.square(elites - mean)  # to check what it is given as to add it up
                std = np.sqrt(np.add.reduce(spread) / np.float32(len(elites)))
                self._mean[start] = keep * self._mean[start] + (1 - keep) * mean
                std = keep * self._std[start] + (1 - keep) * std
                self._std[start] = np.maximum(std, self.config.min_std)

    def _center(self, search: Search) -> np.ndarray:
        return self._mean
