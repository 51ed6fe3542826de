"""One graph rolls out and costs, another gives the gradient: both compute what torch does."""

import dataclasses
import math

import numpy as np
import onnxruntime
import pytest
import torch

from jepa_robot.learning import terms
from jepa_robot.learning.adjoint import adjoint
from jepa_robot.learning.export import _export
from jepa_robot.learning.fused_parity import fused_parity, imagined_costs
from jepa_robot.learning.fusing import Sizes, fuse
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import DERIVATIVES, FUSED
from jepa_robot.modules.intrinsic import limits_of
from jepa_robot.robot.contract import INTRINSIC

SHAPE = AgentShape(
    cameras=1,
    image_size=(32, 32),
    proprioception=7,
    actions=2,
    latent=6,
    predictor=PredictorConfig(width=16),
)
JOINTS = 3


def random_agent(**changes):
    torch.manual_seed(0)
    agent = Agent(dataclasses.replace(SHAPE, **changes)).eval()
    agent.critic.is_trained.fill_(True)
    for network in (agent.predictor, agent.readout, agent.critic):
        if network is not None:
            for parameter in network.parameters():  # also those that begin as 0
                parameter.data += 0.1 * torch.randn_like(parameter)
    return agent


def fused(agent, folder, joints=JOINTS):
    shape = agent.shape
    state, latent = torch.randn(4, shape.state), torch.randn(4, shape.latent)
    imagined = {"state": state, "action": torch.rand(4, shape.actions)}
    imagined["z"] = torch.randn(4, shape.z)
    _export(agent.predictor, imagined, ("next_state",), folder / "predictor.onnx")
    if shape.goal:
        _export(agent.readout, {"latent": latent}, ("position",), folder / "readout.onnx")
    if agent.critic.is_trained:
        inputs = {"state": state, "goal_latent": latent}
        _export(agent.critic, inputs, ("cost",), folder / "critic.onnx")
    sizes = Sizes.of(shape, joints, 0.1)
    fuse(folder, sizes, agent)
    return sizes


def session(folder, name):
    return onnxruntime.InferenceSession(
        str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )


def example(sizes, count=5, horizon=3, draws=1):
    rng = np.random.default_rng(0)

    def drawn(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {
        "state": drawn(1, sizes.state),
        "actions": np.tanh(drawn(count, horizon, sizes.actions)),
        "z": drawn(count, draws, horizon, sizes.z),
        "goal_latent": drawn(sizes.latent),
        "goal_position": drawn(sizes.goal),
        "goal_encoded": drawn(sizes.latent),
        "limits": limits_of(None),
        "weights": np.abs(drawn(len(INTRINSIC) + len(terms.TERMS) + 1)),
        "step_weights": np.abs(drawn(horizon)),
    }


RELATED = {"relations": True, "joints": JOINTS}


@pytest.mark.parametrize("predictor", ["mlp", "gru", "transformer"])
@pytest.mark.parametrize(
    "changes", [{}, {"z": 2}, {"goal": 0}, {"proprioception": 0}, RELATED], ids=str
)
def test_every_kind_of_agent_is_fused(predictor, changes, tmp_path):
    config = PredictorConfig(name=predictor, width=16, heads=2)
    agent = random_agent(predictor=config, **changes)
    joints = JOINTS if agent.shape.proprioception else 0
    sizes = fused(agent, tmp_path, joints)
    states = torch.randn(9, sizes.state)
    parity = fused_parity(tmp_path, sizes, agent, states)
    assert parity.keys() == {"plan", "plan_gradient"} and max(parity.values()) < 1e-5


def test_without_a_critic_nothing_is_foreseen(tmp_path):
    agent = random_agent()
    agent.critic.is_trained.fill_(False)
    sizes = fused(agent, tmp_path)
    assert max(fused_parity(tmp_path, sizes, agent, torch.randn(9, sizes.state)).values()) < 1e-5


@pytest.mark.parametrize(("count", "horizon", "draws"), [(1, 1, 1), (1, 9, 3), (40, 2, 1)])
def test_any_number_of_candidates_steps_and_draws_is_taken(count, horizon, draws, tmp_path):
    agent = random_agent(z=2)
    sizes = fused(agent, tmp_path)
    inputs = example(sizes, count, horizon, draws)
    costs, states = session(tmp_path, "plan").run(["costs", "states"], inputs)
    assert costs.shape == (count, draws)
    assert states.shape == (count, draws, horizon, sizes.state)
    named = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        expected = imagined_costs(agent, sizes, named)
    np.testing.assert_allclose(costs, expected, rtol=1e-4)
    gradients = session(tmp_path, "plan_gradient").run(["gradients"], inputs)[0]
    assert gradients.shape == inputs["actions"].shape


def test_gradients_are_what_finite_differences_say(tmp_path):
    sizes = fused(random_agent(), tmp_path)
    inputs = example(sizes, count=1)
    gradients = session(tmp_path, "plan_gradient").run(["gradients"], inputs)[0][0]
    plan, step = session(tmp_path, "plan"), 1e-2
    for place in np.ndindex(gradients.shape):
        costs = []
        for sign in (1, -1):
            actions = inputs["actions"].copy()
            actions[(0, *place)] += sign * step
            costs.append(plan.run(["costs"], {**inputs, "actions": actions})[0][0, 0])
        slope = (costs[0] - costs[1]) / (2 * step)
        assert slope == pytest.approx(gradients[place], rel=0.05, abs=0.02)


def test_the_jacobian_and_the_slope_of_the_cost_are_torchs(tmp_path):
    agent = random_agent()
    sizes = fused(agent, tmp_path)
    inputs = example(sizes, count=4, horizon=1)
    state, action = torch.randn(4, sizes.state), torch.rand(4, sizes.actions)
    z = torch.zeros(4, 0)
    values = {"state": state.numpy(), "action": action.numpy()}
    by = session(tmp_path, "jacobian").run(None, {**values, "z": z.numpy()})
    for row in range(4):

        def step(s, a):
            return agent.predictor(s[None], a[None], z[:1])[0]

        expected = torch.autograd.functional.jacobian(step, (state[row], action[row]))
        for value, true in zip(by, expected, strict=True):
            np.testing.assert_allclose(value[row], true, atol=1e-5)
    names = ("goal_latent", "goal_position", "limits", "goal_encoded", "weights")
    known = {name: inputs[name] for name in names}
    slopes = session(tmp_path, "cost_gradient").run(None, {**values, **known})
    state.requires_grad_(True)
    goal = torch.from_numpy(known["goal_encoded"]).expand(4, -1)
    ahead = agent.critic(state, goal).sum() * float(known["weights"][-1])
    np.testing.assert_allclose(slopes[2], torch.autograd.grad(ahead, state)[0], atol=1e-4)
    assert slopes[0].shape == (4, sizes.state) and slopes[1].shape == (4, sizes.actions)
    assert not slopes[0][:, JOINTS : sizes.proprioception].any() and slopes[0].any()


def test_a_term_that_is_registered_is_in_every_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(terms, "TERMS", terms.TERMS)
    monkeypatch.setitem(terms.NEEDS, "far_out", "")

    def far_out(seen):
        return seen.latent.abs().sum(dim=1)

    monkeypatch.setitem(terms.TERMS, "far_out", far_out)
    agent = random_agent()
    sizes = fused(agent, tmp_path)
    assert max(fused_parity(tmp_path, sizes, agent, torch.randn(9, sizes.state)).values()) < 1e-5
    inputs = example(sizes)
    inputs["weights"] = np.zeros(len(INTRINSIC) + len(terms.TERMS) + 1, np.float32)
    inputs["weights"][len(INTRINSIC) + list(terms.TERMS).index("far_out")] = 2.0
    costs, states = session(tmp_path, "plan").run(["costs", "states"], inputs)
    latents = np.abs(states[:, 0, :, sizes.proprioception :]).sum(axis=2)
    np.testing.assert_allclose(costs[:, 0], 2 * latents @ inputs["step_weights"], rtol=1e-4)


@pytest.mark.parametrize("name", ["effort", "cost_to_go"])
def test_a_name_that_is_taken_is_refused(name):
    with pytest.raises(ValueError, match=f"cost term '{name}' is registered already"):
        terms.term(name)


def test_a_goal_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="needs 'glory', expected one of"):
        terms.term("vain", needs="glory")


def test_graphs_share_their_weights(tmp_path):
    """The gradient goes through the predictor twice."""
    fused(random_agent(), tmp_path)
    size = {name: (tmp_path / f"{name}.onnx").stat().st_size for name in (*FUSED, *DERIVATIVES)}
    assert size["plan_gradient"] < 1.6 * size["plan"] + 40_000


def test_an_adjoint_takes_any_number_of_rows():
    layer = torch.nn.Linear(3, 2)

    def function(x):
        return layer(x).tanh()[:, 1:] * x.mean(dim=1, keepdim=True)

    module = adjoint(function, (torch.randn(7, 3),), (0,))
    for rows in (1, 4, 50):
        x, v = torch.randn(rows, 3, requires_grad=True), torch.randn(rows, 1)
        (expected,) = torch.autograd.grad(function(x), x, v)
        torch.testing.assert_close(module(x.detach(), v)[0], expected)
    assert math.isfinite(float(expected.sum()))
