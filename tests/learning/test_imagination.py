"""Policy and critic trained in imagination, in a world that is known."""

import numpy as np
import pytest
import torch
from torch import nn

from jepa_robot.learning.imagination import ImaginationConfig, learn_in_imagination
from jepa_robot.learning.networks import Agent, AgentShape

STEP = 0.04  # m that a full action moves


class Integrator(nn.Module):
    """A latent that is a place, and moves as actions say."""

    def forward(self, state, action, z=None):
        return state + STEP * action


@pytest.fixture(scope="module")
def learned():
    torch.manual_seed(0)
    agent = Agent(AgentShape(1, (32, 32), proprioception=0, actions=2, latent=2, goal=2))
    agent.predictor, agent.goal_encoder = Integrator(), nn.Identity()
    nn.init.eye_(agent.readout.linear.weight)
    for layer in (agent.readout.linear, agent.readout.rest[2]):
        nn.init.zeros_(layer.bias)
    nn.init.zeros_(agent.readout.rest[2].weight)
    agent.readout.scale.std.fill_(1.0)
    states = np.random.default_rng(0).uniform(-0.3, 0.3, (500, 2)).astype(np.float32)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    config = ImaginationConfig(iterations=500, batch=64)
    figures = learn_in_imagination(agent, states, config, unit=0.1)
    return agent, before, figures


@torch.no_grad()
def test_the_policy_goes_to_the_goal_and_stays(learned):
    agent, _, figures = learned
    start, goal = torch.tensor([[-0.2, 0.1], [0.25, -0.2]]), torch.tensor([[0.1, 0.0], [0.0, 0.2]])
    state, away = start, []
    for _ in range(25):
        state = agent.predictor(state, agent.policy(state, goal))
        away.append((state - goal).norm(dim=1))
    assert (torch.stack(away[15:]) < 0.03).all()
    assert 0 < figures["imagined_cost"] < 1


@torch.no_grad()
def test_the_critic_foresees_what_the_policy_will_cost(learned):
    agent, _, _ = learned
    config = ImaginationConfig()
    distance = torch.linspace(0, 0.3, 7)[:, None]
    state = torch.cat([distance - 0.1, torch.zeros_like(distance)], dim=1)
    goal = torch.tensor([[-0.1, 0.0]]).expand(7, 2)
    foreseen, cost = agent.critic(state, goal), torch.zeros(7)
    for step in range(100):
        action = agent.policy(state, goal)
        state = agent.predictor(state, action)
        here = 10 * (state - goal).norm(dim=1) + config.effort * action.square().sum(dim=1)
        cost += config.discount**step * here
    assert (foreseen.diff() > 0).all()
    # Noise on every other action is foreseen too: a floor under what a policy alone would cost.
    assert torch.corrcoef(torch.stack([foreseen, cost]))[0, 1] > 0.97
    above = foreseen - cost
    assert above.min() > 0 and above.max() - above.min() < 1.0


def test_nothing_else_is_touched(learned):
    agent, before, _ = learned
    trained = {name for name, value in agent.state_dict().items() if not value.equal(before[name])}
    assert {name.split(".")[0] for name in trained} == {"policy", "critic"}
    assert not any("readout" in name for name in trained)
    assert all(parameter.requires_grad for parameter in agent.policy.network.parameters())
    assert agent.critic.is_trained


@pytest.mark.parametrize(("field", "value"), [("batch", 0), ("discount", 1.5), ("noise", -0.1)])
def test_settings_are_checked(field, value):
    with pytest.raises(ValueError, match=f"imagination.{field} is {value}"):
        ImaginationConfig(**{field: value})
