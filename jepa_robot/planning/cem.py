"""The cross-entropy method (Rubinstein 1999), warm-started, with time-correlated samples.

The correlation follows iCEM (Pinneri et al., arXiv:2008.06389): smooth actions reach further than
white noise of the same size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_robot.planning.noise import correlated

Evaluate = Callable[[np.ndarray], np.ndarray]
"""Costs ``[N]`` of action sequences ``[N, H, A]``: what a planner knows of model and cost."""
Follow = Callable[[np.ndarray], np.ndarray]
"""Actions ``[N, H, A]`` of a policy in imagination, to which noise ``[N, H, A]`` is added."""

ANSWERS = ("mean", "best")


@dataclass(frozen=True)
class CEMConfig:
    """Settings of the cross-entropy method.

    ``correlation`` is that of a sample's noise from one step to the next. ``seeds``: how many of
    the first samples are what the policy does in imagination, with noise from none to half of
    ``std``: it knows the way where a search that looks a few steps ahead would dither (as in
    TD-MPC, Hansen et al. 2022, arXiv:2203.04955, section 3). ``answer``: the plan is the ``mean``
    of the elites, or the ``best`` sample, where what lies between two good ways is none.
    ``smoothing`` is the share of the old mean and standard deviation that an iteration keeps.
    ``final``: times that the last state counts more.
    """

    candidates: int = 256
    horizon: int = 5
    iterations: int = 5
    elites: int = 24
    std: float = 0.7
    min_std: float = 0.05
    correlation: float = 0.7
    smoothing: float = 0.1
    final: float = 0.0
    seeds: int = 0
    answer: str = "mean"

    def __post_init__(self) -> None:
        if self.answer not in ANSWERS:
            raise ValueError(f"planner.answer is {self.answer!r}, expected one of {ANSWERS}")
        check_settings(
            self,
            {"candidates": 100_000, "horizon": 200, "iterations": 1000, "elites": 100_000},
            {"seeds": self.candidates - 1},
            {
                "std": (1e-3, 10),
                "min_std": (0, 10),
                "correlation": (0, 0.999),
                "smoothing": (0, 0.999),
                "final": (0, 1000),
            },
        )


def check_settings(
    config: Any,
    whole: dict[str, int],
    optional: dict[str, int],
    numbers: dict[str, tuple[float, float]],
) -> None:
    """Check whole numbers from 1, or from 0, to so much, and numbers within bounds.

    Elites are candidates.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for field, most in {**whole, **optional}.items():
        value, least = getattr(config, field), int(field in whole)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"planner.{field} is {value!r}, expected a whole number from {least} to {most}"
            )
    if config.elites > config.candidates:
        raise ValueError(
            f"planner.elites is {config.elites}, expected at most candidates, {config.candidates}"
        )
    for field, (low, high) in numbers.items():
        value = getattr(config, field)
        if not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"planner.{field} is {value!r}, expected {low:g} to {high:g}")


@dataclass(frozen=True)
class Plan:
    """The mean of the elites or the best sample ``[H, A]``, the lowest cost, iterations done."""

    actions: np.ndarray
    cost: float
    iterations: int


class CEM:
    """Plans action sequences in [-1, 1]. Any-time: a deadline ends it after a whole iteration.

    The same seed and the same calls give the same plans to the bit (without a deadline).
    """

    def __init__(self, config: CEMConfig, action_size: int, seed: int = 0) -> None:
        self.config, self._size = config, action_size
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Forget the last plan."""
        self._rng = np.random.default_rng(seed)
        self._mean = np.zeros((self.config.horizon, self._size), np.float32)

    def plan(
        self,
        evaluate: Evaluate,
        shift: int = 1,
        deadline: float | None = None,
        follow: Follow | None = None,
    ) -> Plan:
        """Improve the last plan.

        Args:
            evaluate: costs ``[N]`` of actions ``[N, H, A]``; non-finite costs lose.
            follow: the policy in imagination, for seeds; None for none.
            shift: time steps that have passed since the last plan.
            deadline: ``time.monotonic()`` after which no further iteration starts.

        Raises:
            ValueError: if no candidate has a finite cost.
        """
        config = self.config
        passed = min(shift, config.horizon - 1)
        mean = np.concatenate([self._mean[passed:], np.repeat(self._mean[-1:], passed, axis=0)])
        std = np.full_like(mean, config.std)
        shape = (config.candidates, config.horizon, self._size)
        best, best_cost, done = mean, np.inf, 0
        for done in range(1, config.iterations + 1):
            noise = correlated(self._rng, shape, config.correlation)
            candidates = np.clip(mean + std * noise, -1, 1)
            candidates[0] = np.clip(mean, -1, 1)
            if done > 1:
                candidates[1] = best
            elif config.seeds and follow is not None:
                amplitude = np.linspace(0, config.std / 2, config.seeds, dtype=np.float32)
                candidates[-config.seeds :] = follow(
                    amplitude[:, None, None] * noise[-config.seeds :]
                )
            costs = evaluate(candidates)
            costs = np.where(np.isfinite(costs), costs, np.inf)
            order = np.argsort(costs, kind="stable")[: config.elites]
            order = order[np.isfinite(costs[order])]
            if len(order):
                if costs[order[0]] < best_cost:
                    best, best_cost = candidates[order[0]], float(costs[order[0]])
                elites, keep = candidates[order], config.smoothing
                mean = keep * mean + (1 - keep) * elites.mean(axis=0)
                std = np.maximum(keep * std + (1 - keep) * elites.std(axis=0), config.min_std)
            if deadline is not None and time.monotonic() >= deadline:
                break
        if not np.isfinite(best_cost):
            raise ValueError("no candidate has a finite cost, expected at least one")
        self._mean = mean
        chosen = best if config.answer == ANSWERS[1] else mean
        return Plan(np.clip(chosen, -1, 1).astype(np.float32), best_cost, done)
