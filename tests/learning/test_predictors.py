"""Every predictor, with and without proprioception and z, alone and as an exported graph."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from jepa_robot.learning.encoders import EncoderConfig
from jepa_robot.learning.networks import Agent, AgentShape, GoalEncoder, Policy, Readout
from jepa_robot.learning.optimize import Optimizer
from jepa_robot.learning.predictors import PREDICTORS, Predictor, PredictorConfig
from tests.learning.parity import assert_graph_computes_what_torch_does

SIZES = [(0, 0), (14, 3), (14, 0), (0, 3)]
A = 3


def shape_of(name, proprioception=14, z=0, latent=20, **settings):
    config = PredictorConfig(name, **{"width": 32, "heads": 4, **settings})
    return AgentShape(2, (64, 64), proprioception, A, latent, z=z, predictor=config)


def predictor_of(name, proprioception=14, z=0, **settings):
    """One whose layers were all trained a little, as some of them start at 0."""
    torch.manual_seed(0)
    predictor = Predictor(shape_of(name, proprioception, z, **settings))
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    predictor.scale.fit(3 + 2 * torch.randn(50, proprioception))
    predictor.step_scale.fit(0.1 * torch.randn(50, proprioception))
    return predictor.eval()


def inputs_of(proprioception, z, rows=5, latent=20):
    torch.manual_seed(1)
    sizes = {"state": proprioception + latent, "action": A, "z": z}
    return {name: torch.randn(rows, size) for name, size in sizes.items()}


@pytest.mark.parametrize(("proprioception", "z"), SIZES)
@pytest.mark.parametrize("name", PREDICTORS)
def test_the_exported_graph_computes_the_same_and_declares_z(name, proprioception, z, tmp_path):
    assert_graph_computes_what_torch_does(
        predictor_of(name, proprioception, z),
        inputs_of(proprioception, z),
        tmp_path / "predictor.onnx",
    )


class Perception(nn.Module):
    """The signature of the bundle's encoder graph."""

    def __init__(self, agent):
        super().__init__()
        self.encoder = agent.encoder

    def forward(self, images, proprioception):
        return torch.cat([proprioception, self.encoder(images)], dim=1)


def test_the_other_graphs_take_a_state_without_proprioception(tmp_path):
    agent = Agent(dataclasses.replace(shape_of("mlp", 0), goal=2))
    latent = torch.randn(4, 20)
    path = tmp_path / "graph.onnx"
    assert_graph_computes_what_torch_does(agent.policy, {"state": latent, "goal": latent}, path)
    images = torch.randint(0, 256, (4, 2, 64, 64, 3), dtype=torch.uint8)
    inputs = {"images": images, "proprioception": torch.zeros(4, 0)}
    assert_graph_computes_what_torch_does(Perception(agent), inputs, path)


@pytest.mark.parametrize("name", PREDICTORS)
def test_a_step_of_proprioception_is_in_units_of_a_typical_step(name):
    predictor = predictor_of(name)
    state, action, z = inputs_of(14, 0).values()
    moved = predictor(state, action, z)[:, :14] - state[:, :14]
    predictor.step_scale.std *= 10
    torch.testing.assert_close(
        predictor(state, action, z)[:, :14] - state[:, :14], 10 * moved, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("name", PREDICTORS)
def test_proprioception_is_seen_in_its_own_units(name):
    """Scaled state and scaling: the same prediction."""
    predictor = predictor_of(name)
    state, action, z = inputs_of(14, 0).values()
    expected = predictor(state, action, z)
    factor = torch.ones(34)
    factor[:14] = 1000
    for part in (predictor.scale.mean, predictor.scale.std, predictor.step_scale.std):
        part *= 1000
    actual = predictor(state * factor, action, z) / factor
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("proprioception", "z"), SIZES)
@pytest.mark.parametrize("name", PREDICTORS)
def test_the_next_state_depends_on_all_that_it_is_given_and_on_its_own_row_only(
    name, proprioception, z
):
    predictor = predictor_of(name, proprioception, z)
    inputs = inputs_of(proprioception, z)
    before = predictor(**inputs)
    assert before.shape == inputs["state"].shape
    for key, value in inputs.items():
        for column in range(value.shape[1]):
            changed = value.clone()
            changed[2, column] += 1
            after = predictor(**{**inputs, key: changed})
            differs = (after != before).any(dim=1)
            assert differs.tolist() == [False, False, True, False, False], (key, column)


@pytest.mark.parametrize("name", PREDICTORS)
def test_no_z_is_z_at_its_centre(name):
    predictor = predictor_of(name, z=3)
    state, action, z = inputs_of(14, 3).values()
    torch.testing.assert_close(predictor(state, action), predictor(state, action, 0 * z))
    assert not torch.allclose(predictor(state, action), predictor(state, action, z))


def test_a_fresh_transformer_predicts_no_change():
    predictor = Predictor(shape_of("transformer"))
    state, action, z = inputs_of(14, 0).values()
    torch.testing.assert_close(predictor(state, action, z), state)


@pytest.mark.parametrize("name", PREDICTORS)
def test_it_learns_a_motion_whose_latents_grow_beyond_one(name):
    """x' = x + a where |x| is up to 4, with the direction of a read off another number."""
    torch.manual_seed(0)
    shape = shape_of(name, 0, latent=4, width=64)
    predictor = Predictor(shape)
    optimizer = Optimizer(predictor.parameters(), 150, 3e-3)
    for _ in range(150):
        state, action = 2 * torch.randn(64, 4), torch.rand(64, A) * 2 - 1
        moved = torch.stack([action[:, 0], action[:, 1] * state[:, 0].sign()], dim=1)
        target = state + torch.cat([moved, torch.zeros(64, 2)], dim=1)
        error = (predictor(state, action) - target).square().mean()
        optimizer.step(error)
    assert error < 0.3 * moved.square().mean() / 2


def test_a_rollout_chains_steps_and_gives_each_its_z():
    agent = Agent(shape_of("gru", z=2)).eval()
    state, actions, z = torch.randn(4, 34), torch.randn(4, 3, A), torch.randn(4, 3, 2)
    states = agent.rollout(state, actions, z)
    assert states.shape == (4, 3, 34)
    for step in range(3):
        state = agent.predictor(state, actions[:, step], z[:, step])
        torch.testing.assert_close(states[:, step], state)
    torch.testing.assert_close(
        agent.rollout(state, actions), agent.rollout(state, actions, torch.zeros_like(z))
    )


def test_a_goal_may_have_another_size_than_three():
    shape = dataclasses.replace(shape_of("mlp"), goal=7)
    latent = torch.randn(5, 20)
    assert Readout(shape)(latent).shape == (5, 7)
    assert GoalEncoder(shape)(torch.randn(5, 7)).shape == (5, 20)
    policy = Policy(shape, Readout(shape))
    assert policy(torch.randn(5, 34), latent).shape == (5, A)


def test_a_shape_survives_json():
    shape = AgentShape(
        1, (48, 64), 0, 2, 15, 3, 2, 4, EncoderConfig("vit", width=64), PredictorConfig("gru")
    )
    assert AgentShape.from_dict(json.loads(json.dumps(dataclasses.asdict(shape)))) == shape


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "lstm"}, "predictor.name is 'lstm', expected one of mlp, gru, transformer"),
        ({"width": 0}, "predictor.width is 0, expected a whole number of at least 1"),
        ({"depth": True}, "predictor.depth is True, expected a whole number of at least 1"),
        (
            {"name": "transformer", "width": 30},
            "predictor.width is 30, expected a multiple of 4 heads",
        ),
    ],
)
def test_a_bad_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictorConfig(**settings)


@pytest.mark.parametrize("field", ["cameras", "actions", "latent", "history"])
def test_a_size_of_nothing_is_refused(field):
    with pytest.raises(ValueError, match=f"shape.{field} is 0, expected a whole number"):
        dataclasses.replace(shape_of("mlp"), **{field: 0})
