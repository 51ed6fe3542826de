"""Trains policy and critic in imagination: what is done and what it costs, in the world model.

The policy minimises, along imagined states, the same cost that the planner minimises, and beyond
them what the critic foresees; gradients go through the world model. "A Path Towards Autonomous
Machine Intelligence" (LeCun, 2022), sections 3.1.3 and 3.2; as in Dreamer (Hafner et al. 2020,
arXiv:1912.01603, equations 6 to 8), with stochastic value gradients (Heess et al. 2015,
arXiv:1510.09142).

The critic is a goal-conditioned cost-to-go that was learned and not made: `Cost` adds it to the
last state of a plan, so that a plan of a few steps knows of a contact that is many steps away.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from jepa_robot.learning.layers import check_numbers
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import Optimizer

LIVES = 4  # imagined states that are kept, as a multiple of the batch
FOLLOWING = 0.02  # of the way to the critic that its copy goes in a step
WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class ImaginationConfig:
    """Settings of training in imagination.

    ``horizon``: steps along which gradients go through the world model; ``life``: steps after which
    an imagined state is replaced by a recorded one. ``mixing`` is the lambda of the returns.
    ``noise``: standard deviation of what is added to every other action. ``effort`` weighs squared
    actions, as in `Cost`; ``furthest``: units of distance beyond which all are alike.
    """

    iterations: int = 2500
    batch: int = 256
    horizon: int = 10
    life: int = 50
    discount: float = 0.98
    mixing: float = 0.9
    noise: float = 0.3
    effort: float = 0.01
    furthest: float = 4.0
    policy_rate: float = 5e-4
    critic_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        zero = ("seed", "noise", "effort", "mixing")
        check_numbers(self, "imagination", zero, ("discount", "mixing"))


class _Lives:
    """Imagined states that go on where they were left, until they are as old as a life."""

    def __init__(self, states: Tensor, goals: Tensor, count: int, life: int) -> None:
        self._states, self._goals, self._life = states, goals, life
        self.state = states.new_empty(count, states.shape[1])
        self.goal = goals.new_empty(count, goals.shape[1])
        self.age = torch.zeros(count, dtype=torch.long)
        self._renew(torch.arange(count))
        self.age = torch.randint(0, life, (count,))

    def draw(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.randint(0, len(self.state), (batch,))
        return chosen, self.state[chosen], self.goal[chosen]

    def go_on(self, chosen: Tensor, states: Tensor, steps: int) -> None:
        self.state[chosen] = states
        self.age[chosen] += steps
        self._renew(chosen[self.age[chosen] >= self._life])

    def _renew(self, old: Tensor) -> None:
        self.state[old] = self._states[torch.randint(0, len(self._states), (len(old),))]
        self.goal[old] = self._goals[torch.randint(0, len(self._goals), (len(old),))]
        self.age[old] = 0


def learn_in_imagination(
    agent: Agent,
    states: np.ndarray,
    config: ImaginationConfig,
    unit: float,
    progress: Callable[[int, int], None] | None = None,
    learns_policy: bool = True,
) -> dict[str, float]:
    """Train the agent's policy and critic; everything else is left as it is.

    Args:
        agent: with a readout, that says what goals are about.
        states: ``[M, S]``, recorded and encoded: where imagination begins, and what goals are like.
        config: settings.
        unit: how far from its goal costs 1, in units of the readout.
        progress: called with steps done and to do.
        learns_policy: else the policy stays, and the critic learns what it costs.

    Returns:
        ``imagined_cost``: what the policy costs in the end, a step; ``critic_error``.
    """
    torch.manual_seed(config.seed)
    recorded = torch.from_numpy(states)
    with torch.no_grad():
        places = agent.readout(recorded[:, agent.shape.proprioception :])
        goals = torch.cat([places, agent.goal_encoder(places)], dim=1)
    lives = _Lives(recorded, goals, LIVES * config.batch, config.life)
    agent.requires_grad_(False)
    policy, critic, foreseen = agent.policy, agent.critic, copy.deepcopy(agent.critic)
    critic.networks.requires_grad_(True)
    policy.network.requires_grad_(learns_policy)
    decay = {"weight_decay": WEIGHT_DECAY}
    policy_step = Optimizer(
        policy.network.parameters(), config.iterations, config.policy_rate, **decay, norm=1.0
    )
    critic_step = Optimizer(
        critic.networks.parameters(), config.iterations, config.critic_rate, **decay
    )
    discounts = config.discount ** torch.arange(config.horizon)
    for number in range(config.iterations):
        chosen, state, goal = lives.draw(config.batch)
        place, latent = goal.split([agent.shape.goal, agent.shape.latent], dim=1)
        visited, costs = imagine(agent, state, place, latent, config, unit)
        after = torch.stack([foreseen(one, latent) for one in visited[1:]])
        beyond = config.discount**config.horizon * after[-1]
        if learns_policy:
            policy_step.step(((discounts[:, None] * costs).sum(dim=0) + beyond).mean())
        returns = lambda_returns(costs.detach(), after.detach(), config.discount, config.mixing)
        seen = torch.cat(visited[:-1]).detach()
        valued = critic(seen, latent.repeat(config.horizon, 1))
        error = functional.smooth_l1_loss(valued, returns.flatten())
        critic_step.step(error)
        with torch.no_grad():
            for old, new in zip(foreseen.parameters(), critic.parameters(), strict=True):
                old.lerp_(new, FOLLOWING)
        last = int(torch.randint(1, config.horizon + 1, (1,)))
        lives.go_on(chosen, visited[last].detach(), last)
        if progress is not None:
            progress(number + 1, config.iterations)
    agent.requires_grad_(True)
    critic.is_trained.fill_(True)
    return {"imagined_cost": float(costs.detach().mean()), "critic_error": float(error.detach())}


def imagine(
    agent: Agent,
    state: Tensor,
    place: Tensor,
    goal: Tensor,
    config: ImaginationConfig,
    unit: float,
) -> tuple[list[Tensor], Tensor]:
    """States visited, ``H + 1`` of ``[N, S]``, and what they cost, ``[H, N]``."""
    visited, costs = [state], []
    for _ in range(config.horizon):
        action = agent.policy(state, goal)
        is_noisy = torch.rand(len(state), 1) < 0.5
        noise = config.noise * torch.randn_like(action) * is_noisy
        action = (action + noise).clamp(-1, 1)
        state = agent.predictor(state, action)
        seen = agent.readout(state[:, agent.shape.proprioception :])
        costs.append(running_cost(seen, place, action, config, unit))
        visited.append(state)
    return visited, torch.stack(costs)


def running_cost(
    seen: Tensor, place: Tensor, action: Tensor, config: ImaginationConfig, unit: float
) -> Tensor:
    """What states cost, ``[...]``: distance from a place in units, up to the furthest, and effort.

    ``seen`` is what is read out of them, ``[..., G]``; actions ``[..., A]`` led there.
    """
    distance = (seen - place).square().sum(dim=-1).add(1e-8).sqrt() / unit
    effort = config.effort * action.square().sum(dim=-1)
    return distance.clamp(max=config.furthest) + effort


def lambda_returns(costs: Tensor, after: Tensor, discount: float, mixing: float) -> Tensor:
    """The lambda-returns ``[H, N]`` of costs and of what is foreseen after each, ``[H, N]``."""
    ahead, returns = after[-1], []
    for cost, value in zip(costs.flip(0), after.flip(0), strict=True):
        ahead = cost + discount * ((1 - mixing) * value + mixing * ahead)
        returns.append(ahead)
    return torch.stack(returns[::-1])
