"""iCEM, a sample-efficient cross-entropy method (Pinneri et al. 2020, arXiv:2008.06389)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.cem import CEM, CEMConfig
from jepa_robot.planning.noise import coloured
from jepa_robot.planning.planner import Search, check_numbers


@dataclass(frozen=True)
class ICEMConfig(CEMConfig):
    """Settings of iCEM, beside CEM's.

    ``colour``: noise has power at frequency f of ``f ** -colour``. ``decay``: each iteration has so
    many times fewer samples than the one before, at least twice the elites. ``kept``: the share of
    the elites that are candidates again, in the next iteration, and shifted in the next plan.
    """

    colour: float = 2.0
    decay: float = 1.25
    kept: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, {"colour": (0, 8), "decay": (1, 10), "kept": (0, 1)})


class ICEM(CEM):
    """CEM with coloured noise, elites that are kept, and ever fewer samples."""

    Config = ICEMConfig

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self._kept: np.ndarray | None = None

    def _begin(self, search: Search, start: np.ndarray) -> None:
        super()._begin(search, start)
        if self._kept is not None and len(self._kept) != len(start):
            self._kept = None

    def _warm_start(self, starts: int, shift: int) -> np.ndarray:
        if self._kept is not None:
            passed = min(shift, self.config.horizon - 1)
            rest = np.repeat(self._kept[:, :, -1:], passed, axis=2)
            self._kept = np.concatenate([self._kept[:, :, passed:], rest], axis=2)
        return super()._warm_start(starts, shift)

    def _sample(self, search: Search, done: int) -> np.ndarray:
        config = self.config
        fewest = min(config.candidates, 2 * config.elites)
        count = max(int(config.candidates / config.decay**done), fewest)
        starts, horizon, size = self._mean.shape
        noise = coloured(self._rng, (starts * count, horizon, size), config.colour)
        noise = noise.reshape(starts, count, horizon, size)
        candidates = self._mean[:, None] + self._std[:, None] * noise
        if not done:
            self._sow(search, candidates, noise)
        if done == config.iterations - 1 or not done:
            candidates[:, 0] = self._mean
        if self._kept is not None:
            candidates = np.concatenate([candidates, self._kept], axis=1)
        return search.limited(candidates)

    def _move(self, candidates: np.ndarray, costs: np.ndarray) -> None:
        super()._move(candidates, costs)
        count = round(self.config.kept * self.config.elites)
        order = np.argsort(costs, axis=1, kind="stable")[:, :count]
        self._kept = np.take_along_axis(candidates, order[:, :, None, None], axis=1)
