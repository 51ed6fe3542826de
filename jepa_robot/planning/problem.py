"""What a planner minimises: an action sequence is rolled out and costs something.

Planners know this protocol and nothing of what is behind it: a bundle's graphs, nodes on other
machines, or a formula. Every array has a leading axis of B start states, which are planned from
side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Problem(Protocol):
    """Costs of action sequences from B start states.

    ``has_policy``: `follow` knows a way. ``has_gradients``: `gradients` and `expand` are there.
    """

    starts: int
    has_policy: bool
    has_gradients: bool

    def costs(self, actions: np.ndarray) -> np.ndarray:
        """Costs ``[B, N]`` of actions ``[B, N, H, A]`` in [-1, 1]; not finite: it must not be."""
        ...

    def follow(self, noise: np.ndarray) -> np.ndarray:
        """What a policy does in imagination, noise ``[B, N, H, A]`` added: ``[B, N, H, A]``."""
        ...

    def gradients(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Costs ``[B, N]`` and their derivatives by the actions, ``[B, N, H, A]``."""
        ...

    def expand(self, actions: np.ndarray) -> Expansion:
        """Dynamics and cost around actions ``[B, H, A]``."""
        ...

    def step(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Next states ``[M, S]`` of states ``[M, S]`` and actions ``[M, A]``."""
        ...


@dataclass(frozen=True)
class Expansion:
    """The dynamics to first and the cost to second order, along B trajectories.

    ``states`` ``[B, H + 1, S]``, the first given. ``by_state`` ``[B, H, S, S]`` and ``by_action``
    ``[B, H, S, A]``: of the next state. ``cost`` ``[B, H, S]`` and ``curvature``
    ``[B, H, S, S]``: of what the state after each action costs; ``effort`` ``[B, H, A]`` and
    ``effort_curvature`` ``[B, H, A, A]``: of what the action itself costs.
    """

    states: np.ndarray
    by_state: np.ndarray
    by_action: np.ndarray
    cost: np.ndarray
    curvature: np.ndarray
    effort: np.ndarray
    effort_curvature: np.ndarray
