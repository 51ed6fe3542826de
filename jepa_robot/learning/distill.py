"""Compiles Mode-2 into Mode-1: a policy that imitates the planner's actions.

"A Path Towards Autonomous Machine Intelligence" (LeCun, 2022), section 3.1.3. The planner that
labels is the run-time one, on the exported graphs. After a first round on recorded states, the
policy is rolled out in the world model and the planner labels where it went, noise included
(DAgger, Ross et al. 2011, in imagination): no simulator is needed. Where the planner is not sure,
that is where plans from the same state differ, its actions count less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch

from jepa_robot.learning.encoded import Encoded
from jepa_robot.learning.layers import check_numbers
from jepa_robot.learning.lived import HELD_OUT, pieces_of
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import Optimizer
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODE_2, Actor, ActorConfig
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.tasks import Task
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.contract import RobotContract

WEIGHTS = {"goal_latent": 1.0, "effort": 0.002, "joint_limits": 1.0}
JUDGED = 4096  # pairs
DOUBT = 0.2  # of the plans' actions: a standard deviation at which they count half
NEAREST_OF = (1, 8, 64, 512)  # goals: the nearest of so many random frames, in latent distance


@dataclass(frozen=True)
class DistillConfig:
    """Settings: planner's decisions a round, plans a decision, rounds, optimiser steps a round."""

    decisions: int = 2000
    rounds: int = 3
    iterations: int = 2000
    batch: int = 256
    learning_rate: float = 1e-3
    imagined_steps: int = 20
    noise: float = 0.3  # standard deviation of the action noise in imagination
    plans: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(self, "distill", ("seed", "noise"))


def distill(
    agent: Agent,
    planner: Planner,
    states: np.ndarray,
    config: DistillConfig,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Train the agent's policy.

    Args:
        agent: its policy is trained in place, everything else is left as it is.
        planner: gives the actions; it imagines with the same networks, exported.
        states: ``[M, S]``, encoded frames; their latents serve as goals too.
        config: settings.
        progress: called with labelled decisions done and wanted.

    Returns:
        Mean squared difference between policy and planner on the last round's states, before they
        were learned from.
    """
    rng = np.random.default_rng(config.seed)
    torch.manual_seed(config.seed)
    total = config.decisions * config.rounds
    inputs, goals, labels, weights = [], [], [], []
    held_out = float("nan")
    for round_number in range(config.rounds):
        state, goal = sample_pairs(agent, states, config.decisions, rng)
        if round_number > 0:
            state = imagine(agent, state, goal, config, rng)
        label = np.empty((len(state), agent.shape.actions), np.float32)
        weight = np.ones(len(state), np.float32)
        for index in range(len(state)):
            pair = state[index : index + 1], goal[index]
            planned = np.stack([planner.decide(*pair) for _ in range(config.plans)])
            label[index], weight[index] = planned.mean(axis=0), confidence(planned)
            if progress is not None:
                progress(round_number * config.decisions + index + 1, total)
        held_out = _disagreement(agent, state, goal, label)
        inputs.append(state)
        goals.append(goal)
        labels.append(label)
        weights.append(weight)
        known = map(np.concatenate, (inputs, goals, labels))
        fit_policy(agent, *known, config, rng, np.concatenate(weights))
    return held_out


def confidence(planned: np.ndarray) -> float:
    """How much the mean of actions ``[K, A]`` counts, that were planned from the same state."""
    return 1 / (1 + float(planned.var(axis=0).mean()) / DOUBT**2)


def disagreement(
    agent: Agent, planner: Planner, states: np.ndarray, count: int, seed: int
) -> Callable[[Agent], float]:
    """Of any agent's policy from the planner, mean squared, in so many of the states.

    Goals are latents of states, too; the planner is asked once.
    """
    state, goal = sample_pairs(agent, states, count, np.random.default_rng(seed))
    pairs = zip(np.split(state, count), goal, strict=True)
    label = np.stack([planner.decide(*pair) for pair in pairs])
    return lambda other: _disagreement(other, state, goal, label)


@torch.no_grad()
def _disagreement(
    agent: Agent, states: np.ndarray, goals: np.ndarray, actions: np.ndarray
) -> float:
    """Mean squared difference of the policy from actions ``[N, A]``."""
    done = agent.policy(torch.from_numpy(states), torch.from_numpy(goals)).numpy()
    return float(np.mean((done - actions) ** 2))


def compile_policy(
    bundle: Bundle,
    contract: RobotContract,
    task: Task,
    episodes: Sequence[Mapping[str, np.ndarray]],
    config: DistillConfig,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Agent, dict[str, float]]:
    """Compile what Mode-2 does in a task, in states that were lived through, into the policy.

    Goals are what was lived through, too (hindsight). Every fifth piece of life is held out.

    Returns:
        The bundle's networks, with the new policy; and how far policy and planner are apart on what
        was held out, mean squared: ``disagreement``, and ``disagreement_before``.

    Raises:
        InvalidDataset: there is too little to learn from.
        NotRevivable: the bundle does not say what networks it is of.
    """
    agent = revive(bundle)
    lived, held_out = pieces_of(episodes)
    planner = Planner(bundle, contract, config.seed, task.weights, task.planner)
    count = max(1, config.decisions // HELD_OUT)
    judge = disagreement(agent, planner, held_out.states, count, config.seed)
    before = judge(agent)
    distill(agent, planner, lived.states, config, progress)
    return agent, {"disagreement": judge(agent), "disagreement_before": before}


def sample_pairs(
    agent: Agent, states: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Recorded states ``[count, S]`` and goal latents ``[count, D]``, from near to far.

    Half of the goals are a frame's latent, as a goal image gives it, and half what the goal encoder
    gives for the same place, if there is one.
    """
    latents = states[:, agent.shape.proprioception :]
    chosen = rng.integers(len(states), size=count)
    goals = np.empty((count, latents.shape[1]), np.float32)
    for index, state in enumerate(chosen):
        candidates = rng.integers(len(states), size=rng.choice(NEAREST_OF))
        distance = np.square(latents[candidates] - latents[state]).sum(axis=1)
        goals[index] = latents[candidates[distance.argmin()]]
    if agent.goal_encoder is None:
        return states[chosen], goals
    with torch.no_grad():
        encoded = agent.goal_encoder(agent.readout(torch.from_numpy(goals))).numpy()
    is_encoded = rng.uniform(size=(count, 1)) < 0.5
    return states[chosen], np.where(is_encoded, encoded, goals)


@torch.no_grad()
def imagine(
    agent: Agent,
    states: np.ndarray,
    goals: np.ndarray,
    config: DistillConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Where the policy, with noise, takes states ``[N, S]`` in the world model; ``[N, S]``."""
    state, goal = torch.from_numpy(states), torch.from_numpy(goals)
    length = torch.from_numpy(rng.integers(1, config.imagined_steps + 1, size=(len(states), 1)))
    for step in range(config.imagined_steps):
        noise = torch.from_numpy(rng.normal(0, config.noise, (len(states), agent.shape.actions)))
        action = (agent.policy(state, goal) + noise.float()).clamp(-1, 1)
        state = torch.where(step < length, agent.predictor(state, action), state)
    return state.numpy()


def fit_policy(
    agent: Agent,
    states: np.ndarray,
    goals: np.ndarray,
    labels: np.ndarray,
    config: DistillConfig,
    rng: np.random.Generator,
    weights: np.ndarray | None = None,
) -> None:
    """Regress actions ``[N, A]``, which count as ``weights`` ``[N]`` say, or all alike."""
    state, goal, label = map(torch.from_numpy, (states, goals, labels))
    weight = torch.ones(len(labels)) if weights is None else torch.from_numpy(weights)
    weight = weight / weight.mean()
    optimizer = Optimizer(
        agent.policy.network.parameters(),
        config.iterations,
        config.learning_rate,
        weight_decay=1e-4,
    )
    for _ in range(config.iterations):
        chosen = torch.from_numpy(rng.integers(len(label), size=config.batch))
        action = agent.policy(state[chosen], goal[chosen])
        error = (action - label[chosen]).square().mean(dim=1)
        optimizer.step((weight[chosen] * error).mean())


def clone_behaviour(
    agent: Agent, encoded: Encoded, config: DistillConfig, furthest: int = 15
) -> float:
    """Train the policy on what was done in the data, with what came of it as the goal.

    Goal-conditioned behaviour cloning on hindsight goals, up to ``furthest`` steps ahead (Ghosh et
    al. 2021, arXiv:1912.06088): the baseline that needs neither a world model nor a planner.

    Args:
        agent: its policy is trained in place.
        encoded: the data.
        config: settings of the regression.
        furthest: steps from a frame to its goal, at most.

    Returns:
        Mean squared difference of policy and recorded actions.
    """
    rng = np.random.default_rng(config.seed)
    data = encoded.data
    starts = data.windows(1)
    last = np.repeat(data.offsets + data.lengths - 1, data.lengths - 1)
    ahead = np.minimum(starts + rng.integers(1, furthest + 1, (8, len(starts))), last)
    rows = np.tile(starts, len(ahead))
    states, goals = encoded.states[encoded.at(rows)], encoded.latents[encoded.at(ahead.ravel())]
    actions = data.columns["action"][rows]
    fit_policy(agent, states, goals, actions, config, rng)
    some = rng.integers(len(actions), size=JUDGED)
    with torch.no_grad():
        cloned = agent.policy(torch.from_numpy(states[some]), torch.from_numpy(goals[some]))
    return float(np.mean((cloned.numpy() - actions[some]) ** 2))


class Planner:
    """Mode-2 as it runs, asked for one decision after another, each from scratch.

    Args:
        bundle: gives world model and cost.
        contract: the robot of the bundle; None without joints.
        seed: of the first decision.
        weights: of the cost's terms.
        planner: its settings, as a task has them.
    """

    def __init__(
        self,
        bundle: Bundle,
        contract: RobotContract | None,
        seed: int,
        weights: Mapping[str, float] = MappingProxyType(WEIGHTS),
        planner: Mapping = MappingProxyType({}),
    ) -> None:
        self._bundle, self._contract, self._seed = bundle, contract, seed
        self._weights, self._settings = dict(weights), dict(planner)
        self._readout = bundle.session("readout") if bundle.has("readout") else None
        self._cost = Cost(bundle, contract)
        self._actor = Actor(bundle, WorldModel(bundle), self._cost)

    def decide(self, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """``[A]`` for a state ``[1, S]`` and a goal latent ``[D]``."""
        meant = {"latent": goal, "encoded": goal}
        if self._readout is not None:
            meant["position"] = self._readout(latent=goal[None])[0]
        section = {"weights": self._weights, "goal": meant}
        self._cost.configure(CostConfig.for_bundle(section, self._bundle, self._contract))
        self._seed += 1
        settings = {"mode": MODE_2, "seed": self._seed, "planner": self._settings}
        self._actor.configure(
            ActorConfig.from_section({**settings, "goal_latent": goal}, self._bundle.latent_size)
        )
        return self._actor.act(state)[0]
