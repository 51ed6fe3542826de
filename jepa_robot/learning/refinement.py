"""Trains a predictor on: of frames that are encoded once, at a fraction of the cost of pictures.

While a JEPA is trained nearly all the time goes into its encoder. Once that is as it will be, the
predictor sees many times as many windows in as much time, further ahead: a world model on the
latents of an encoder that is kept, as in DINO-WM (Zhou et al. 2024, arXiv:2411.04983).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from jepa_robot.learning.layers import check_numbers
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import Optimizer


@dataclass(frozen=True)
class RefinementConfig:
    """Settings. ``proprioception`` weighs the body beside latents.

    ``horizon``: imagined steps. Over few of them a drift of what should rest is lost in the noise
    of what is seen, and a policy finds it.
    """

    iterations: int = 2500
    batch: int = 96
    horizon: int = 16
    learning_rate: float = 2e-3
    proprioception: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "refinement", ("iterations", "proprioception", "seed"))


def refine_predictor(
    agent: Agent,
    lived: Lived,
    config: RefinementConfig,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train the agent's predictor on windows of what was lived; all else is left as it is."""
    if not config.iterations:
        return
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    joints = agent.shape.proprioception
    rows = lived.starts(config.horizon)
    states, actions = torch.from_numpy(lived.states), torch.from_numpy(lived.actions)
    spread = states.std(dim=0).clamp(min=1e-3)
    weight = torch.ones(states.shape[1])
    weight[:joints] = config.proprioception
    optimizer = Optimizer(
        agent.predictor.network.parameters(), config.iterations, config.learning_rate
    )
    for number in range(config.iterations):
        now = torch.from_numpy(rng.choice(rows, config.batch))
        state, loss = states[now], 0.0
        for _ in range(config.horizon):
            state, now = agent.predictor(state, actions[now]), now + 1
            error = (state - states[now]) / spread
            loss = loss + (weight * error.square()).mean()
        optimizer.step(loss / config.horizon)
        if progress is not None:
            progress(number + 1, config.iterations)
