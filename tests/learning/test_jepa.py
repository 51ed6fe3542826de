"""A JEPA learned in a minute plans; without a regulariser it collapses (FINDINGS: the gates)."""

import dataclasses

import numpy as np
import pytest

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.checkpoint import Samples
from jepa_robot.learning.distill import DistillConfig, Planner, distill
from jepa_robot.learning.encoded import encode, prediction_ratio
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.jepa import JEPAConfig
from jepa_robot.learning.readout import readout_quality, train_goal_encoder, train_readout
from jepa_robot.learning.training import train_jepa
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task

MINUTE = JEPAConfig(latent_size=8, horizon=4, iterations=600, batch=24)
SHORT = DistillConfig(decisions=250, rounds=2, iterations=400)
GOALS = 20
LABEL, LABELS = "hand_position", 500


def learn(data, config):
    """Agent and metrics on held-out episodes."""
    training, validation = data.split(0.1)
    agent, _ = train_jepa(training, config)
    encoded, held_out = encode(agent, training), encode(agent, validation)
    train_readout(agent, encoded.latents, encoded.label(LABEL), LABELS, seed=0)
    train_goal_encoder(agent, encoded.latents, seed=0)
    return agent, {
        "readout_r2": readout_quality(agent, held_out.latents, held_out.label(LABEL))[0],
        "prediction_ratio": prediction_ratio(agent, held_out),
        "latent_std": held_out.latents.std(axis=0).mean(),
    }


@pytest.fixture(scope="module")
def learned(data):
    return learn(data, MINUTE)


def test_a_minute_of_training_passes_the_gates(learned):
    _, metrics = learned
    assert metrics["readout_r2"] > 0.95
    assert metrics["prediction_ratio"] < 0.3
    assert metrics["latent_std"] > 0.3


@pytest.fixture(scope="module")
def distances(learned, contract, data, tmp_path_factory):
    """Final distances (m) to goal images by mode, with a policy distilled for a few seconds."""
    agent, _ = learned
    folder = tmp_path_factory.mktemp("minute")
    record = {**contract.interface(), "name": "minute", "data": {}, "command": "", "results": {}}
    write_bundle(agent, Samples.draw(data, 1, 0), folder / "planner", record)
    states = encode(agent, data).states
    planner = Planner(Bundle(folder / "planner"), contract, SHORT.seed)
    distill(agent, planner, states, SHORT)
    write_bundle(agent, Samples.draw(data, 1, 0), folder / "bundle", record)
    judge, episodes = sample_episodes(contract, "reach", GOALS, seed=1)
    result = {}
    for mode in ("1", "2", "random"):
        runner = InProcessRunner(
            contract, Bundle(folder / "bundle"), load_task("reach"), judge, mode, "image"
        )
        result[mode] = np.array(evaluate(runner, contract, episodes, seed=0)["distances"])
        runner.close()
    return result


def test_planning_in_its_latent_space_reaches_goals(distances):
    assert np.mean(distances["2"] < 0.05) >= 0.7
    assert np.mean(distances["random"] < 0.05) < 0.2


def test_a_policy_distilled_from_the_planner_reaches_goals_too(distances):
    assert np.mean(distances["1"] < 0.05) >= 0.5


def test_without_a_regulariser_it_collapses(data):
    control = dataclasses.replace(
        MINUTE, prevention="none", inverse=0.0, linearity=0.0, iterations=120
    )
    training, validation = data.split(0.1)
    agent, _ = train_jepa(training, control)
    assert encode(agent, validation).latents.std(axis=0).mean() < 0.1


def test_training_repeats_to_the_bit(data):
    config = dataclasses.replace(MINUTE, iterations=3)
    agents = [train_jepa(data, config)[0] for _ in range(2)]
    first, second = (encode(agent, data.split(0.1)[1]).latents for agent in agents)
    np.testing.assert_array_equal(first, second)
