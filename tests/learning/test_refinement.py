"""A predictor trained on encoded frames: better at what it predicts, and nothing else touched."""

import dataclasses

import pytest
import torch

from jepa_robot.learning.encoded import encode, prediction_ratio
from jepa_robot.learning.jepa import JEPAConfig, new_agent
from jepa_robot.learning.refinement import RefinementConfig, refine_predictor
from jepa_robot.robot.contract import load_contract


def test_refinement_predicts_better_and_touches_nothing_else(data):
    agent = new_agent(data, JEPAConfig(), load_contract("panda")).eval()
    encoded = encode(agent, data)
    assert encoded.states.shape[1] == 14 + 6 + 16
    assert (encoded.lived.starts(5) == encoded.at(data.windows(5))).all()
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    first, told = prediction_ratio(agent, encoded), []
    refine_predictor(
        agent,
        encoded.lived,
        RefinementConfig(iterations=150, batch=64),
        lambda *done: told.append(done),
    )
    assert prediction_ratio(agent, encoded) < 0.5 * first
    trained = {name for name, value in agent.state_dict().items() if not value.equal(before[name])}
    assert {name.split(".")[0] for name in trained} == {"predictor"}
    assert told[-1] == (150, 150)
    refined = [value.clone() for value in agent.predictor.parameters()]
    refine_predictor(agent, encoded.lived, RefinementConfig(iterations=0))
    assert all(map(torch.equal, refined, agent.predictor.parameters()))


def test_settings_are_checked():
    says = r"refinement\.horizon is 0, expected a whole number above 0"
    with pytest.raises(ValueError, match=says):
        dataclasses.replace(RefinementConfig(), horizon=0)
