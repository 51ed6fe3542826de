"""Learns on from what was lived: predictor, policy and critic of a bundle; and judges the outcome.

"A Path Towards Autonomous Machine Intelligence" (LeCun, 2022): the world model is trained on what
came of actions, critic and policy in it (section 3.1.3), from what short-term memory holds. What is
perceived stays as it is, so all of memory stays good, and the robot can go on while this learns.
"""

from __future__ import annotations

import copy
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jepa_robot.learning.distill import DistillConfig, Planner, disagreement, distill
from jepa_robot.learning.imagination import (
    ImaginationConfig,
    imagine,
    learn_in_imagination,
)
from jepa_robot.learning.lived import HELD_OUT, Lived, pieces_of
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.refinement import RefinementConfig, refine_predictor

JUDGED = 512  # imagined lives
JUDGED_STEPS = 40
BLOCK, LEAST_WATCHED, WATCHED = 20, 15, 30  # steps that are looked at as one, and such blocks
SURE, WORSE = 3.0, 0.2  # standard errors, and of what it was, by which worse is worse


@dataclass(frozen=True)
class LearnerConfig:
    """Settings of one round, on from what there is: shorter and slower than from nothing."""

    refinement: RefinementConfig = field(
        default_factory=lambda: RefinementConfig(iterations=600, horizon=8, learning_rate=7e-4)
    )
    imagination: ImaginationConfig = field(
        default_factory=lambda: ImaginationConfig(
            iterations=600, policy_rate=2e-4, critic_rate=5e-4
        )
    )

    distill: DistillConfig = field(
        default_factory=lambda: DistillConfig(decisions=300, plans=2, rounds=2, iterations=600)
    )

    @classmethod
    def of(cls, iterations: int, seed: int) -> LearnerConfig:
        """As many iterations of each, and half as many of the planner's decisions a round."""
        usual, given = cls(), {"iterations": iterations, "seed": seed}
        return cls(
            dataclasses.replace(usual.refinement, **given),
            dataclasses.replace(usual.imagination, **given),
            dataclasses.replace(usual.distill, decisions=(iterations + 1) // 2, **given),
        )


@dataclass(frozen=True)
class Scores:
    """Of a candidate and of what it came from, on episodes that neither has learned from.

    ``prediction``: squared error of states, some steps ahead, in units of their variance.
    ``policy``: what it costs a step, imagined by the candidate's predictor; or, where it learned
    from plans, how far it is from the planner, mean squared.
    """

    prediction: float
    prediction_before: float
    policy: float
    policy_before: float

    @property
    def is_better(self) -> bool:
        """Whether to take the candidate. NaN is not better."""
        return self.prediction <= self.prediction_before and self.policy <= self.policy_before

    def told(self) -> dict[str, float]:
        """By name, to three digits."""
        return {name: float(f"{value:.3g}") for name, value in vars(self).items()}


class _Series:
    """Blocks of numbers before and since a change."""

    def __init__(self) -> None:
        self._before: deque[float] = deque(maxlen=WATCHED)
        self._since: list[float] | None = None
        self._block: list[float] = []

    def changed(self) -> None:
        self._before.extend(self._since or ())
        self._since, self._block = [], []

    def see(self, value: float) -> None:
        self._block.append(value)
        if len(self._block) < BLOCK:
            return
        block, self._block = float(np.mean(self._block)), []
        if self._since is None:
            self._before.append(block)
        elif len(self._since) < WATCHED:
            self._since.append(block)

    @property
    def is_worse(self) -> bool:
        if min(len(self._before), len(self._since or ())) < LEAST_WATCHED:
            return False  # too little to compare
        before, since = np.array(self._before), np.array(self._since)
        change = since.mean() - before.mean()
        error = np.sqrt(before.var() / len(before) + since.var() / len(since))
        return bool(change > SURE * error and change > WORSE * before.mean())


class Watch:
    """Tells whether what is lived got worse since a change: surprise, and what states cost.

    Compares what came since with what came before, in blocks of steps, since steps that follow
    each other are alike. Costs are compared under the same goal alone.
    """

    def __init__(self) -> None:
        self._surprise, self._cost = _Series(), _Series()

    def changed(self) -> None:
        """What comes from now on is to be compared with what came."""
        self._surprise.changed()
        self._cost.changed()

    def has_another_goal(self) -> None:
        """What was costs tells nothing about what will."""
        self._cost = _Series()

    def see(self, surprise: float, cost: float) -> None:
        """Take note of a step."""
        self._surprise.see(surprise)
        self._cost.see(cost)

    @property
    def worse(self) -> str:
        """What got worse, in words; empty while nothing is shown to have."""
        series = {"surprise": self._surprise, "cost": self._cost}
        return " and ".join(name for name, one in series.items() if one.is_worse)


def learn(
    agent: Agent,
    episodes: Sequence[Mapping[str, np.ndarray]],
    config: LearnerConfig,
    unit: float,
    progress: Callable[[int, int], None] | None = None,
    planner: Planner | None = None,
) -> tuple[Agent, Scores]:
    """A candidate that learned from what was lived; the agent is left as it is.

    Args:
        agent: with a readout, that says what goals are about.
        episodes: as memory has them, oldest first.
        config: settings.
        unit: how far from its goal costs 1, in units of the readout.
        progress: called with steps of each part done and to do.
        planner: whose plans the policy learns from; None to learn it in imagination.

    Raises:
        InvalidDataset: there are too few or too short episodes.
    """
    horizon = config.refinement.horizon
    training, held_out = pieces_of(episodes)
    held_out.starts(horizon)
    candidate = copy.deepcopy(agent)
    refine_predictor(candidate, training, config.refinement, progress)
    predictions = [prediction_error(one, held_out, horizon) for one in (candidate, agent)]
    if planner is None:
        before = imagined_cost(candidate, held_out, config.imagination, unit)
        learn_in_imagination(candidate, training.states, config.imagination, unit, progress)
        after = imagined_cost(candidate, held_out, config.imagination, unit)
    else:
        count = max(1, config.distill.decisions // HELD_OUT)
        judge = disagreement(agent, planner, held_out.states, count, config.distill.seed)
        before = judge(candidate)
        distill(candidate, planner, training.states, config.distill, progress)
        after = judge(candidate)
    return candidate, Scores(*predictions, after, before)


@torch.no_grad()
def prediction_error(agent: Agent, lived: Lived, horizon: int) -> float:
    """Mean squared error of states so many steps ahead, in units of their variance."""
    starts = lived.starts(horizon)
    states = torch.from_numpy(lived.states)
    actions = torch.from_numpy(lived.actions[starts[:, None] + np.arange(horizon)])
    predicted = agent.rollout(states[starts], actions)[:, -1]
    spread = states.std(dim=0).clamp(min=1e-3)
    return float(((predicted - states[starts + horizon]) / spread).square().mean())


@torch.no_grad()
def imagined_cost(agent: Agent, lived: Lived, config: ImaginationConfig, unit: float) -> float:
    """What the policy costs a step, along imagined lives between places of what was lived."""
    rng = np.random.default_rng(config.seed)
    states = torch.from_numpy(lived.states)
    starts, ends = (torch.from_numpy(rng.integers(len(states), size=JUDGED)) for _ in range(2))
    place: Tensor = agent.readout(states[ends, agent.shape.proprioception :])
    goal = agent.goal_encoder(place)
    still = dataclasses.replace(config, noise=0.0, horizon=JUDGED_STEPS)
    _, costs = imagine(agent, states[starts], place, goal, still, unit)
    return float(costs.mean())
