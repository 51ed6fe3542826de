"""Trains the critic from memory: what was lived through, under goals that it had or might have had.

``TC(s, g) ≈ E[ Σ_k γ^k C(s[t+k], g) ]``, the trainable cost of "A Path Towards Autonomous Machine
Intelligence" (LeCun, 2022), section 3.2: of whatever behaviour filled the memory, and as good as
that was. Targets are lambda-returns (Sutton & Barto, "Reinforcement Learning", 2018, section 12.1):
``mixing`` 0 is temporal difference, 1 Monte Carlo as far as an episode goes. Goals are relabelled
in hindsight (Andrychowicz et al. 2017, arXiv:1707.01495). Several critics, each on other halves of
the episodes, differ where there was little to learn from (Osband et al. 2016, arXiv:1602.04621).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa_robot.learning.imagination import (
    FOLLOWING,
    WEIGHT_DECAY,
    ImaginationConfig,
    lambda_returns,
    running_cost,
)
from jepa_robot.learning.layers import check_numbers
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent, Critic
from jepa_robot.learning.optimize import Optimizer

OWN_FUTURE = 0.5  # of the goals are of what came later in the same episode


@dataclass(frozen=True)
class CriticConfig:
    """Settings of training from memory.

    ``members``: critics; ``window``: steps of an episode that are looked at as one. ``cost`` says
    what states cost, and the discount.
    """

    members: int = 5
    iterations: int = 2000
    batch: int = 32
    window: int = 30
    mixing: float = 0.95
    learning_rate: float = 1e-3
    cost: ImaginationConfig = dataclasses.field(default_factory=ImaginationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "critic", ("mixing", "seed"), ("mixing",))


def fit_critic(
    agent: Agent,
    lived: Lived,
    config: CriticConfig,
    unit: float,
    progress: Callable[[int, int], None] | None = None,
    goals: np.ndarray | None = None,
) -> dict[str, float]:
    """Give the agent critics of its own memory, in place of what it had.

    Under goals that were pursued they foresee what the behaviour costs. In hindsight they foresee
    what it cost who pursued something else, which is more where a goal is hard to come by.

    Args:
        agent: with a readout, that says what goals are about.
        lived: what was lived through.
        config: settings.
        unit: how far from its goal costs 1, in units of the readout.
        progress: called with steps done and to do.
        goals: latents ``[N, D]`` of those that were pursued; None for any, in hindsight.

    Returns:
        ``critic_error``, of the last steps.

    Raises:
        InvalidDataset: no episode is long enough.
    """
    starts = lived.starts(config.window)
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    shape = dataclasses.replace(agent.shape, critics=config.members)
    agent.critic, agent.shape = Critic(shape, agent.readout), shape
    agent.critic.scale.load_state_dict(agent.policy.scale.state_dict())
    agent.requires_grad_(False)
    critic, foreseen = agent.critic, copy.deepcopy(agent.critic)
    networks = critic.networks.requires_grad_(True)
    memory = _Memory(agent, lived, starts, config, rng, goals)
    step = Optimizer(
        networks.parameters(),
        config.iterations,
        config.learning_rate,
        weight_decay=WEIGHT_DECAY,
    )
    errors = []
    for number in range(config.iterations):
        states, actions, place, goal, counts = memory.draw()
        with torch.no_grad():
            seen = agent.readout(states[1:].flatten(0, 1)[:, agent.shape.proprioception :])
            seen = seen.unflatten(0, states[1:].shape[:2])
            costs = running_cost(seen, place, actions, config.cost, unit)
            after = foreseen.foresee(states[1:].flatten(0, 1), goal.repeat(config.window, 1))
            after = after.unflatten(1, costs.shape)
            targets = torch.stack(
                [lambda_returns(costs, one, config.cost.discount, config.mixing) for one in after]
            )
        valued = critic.foresee(states[:-1].flatten(0, 1), goal.repeat(config.window, 1))
        error = functional.smooth_l1_loss(valued, targets.flatten(1), reduction="none")
        error = (error * counts.repeat(1, config.window)).mean()
        step.step(error)
        errors.append(float(error.detach()))
        with torch.no_grad():
            for old, new in zip(foreseen.parameters(), critic.parameters(), strict=True):
                old.lerp_(new, FOLLOWING)
        if progress is not None:
            progress(number + 1, config.iterations)
    agent.requires_grad_(True)
    critic.is_trained.fill_(True)
    return {"critic_error": float(np.mean(errors[-100:]))}


class _Memory:
    """Windows of episodes, with goals, and how much each counts for each critic."""

    def __init__(
        self,
        agent: Agent,
        lived: Lived,
        starts: np.ndarray,
        config: CriticConfig,
        rng: np.random.Generator,
        goals: np.ndarray | None,
    ) -> None:
        self._config, self._rng, self._starts = config, rng, starts
        self._states, self._actions = map(torch.from_numpy, (lived.states, lived.actions))
        with torch.no_grad():
            if goals is None:
                self._places = agent.readout(self._states[:, agent.shape.proprioception :])
                self._goals = agent.goal_encoder(self._places)
            else:
                self._goals = torch.from_numpy(goals)
                self._places = agent.readout(self._goals)
        self._in_hindsight = goals is None
        self._episodes = np.repeat(np.arange(len(lived.lengths)), lived.lengths)
        self._ends = np.cumsum(lived.lengths)
        counts = np.ones((config.members, len(lived.lengths)), np.float32)
        if config.members > 1:
            order = rng.permuted(np.tile(np.arange(counts.shape[1]), (config.members, 1)), axis=1)
            counts = 2 * (order < (counts.shape[1] + 1) // 2).astype(np.float32)
        self._counts = torch.from_numpy(counts)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """States ``[W + 1, B, S]``, actions ``[W, B, A]``, places ``[B, G]``, goals ``[B, D]``.

        And how much each counts for each critic, ``[C, B]``.
        """
        begin = self._rng.choice(self._starts, self._config.batch)
        rows = begin + np.arange(self._config.window + 1)[:, None]
        episodes = self._episodes[begin]
        goals = self._in_hindsight_of(begin, episodes) if self._in_hindsight else begin
        return (
            self._states[rows],
            self._actions[rows[:-1]],
            self._places[goals],
            self._goals[goals],
            self._counts[:, episodes],
        )

    def _in_hindsight_of(self, begin: np.ndarray, episodes: np.ndarray) -> np.ndarray:
        """Rows ``[B]`` that are taken for goals."""
        later = self._rng.integers(begin + 1, self._ends[episodes])
        anywhere = self._rng.integers(len(self._states), size=len(begin))
        is_own = self._rng.uniform(size=len(begin)) < OWN_FUTURE
        return np.where(is_own, later, anywhere)
