"""Learns a policy from demonstrations.

Behaviour cloning of what was right in states that noise led to (DART: Laskey et al. 2017,
arXiv:1703.09327). It is for what imagination does not teach: a grasp is a conjunction of being
there, around the block and closed; a world model that is wrong about its edge is found out at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from jepa_robot.dataset import Dataset
from jepa_robot.dataset_checks import SHOWN
from jepa_robot.learning.encoded import Encoded
from jepa_robot.learning.layers import check_whole
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import Optimizer

WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class ImitationConfig:
    """Settings: optimiser steps, demonstrated states a step."""

    iterations: int = 6000
    batch: int = 512
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, "imitation", {"iterations": 1, "batch": 1, "seed": 0})
        rate = self.learning_rate
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
            raise ValueError(f"imitation.learning_rate is {rate!r}, expected a number in (0, 1)")


def demonstrated_rows(data: Dataset) -> np.ndarray:
    """``[N]``: rows of the usable episodes at which somebody showed what is right."""
    rows = data.rows
    if not set(SHOWN) <= set(data.columns):
        return rows[:0]
    return rows[np.isfinite(data.columns[SHOWN[0]][rows]).all(axis=1)]


def imitate(
    agent: Agent,
    encoded: Encoded,
    config: ImitationConfig,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Train the agent's policy on what was demonstrated; everything else is left as it is.

    Goals are what the goal encoder makes of where the demonstration was to lead.

    Args:
        agent: with a goal encoder.
        encoded: data with demonstrations.
        config: settings.
        progress: called with steps done and to do.

    Returns:
        Mean absolute difference of policy and demonstrations, at the end.
    """
    torch.manual_seed(config.seed)
    rows = demonstrated_rows(encoded.data)
    shown, goals = (torch.from_numpy(encoded.data.columns[name][rows]) for name in SHOWN)
    states = torch.from_numpy(encoded.states[encoded.at(rows)])
    with torch.no_grad():
        goals = agent.goal_encoder(goals)
    agent.requires_grad_(False)
    agent.policy.network.requires_grad_(True)
    optimizer = Optimizer(
        agent.policy.network.parameters(),
        config.iterations,
        config.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    for number in range(config.iterations):
        chosen = torch.randint(0, len(rows), (config.batch,))
        # What is closed is closed: of two answers the absolute error takes one, not their mean.
        error = (agent.policy(states[chosen], goals[chosen]) - shown[chosen]).abs().mean()
        optimizer.step(error)
        if progress is not None:
            progress(number + 1, config.iterations)
    agent.requires_grad_(True)
    return float(error.detach())
