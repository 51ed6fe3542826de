"""Random shooting: the best of many samples around the last plan.

As in Rao 2009, "A survey of numerical methods for optimal control", shooting with no gradient;
with learned dynamics by Nagabandi et al. 2018 (arXiv:1708.02596, section IV-D).
"""

from __future__ import annotations

import numpy as np

from jepa_robot.planning.planner import Planner, PlannerConfig, Search


class RandomShooting(Planner):
    """Every iteration draws as many samples again, around the same warm start."""

    Config = PlannerConfig

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._start = start

    def _improve(self, search: Search, done: int) -> None:
        noise = self._noise(len(self._start), self.config.candidates)
        candidates = self._start[:, None] + self.config.std * noise
        candidates[:, 0] = search.best
        if not done:
            self._sow(search, candidates, noise)
        candidates = search.limited(candidates)
        search.costs(candidates)

    def _center(self, search: Search) -> np.ndarray:
        return search.best
