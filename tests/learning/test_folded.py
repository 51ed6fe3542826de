"""The predictor of the fused graphs is the one that was trained, whatever it is scaled by."""

import pytest
import torch

from jepa_robot.learning.networks import AgentShape
from jepa_robot.learning.predictors import FoldedMLP, Predictor, PredictorConfig, folded


@pytest.mark.parametrize(("proprioception", "z"), [(20, 0), (20, 2), (0, 0)])
def test_scales_in_the_outer_weights_compute_the_same(proprioception, z):
    torch.manual_seed(0)
    shape = AgentShape(2, (64, 64), proprioception, 3, 16, z=z)
    predictor = Predictor(shape).eval()
    predictor.scale.fit(2 + 0.1 * torch.randn(50, proprioception))
    predictor.step_scale.fit(0.3 * torch.randn(50, proprioception))
    state = torch.cat([2 + 0.1 * torch.randn(40, proprioception), torch.randn(40, 16)], dim=1)
    cause = torch.rand(40, 3), torch.randn(40, z)
    before = {name: value.clone() for name, value in predictor.state_dict().items()}
    one = folded(predictor)
    assert isinstance(one, FoldedMLP)
    with torch.no_grad():
        torch.testing.assert_close(one(state, *cause), predictor(state, *cause), atol=1e-5, rtol=0)
    for name, value in predictor.state_dict().items():
        assert torch.equal(value, before[name])  # the agent is learned on


def test_what_cannot_be_folded_stays_as_it_is():
    shape = AgentShape(2, (64, 64), 20, 3, 16, predictor=PredictorConfig(name="gru"))
    predictor = Predictor(shape)
    assert folded(predictor) is predictor
