"""Every planner plans in a bundle's fused graphs: no torch, no matter how many starts."""

from functools import partial

import numpy as np
import pytest
import torch

from jepa_robot.learning.checkpoint import Samples
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import Bundle
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.distributed import Distributed
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning import PLANNERS, make_planner, read_planner

HORIZON = 4


@pytest.fixture(scope="module")
def bundle(request, contract, tmp_path_factory):
    torch.manual_seed(0)
    joints, cameras = len(contract.joints), len(contract.cameras)
    shape = AgentShape(
        cameras=cameras,
        image_size=(64, 64),
        proprioception=2 * joints,
        actions=contract.actions.size,
        latent=6,
        z=getattr(request, "param", 0),
        predictor=PredictorConfig(width=32),
    )
    agent = Agent(shape).eval()
    agent.critic.is_trained.fill_(True)
    samples = Samples(
        images=torch.randint(0, 255, (8, cameras, 64, 64, 3), dtype=torch.uint8),
        proprioception=0.3 * torch.randn(8, 2 * joints),
        actions=torch.rand(8, shape.actions),
    )
    about = {"name": "random", "data": {}, "command": "", "results": {}}
    path = tmp_path_factory.mktemp("imagined") / "random"
    write_bundle(agent, samples, path, {**contract.interface(), **about})
    return Bundle(path)


@pytest.fixture(scope="module")
def states(bundle, contract):
    rows = 0.3 * np.random.default_rng(0).standard_normal((2, bundle.state_size))
    rows[:, :7] = contract.home
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def make(bundle, contract):
    cost = Cost(bundle, contract)
    section = {
        "weights": {"goal_distance": 1.0, "effort": 0.1, "joint_limits": 1.0, "cost_to_go": 0.5},
        "goal": {"position": [0.5, 0.1, 0.3], "encoded": [0.5] * bundle.latent_size},
    }
    cost.configure(CostConfig.for_bundle(section, bundle))
    goal = np.full(bundle.latent_size, 0.5, np.float32)
    weights = np.linspace(1, 2, HORIZON, dtype=np.float32)

    def problem(states, kind=Imagined, graph="plan"):
        return kind(bundle, WorldModel(bundle), cost, states, goal, weights, graph)

    problem.cost = cost
    return problem


def test_costs_are_those_of_world_model_and_cost_one_after_the_other(make, bundle, states):
    actions = np.random.default_rng(1).uniform(-1, 1, (2, 5, HORIZON, 3)).astype(np.float32)
    costs, model = make(states).costs(actions), WorldModel(bundle)
    weights = np.linspace(1, 2, HORIZON, dtype=np.float32)
    for start, (state, some) in enumerate(zip(states, actions, strict=True)):
        expected = make.cost.total(model.rollout(state[None], some), some, weights)
        np.testing.assert_allclose(costs[start], expected, rtol=1e-4)


def test_eight_bits_cost_nearly_the_same(make, bundle, states):
    assert bundle.precisions == ("float32", "int8")
    actions = np.random.default_rng(1).uniform(-1, 1, (2, 50, HORIZON, 3)).astype(np.float32)
    exact, rounded = make(states).costs(actions), make(states, graph="plan_int8").costs(actions)
    assert (exact != rounded).mean() > 0.9
    error = np.abs(rounded - exact).mean(axis=1)
    assert (error < 0.1 * exact.std(axis=1)).all()


@pytest.mark.parametrize("bundle", [0, 2], indirect=True, ids=["no z", "z"])
def test_costs_are_the_same_where_others_are_asked(make, bundle, states):
    def ask(states, actions):
        return make.cost.steps(WorldModel(bundle).rollout(states, actions), actions)

    actions = np.random.default_rng(1).uniform(-1, 1, (2, 5, HORIZON, 3)).astype(np.float32)
    expected = make(states).costs(actions)
    elsewhere = make(states, partial(Distributed, ask)).costs(actions)
    np.testing.assert_allclose(elsewhere, expected, rtol=1e-4, atol=1e-4)


def test_following_the_policy_gives_its_actions_in_imagination(make, bundle, states):
    actions = make(states).follow(np.zeros((2, 3, HORIZON, 3), np.float32))
    goals = np.full((2, bundle.latent_size), 0.5, np.float32)
    policy, state = bundle.session("policy"), states
    for step in range(HORIZON):
        action = policy(state=state, goal_latent=goals)
        np.testing.assert_allclose(actions[:, :, step], action[:, None].repeat(3, 1), atol=1e-5)
        state = WorldModel(bundle).predict(state, action)


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_lowers_the_cost_of_both_starts(name, make, bundle, states):
    settings = {"name": name, "horizon": HORIZON, "answer": "best"}
    if name == "cem_gradient":
        settings["seeds"] = 4
    planner = make_planner(*read_planner(settings), bundle.action_size)
    problem = make(states)
    nothing = problem.costs(np.zeros((2, 1, HORIZON, 3), np.float32))[:, 0]
    plan = planner.plan(problem)
    assert (plan.cost < nothing).all()
    np.testing.assert_allclose(problem.costs(plan.actions[:, None])[:, 0], plan.cost, rtol=1e-4)


def test_starts_side_by_side_are_planned_as_alone(make, bundle, states):
    for name in ("ilqr", "tree_search"):  # that draw nothing
        section = {"name": name, "horizon": HORIZON}
        both = make_planner(*read_planner(section), bundle.action_size).plan(make(states))
        for start in range(2):
            one = make_planner(*read_planner(section), bundle.action_size)
            alone = one.plan(make(states[start : start + 1]))
            np.testing.assert_allclose(alone.actions[0], both.actions[start], atol=1e-3)


def test_dynamic_programming_knows_where_the_cost_bends(make, states):
    """The expansion foretells what a small change of the actions does."""
    problem, rng = make(states[:1]), np.random.default_rng(0)
    actions = rng.uniform(-0.5, 0.5, (1, HORIZON, 3)).astype(np.float32)
    change = 0.05 * rng.standard_normal(actions.shape).astype(np.float32)
    expansion = problem.expand(actions)
    moved, foretold = np.zeros(expansion.states.shape[-1]), 0.0
    for step in range(HORIZON):
        delta = change[0, step]
        moved = expansion.by_state[0, step] @ moved + expansion.by_action[0, step] @ delta
        foretold += expansion.cost[0, step] @ moved + expansion.effort[0, step] @ delta
        foretold += moved @ expansion.curvature[0, step] @ moved / 2
        foretold += delta @ expansion.effort_curvature[0, step] @ delta / 2
    costs = problem.costs(np.stack([actions, actions + change], axis=1))[0]
    assert foretold == pytest.approx(costs[1] - costs[0], rel=0.1, abs=0.02)
