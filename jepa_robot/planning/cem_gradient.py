"""The cross-entropy method whose elites descend (Bharadhwaj, Xie & Shkurti 2020, arXiv:2004.08763).

Sampling finds the valley, gradients go down in it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.cem import CEM, CEMConfig
from jepa_robot.planning.gradient import Adam
from jepa_robot.planning.planner import Search, check_numbers, check_whole


@dataclass(frozen=True)
class CEMGradientConfig(CEMConfig):
    """Settings beside CEM's; ``descents``: steps of each elite, ``step``: how far each goes."""

    candidates: int = 64
    iterations: int = 2
    elites: int = 8
    descents: int = 2
    step: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, {"descents": (0, 100)})
        check_numbers(self, {"step": (1e-6, 2)})


class CEMGradient(CEM):
    """CEM; between evaluation and fit the elites are improved."""

    Config = CEMGradientConfig
    needs_gradients = True

    def _move(self, candidates: np.ndarray, costs: np.ndarray) -> None:
        order = np.argsort(costs, axis=1, kind="stable")[:, : self.config.elites]
        elites = np.take_along_axis(candidates, order[:, :, None, None], axis=1)
        costs = np.take_along_axis(costs, order, axis=1)
        adam = Adam()
        for _ in range(self.config.descents):
            _, gradients = self._search.gradients(elites)
            elites = self._search.limited(elites + adam.step(gradients, self.config.step))
        if self.config.descents:
            costs = self._search.costs(elites)
        super()._move(elites, costs)

    def _begin(self, search: Search, start: np.ndarray) -> None:
        super()._begin(search, start)
        self._search = search
