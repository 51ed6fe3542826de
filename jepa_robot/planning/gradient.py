"""Gradient descent on actions, through the model, from many starts at once.

As in Bharadhwaj, Xie & Shkurti 2020 (arXiv:2004.08763, section 3); steps are Adam's (Kingma & Ba
2015, arXiv:1412.6980).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.planning.planner import Planner, PlannerConfig, Search, check_numbers

MEMORY = (0.9, 0.99)  # Adam's, of gradients and of their squares
SMALLEST = 1e-8
LAST = 0.1  # of the first step's size: the last one's


@dataclass(frozen=True)
class GradientConfig(PlannerConfig):
    """Settings; ``step``: how far actions go at once, at first; in the end a tenth of it."""

    candidates: int = 16
    iterations: int = 10
    step: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, {"step": (1e-6, 2)})


class Adam:
    """Steps of about a given size against the gradient, number by number."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: np.ndarray | float = 0.0
        self._square: np.ndarray | float = 0.0

    def step(self, gradients: np.ndarray, size: float) -> np.ndarray:
        """What to add to what has these gradients."""
        first, second = MEMORY
        self._count += 1
        self._mean = first * self._mean + (1 - first) * gradients
        self._square = second * self._square + (1 - second) * np.square(gradients)
        mean = self._mean / (1 - first**self._count)
        deviation = np.sqrt(self._square / (1 - second**self._count))
        return (-size * mean / (deviation + SMALLEST)).astype(np.float32)


class GradientDescent(Planner):
    """Descends from the warm start, from what the policy does, and from samples around."""

    Config = GradientConfig
    needs_gradients = True

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._start, self._adam = start, Adam()

    def _improve(self, search: Search, done: int) -> None:
        if not done:
            noise = self._noise(len(self._start), self.config.candidates)
            candidates = self._start[:, None] + self.config.std * noise
            self._sow(search, candidates, noise)
            candidates[:, 0] = self._start
            self._candidates = search.limited(candidates)
        _, gradients = search.gradients(self._candidates)
        size = self.config.step * (1 - (1 - LAST) * done / self.config.iterations)
        self._candidates = search.limited(self._candidates + self._adam.step(gradients, size))

    def _center(self, search: Search) -> np.ndarray:
        return search.best
