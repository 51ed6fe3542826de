"""Random shooting around a policy: what it would do, in imagination, with some noise.

Where the policy imitates recorded behaviour, its candidates stay near what the world model was
trained on; a free search finds where the model is wrong, and plans for that. A policy as the
distribution that plans are drawn from: Hansen et al. 2024 (arXiv:2310.16828, section 3.2). The best
are averaged with the weights of MPPI (Williams et al. 2017, arXiv:1707.02342, equation 34).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jepa_robot.planning.cem import Evaluate, Plan, check_settings
from jepa_robot.planning.noise import correlated

Follow = Callable[[np.ndarray], np.ndarray]
"""Actions ``[N, H, A]`` of a policy in imagination, to which noise ``[N, H, A]`` is added."""


@dataclass(frozen=True)
class ShootingConfig:
    """Settings of shooting around a policy.

    ``std`` is that of the noisiest candidate's noise, the first has none; ``correlation`` that of
    the noise from one step to the next. ``temperature`` is the difference in cost at which a
    candidate weighs e times less than the best. ``final``: times that the last state counts more.
    """

    follows_policy: ClassVar[bool] = True

    candidates: int = 64
    horizon: int = 20
    elites: int = 6
    std: float = 0.6
    correlation: float = 0.8
    temperature: float = 0.3
    final: float = 4.0

    def __post_init__(self) -> None:
        check_settings(
            self,
            {"candidates": 100_000, "horizon": 200, "elites": 100_000},
            {
                "std": (1e-3, 10),
                "correlation": (0, 0.999),
                "temperature": (1e-6, 1e6),
                "final": (0, 1000),
            },
        )


class PolicyShooting:
    """Plans action sequences in [-1, 1], each time from scratch, in one pass.

    The same seed and the same calls give the same plans to the bit.
    """

    def __init__(self, config: ShootingConfig, action_size: int, seed: int = 0) -> None:
        self.config, self._size = config, action_size
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Draw anew."""
        self._rng = np.random.default_rng(seed)

    def plan(self, evaluate: Evaluate, follow: Follow) -> Plan:
        """Choose among what the policy does with noise.

        Args:
            evaluate: costs ``[N]`` of actions ``[N, H, A]``; non-finite costs lose.
            follow: the policy in imagination.

        Raises:
            ValueError: if no candidate has a finite cost.
        """
        config = self.config
        shape = (config.candidates, config.horizon, self._size)
        std = np.linspace(0, config.std, config.candidates, dtype=np.float32)
        actions = follow(std[:, None, None] * correlated(self._rng, shape, config.correlation))
        costs = evaluate(actions)
        costs = np.where(np.isfinite(costs), costs, np.inf)
        order = np.argsort(costs, kind="stable")[: config.elites]
        best = costs[order[0]]
        if not np.isfinite(best):
            raise ValueError("no candidate has a finite cost, expected at least one")
        weights = np.exp((best - costs[order]) / config.temperature)
        mean = np.tensordot(weights / weights.sum(), actions[order], axes=1)
        return Plan(mean.astype(np.float32), float(best), 1)
