"""A readout of what is slow, learned from no label."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa_robot.learning.encoded import Encoded
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.readout import map_to_truth, readout_quality, train_slow_readout

EPISODES, LENGTH = 150, 20


@pytest.fixture(scope="module")
def seen():
    """Latents that mix, not linearly, a place that seldom moves with one that always does."""
    rng = np.random.default_rng(0)
    moves = 0.05 * rng.normal(size=(EPISODES, LENGTH, 2))
    moves *= rng.uniform(size=(EPISODES, LENGTH, 1)) < 0.2
    slow = rng.uniform(-1, 1, (EPISODES, 1, 2)) + moves.cumsum(axis=1)
    fast = rng.uniform(-1, 1, (EPISODES, LENGTH, 2))
    slow, fast = (part.reshape(-1, 2) for part in (slow, fast))
    mixed = np.concatenate([slow + 0.3 * fast, fast, slow * fast, fast**2], axis=1)
    latents = mixed.astype(np.float32)
    rows = np.arange(len(latents))
    starts = rows.reshape(EPISODES, LENGTH)[:, :-1].ravel()
    data = SimpleNamespace(windows=lambda horizon: starts)
    return Encoded(data, rows, latents, np.zeros((len(rows), 0)), torch.zeros(0)), slow, fast


def new_agent(features=2):
    torch.manual_seed(0)
    shape = AgentShape(1, (32, 32), proprioception=0, actions=2, latent=8, goal=features)
    return Agent(shape)


def r2(agent, latents, truth):
    mapping = map_to_truth(agent, latents, truth, 500, seed=0)
    return readout_quality(agent, latents, truth, mapping)[0]


def test_it_is_of_what_seldom_moves_in_units_of_its_spread(seen):
    encoded, slow, fast = seen
    agent = new_agent()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    train_slow_readout(agent, encoded, seed=0)
    assert r2(agent, encoded.latents, slow) > 0.95
    assert r2(agent, encoded.latents, fast) < 0.1
    with torch.no_grad():
        features = agent.readout(torch.from_numpy(encoded.latents))
    torch.testing.assert_close(torch.cov(features.T), torch.eye(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(features.mean(dim=0), torch.zeros(2), atol=1e-3, rtol=0)
    trained = {name for name, value in agent.state_dict().items() if not value.equal(before[name])}
    assert {name for name in trained if not name.startswith(("policy.r", "critic.r"))} == {
        name for name in before if name.startswith("readout.") and "scale" not in name
    }
    train_slow_readout(agent, encoded, seed=1)
    with torch.no_grad():
        again = agent.readout(torch.from_numpy(encoded.latents))
    assert torch.corrcoef(torch.cat([features, again], dim=1).T)[:2, 2:].diag().min() > 0.97


def test_one_feature_is_enough_for_one_thing(seen):
    agent = new_agent(features=1)
    train_slow_readout(agent, seen[0], seed=0)
    with torch.no_grad():
        assert abs(agent.readout(torch.from_numpy(seen[0].latents)).std().item() - 1) < 1e-2
