"""`jepa-robot distill`: what the planner does in what was lived, compiled into the policy."""

import numpy as np
import pytest
import torch

from jepa_robot.cli.distill import run_distill
from jepa_robot.learning.distill import DistillConfig, confidence, fit_policy
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.modules.memory import FIELDS
from jepa_robot.modules.memory_files import MemoryFiles
from tests.learnable_bundle import episodes, random_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, contract):
    return Bundle(random_bundle(tmp_path_factory.mktemp("models") / "random", contract))


@pytest.fixture(scope="module")
def memory(tmp_path_factory, bundle):
    folder = tmp_path_factory.mktemp("memory")
    files = MemoryFiles(folder, bundle, 1 << 30)
    widths = {"cost": len(bundle.terms), "prediction": bundle.state_size, "surprise": 1}
    for number, one in enumerate(episodes(bundle, 20)):
        rows = len(one["stamp"])
        empty = {name: np.zeros((rows, size), np.float32) for name, size in widths.items()}
        steps = {**empty, **one, "episode": np.full(rows, number)}
        assert set(FIELDS) < set(steps)
        files.add(steps)
    files.close()
    return folder


def run(bundle, memory, out, decisions=40, rounds=2):
    told = []
    given = (str(bundle.path), out, memory, "panda", "reach", decisions, rounds, 0)
    return run_distill(*given, lambda *done: told.append(done), told.append), told


def test_the_policy_comes_nearer_to_the_planner_and_nothing_else_changes(bundle, memory, tmp_path):
    result, told = run(bundle, memory, tmp_path / "compiled")
    assert result["disagreement"] < 0.8 * result["disagreement_before"]
    assert result["steps"] == 600 and told[-1] == (80, 80)
    compiled = Bundle(tmp_path / "compiled")
    assert compiled.manifest["parent"] == bundle.id
    assert compiled.manifest["learned"]["distilled"] == "reach"
    compiled.check_space(bundle)
    state = np.zeros((1, bundle.state_size), np.float32)
    action = np.zeros((1, bundle.action_size), np.float32)
    z = np.zeros((1, 0), np.float32)
    one, other = (
        each.session("predictor")(state=state, action=action, z=z) for each in (bundle, compiled)
    )
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_what_the_planner_is_sure_of_counts_more(bundle):
    agent = revive(bundle)
    states = np.zeros((2, bundle.state_size), np.float32)
    goals = np.zeros((2, bundle.latent_size), np.float32)
    labels = np.full((2, bundle.action_size), 0.5, np.float32) * np.array([[1], [-1]], np.float32)
    plans = np.zeros((2, 3), np.float32), np.array([[0.2] * 3, [-0.2] * 3], np.float32)
    weights = np.array([confidence(each) for each in plans], np.float32)
    np.testing.assert_allclose(weights, [1.0, 0.5])
    config = DistillConfig(iterations=300, batch=64)
    fit_policy(agent, states, goals, labels, config, np.random.default_rng(0), weights)
    with torch.no_grad():
        done = agent.policy(torch.from_numpy(states[:1]), torch.from_numpy(goals[:1]))
    np.testing.assert_allclose(done, np.full((1, bundle.action_size), 0.5 / 3), atol=0.08)


def test_what_cannot_be_compiled_is_named_and_nothing_is_written(bundle, memory, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: is missing, expected what memory keeps"):
        run(bundle, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="memory holds no episode"):
        run(bundle, tmp_path / "empty", tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="expected the name of a new bundle"):
        run(bundle, memory, tmp_path / "there")
    assert not (tmp_path / "out").exists()
