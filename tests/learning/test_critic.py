"""The critic that is fitted to what was lived through."""

import dataclasses

import numpy as np
import pytest
import torch

from jepa_robot.dataset import InvalidDataset
from jepa_robot.learning.critic import CriticConfig, fit_critic
from jepa_robot.learning.export import write_version
from jepa_robot.learning.graph_parts import Function
from jepa_robot.learning.imagination import ImaginationConfig, lambda_returns, running_cost
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.modules.cost import Cost, CostConfig
from tests.learnable_bundle import random_bundle

UNIT, DISCOUNT = 2.0, 0.9
CONFIG = CriticConfig(
    members=3, iterations=500, batch=32, window=12, cost=ImaginationConfig(discount=DISCOUNT)
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, contract):
    return Bundle(random_bundle(tmp_path_factory.mktemp("models") / "random", contract))


def plain(bundle):
    """An agent that reads the latent's first numbers as a place, and encodes a place as them."""
    agent = revive(bundle)
    with torch.no_grad():
        for parameter in agent.readout.parameters():
            parameter.zero_()
        agent.readout.linear.weight[:, :3] = torch.eye(3)
    padded = (0, agent.shape.latent - 3)
    agent.goal_encoder = Function(lambda place: torch.nn.functional.pad(place, padded))
    return agent


def resting(bundle, count, seed=0, length=20):
    """Episodes in which nothing moves: what is ahead is what is, for ever."""
    rng = np.random.default_rng(seed)
    states = rng.standard_normal((count, bundle.state_size)).astype(np.float32)
    actions = np.zeros((count * length, bundle.action_size), np.float32)
    return Lived(np.repeat(states, length, axis=0), actions, np.full(count, length))


def foreseen(agent, states, goals):
    """Of each critic ``[C, N]``, and what comes, at rest."""
    with torch.no_grad():
        places = [agent.readout(rows[:, agent.shape.proprioception :]) for rows in (states, goals)]
        still = torch.zeros(len(states), agent.shape.actions)
        each = running_cost(*places, still, CONFIG.cost, UNIT)
        values = agent.critic.foresee(states, agent.goal_encoder(places[1]))
    return values.numpy(), (each / (1 - DISCOUNT)).numpy()


@pytest.mark.parametrize(("mixing", "iterations"), [(0.0, 1500), (0.95, 500), (1.0, 500)])
def test_what_rests_costs_what_it_costs_for_ever(bundle, mixing, iterations):
    agent = plain(bundle)
    config = dataclasses.replace(CONFIG, mixing=mixing, iterations=iterations)
    fit_critic(agent, resting(bundle, 300), config, UNIT)
    unseen = torch.from_numpy(resting(bundle, 400, seed=1, length=1).states)
    values, truth = foreseen(agent, unseen[:200], unseen[200:])
    assert values.shape == (3, 200)
    assert np.corrcoef(values.mean(axis=0), truth)[0, 1] > 0.8
    assert np.median(np.abs(values.mean(axis=0) - truth) / truth) < 0.25


def test_goals_that_were_pursued_are_taken_as_they_are(bundle):
    agent, lived = plain(bundle), resting(bundle, 1000, length=15)
    goals = np.zeros((len(lived.states), bundle.latent_size), np.float32)
    fit_critic(agent, lived, CONFIG, UNIT, goals=goals)
    states = torch.from_numpy(resting(bundle, 200, seed=1, length=1).states)
    nowhere = torch.zeros_like(states)
    values, truth = foreseen(agent, states, nowhere)
    assert np.corrcoef(values.mean(axis=0), truth)[0, 1] > 0.8


def test_critics_differ_where_nothing_was_lived(bundle):
    agent = plain(bundle)
    lived = resting(bundle, 200)
    lived.states[:] *= 0.3
    fit_critic(agent, lived, CONFIG, UNIT)
    near = 0.3 * torch.from_numpy(resting(bundle, 200, seed=1, length=1).states)
    spreads = [foreseen(agent, scale * near, near)[0].std(axis=0).mean() for scale in (1, 5)]
    assert spreads[1] > 2 * spreads[0]


def test_lambda_returns_lie_between_one_step_and_all():
    costs, after = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[10.0], [20.0], [30.0]])
    one = lambda_returns(costs, after, 0.5, 0.0).flatten().tolist()
    assert one == [1 + 5, 2 + 10, 3 + 15]
    whole = lambda_returns(costs, after, 0.5, 1.0).flatten().tolist()
    assert whole == [1 + 0.5 * (2 + 0.5 * 18), 2 + 0.5 * 18, 18]


def test_several_critics_are_exported_revived_and_planned_with(bundle, contract, tmp_path):
    agent = revive(bundle)
    lived = resting(bundle, 40)
    fit_critic(agent, lived, dataclasses.replace(CONFIG, iterations=20), UNIT)
    manifest = write_version(agent, bundle, lived, tmp_path / "several", {})
    several = Bundle(tmp_path / "several")
    assert manifest["critics"] == 3 and "spread" in several.session("critic").outputs
    again = revive(several)
    rows = torch.from_numpy(lived.states[:5])
    goals = rows[:, agent.shape.proprioception :].contiguous()
    with torch.no_grad():
        expected = agent.critic.foresee(rows, goals)
        np.testing.assert_allclose(again.critic.foresee(rows, goals), expected, atol=1e-5)
    told = several.session("critic").run(state=rows.numpy(), goal_latent=goals.numpy())
    np.testing.assert_allclose(told["cost"], expected.mean(dim=0), atol=1e-4)
    np.testing.assert_allclose(told["spread"], expected.std(dim=0), atol=1e-4)
    cost = Cost(several, contract)
    section = {"weights": {"cost_to_go": 1.0}, "goal": {"encoded": goals[0].tolist()}}
    cost.configure(CostConfig.for_bundle(section, several))
    assert cost.terms(rows[:1].numpy())[0, -1] == pytest.approx(float(told["cost"][0]), rel=1e-3)


def test_too_short_a_life_is_refused_by_name(bundle):
    with pytest.raises(InvalidDataset, match="longest episode has 5 steps, expected at least 13"):
        fit_critic(revive(bundle), resting(bundle, 9, length=5), CONFIG, UNIT)


@pytest.mark.parametrize("wrong", [{"mixing": 1.5}, {"members": 0}, {"window": 2.5}])
def test_settings_are_checked(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"critic.{name} is"):
        CriticConfig(**wrong)
