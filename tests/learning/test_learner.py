"""Learning on from a bundle: what is revived, learned, judged, written and watched."""

import json
import math
import shutil

import numpy as np
import onnx
import pytest
import torch

from jepa_robot.dataset import InvalidDataset
from jepa_robot.learning import learner
from jepa_robot.learning.distill import Planner
from jepa_robot.learning.export import write_version
from jepa_robot.learning.learner import LearnerConfig, Scores, Watch, learn
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.revive import NotRevivable, revive
from jepa_robot.models import Bundle, write_manifest
from tests.learnable_bundle import episodes, random_bundle

CONFIG = LearnerConfig.of(80, seed=0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, contract):
    return Bundle(random_bundle(tmp_path_factory.mktemp("models") / "random", contract))


@pytest.fixture(scope="module")
def lived(bundle):
    return episodes(bundle, 40)


@pytest.fixture(scope="module")
def learned(bundle, lived):
    return learn(revive(bundle), lived, CONFIG, 0.1)


def test_what_is_revived_computes_what_the_bundle_does(bundle):
    agent, rng = revive(bundle), np.random.default_rng(0)
    sizes = {
        "state": bundle.state_size,
        "action": bundle.action_size,
        "latent": bundle.latent_size,
        "goal_latent": bundle.latent_size,
        "position": 3,
    }
    for name in ("predictor", "policy", "critic", "readout", "goal_encoder"):
        session = bundle.session(name)
        given = {
            key: rng.standard_normal((5, sizes[key])).astype(np.float32)
            for key in session.inputs
            if key != "z"
        }
        with torch.no_grad():
            expected = getattr(agent, name)(*map(torch.from_numpy, given.values())).numpy()
        z = {"z": np.zeros((5, 0), np.float32)} if "z" in session.inputs else {}
        np.testing.assert_allclose(session(**given, **z), expected, atol=1e-5)


def test_a_policy_learns_from_plans_where_it_is_told_to(bundle, lived, contract):
    config = LearnerConfig.of(60, seed=0)
    planner = Planner(bundle, contract, 0, planner={"candidates": 32, "horizon": 3, "elites": 4})
    agent = revive(bundle)
    candidate, scores = learn(agent, lived, config, 0.1, planner=planner)
    assert scores.policy < 0.9 * scores.policy_before
    for name in ("critic", "readout"):
        for one, other in zip(
            getattr(agent, name).parameters(), getattr(candidate, name).parameters(), strict=True
        ):
            assert torch.equal(one, other)


def test_bundles_that_do_not_say_what_they_are_are_not_revived(bundle, tiny, tmp_path):
    with pytest.raises(NotRevivable, match=r"bundle tiny-.* has no recipe"):
        revive(Bundle(tiny))
    shutil.copytree(bundle.path, tmp_path / "other")
    model = onnx.load(str(tmp_path / "other/policy.onnx"))
    (weights,) = [one for one in model.graph.initializer if one.name == "network.0.weight"]
    model.graph.initializer.remove(weights)
    onnx.save(model, str(tmp_path / "other/policy.onnx"))
    write_manifest(tmp_path / "other", json.loads((bundle.path / "manifest.json").read_text()))
    with pytest.raises(NotRevivable, match=r"policy.onnx: network.0.weight is missing, expected"):
        revive(Bundle(tmp_path / "other"))


def test_learning_predicts_better_acts_better_and_leaves_what_says_where_things_are(
    bundle, learned
):
    candidate, scores = learned
    assert scores.prediction < 0.5 * scores.prediction_before
    assert scores.policy < scores.policy_before and scores.is_better
    before = revive(bundle).state_dict()
    for name, value in candidate.state_dict().items():
        if name.split(".")[0] in ("readout", "goal_encoder"):
            assert value.equal(before[name])


def test_a_seed_repeats_what_is_learned(bundle, lived):
    config = LearnerConfig.of(5, seed=3)
    one, other = (learn(revive(bundle), lived, config, 0.1) for _ in range(2))
    assert one[1] == other[1]
    for name in ("predictor", "policy", "critic"):
        pairs = zip(
            getattr(one[0], name).parameters(), getattr(other[0], name).parameters(), strict=True
        )
        assert all(torch.equal(*pair) for pair in pairs)


def test_what_is_not_finite_is_never_better(bundle, lived):
    assert not Scores(math.nan, 1.0, 0.1, 1.0).is_better
    assert not Scores(0.1, 1.0, math.nan, 1.0).is_better
    spoilt = [{name: rows.copy() for name, rows in one.items()} for one in lived[:10]]
    for one in spoilt:
        one["state"][3] = np.nan
    _, scores = learn(revive(bundle), spoilt, LearnerConfig.of(3, 0), 0.1)
    assert not scores.is_better


@pytest.mark.parametrize(
    ("some", "says"),
    [
        (slice(0, 0), "memory holds no episode"),
        (slice(0, 4), "memory holds no episode"),  # to hold out
    ],
)
def test_too_little_is_refused(bundle, lived, some, says):
    with pytest.raises(InvalidDataset, match=says):
        learn(revive(bundle), lived[some], CONFIG, 0.1)
    short = [{name: rows[:5] for name, rows in one.items()} for one in lived]
    with pytest.raises(InvalidDataset, match="longest episode has 5 steps, expected at least 9"):
        learn(revive(bundle), short, CONFIG, 0.1)


def test_a_version_is_of_the_same_space_and_knows_where_it_came_from(
    bundle, learned, lived, tmp_path
):
    candidate, scores = learned
    told = {"steps": 7, "scores": scores.told()}
    write_version(candidate, bundle, Lived.of(lived), tmp_path / "next", told)
    version = Bundle(tmp_path / "next")
    version.check_space(bundle)
    assert version.id != bundle.id and version.manifest["parent"] == bundle.id
    assert version.manifest["parent_path"] == str(bundle.path.resolve())
    assert version.manifest["learned"] == told
    files, before = version.manifest["files"], bundle.manifest["files"]
    changed = {name for name, digest in files.items() if before.get(name) != digest}
    assert {"predictor.onnx", "policy.onnx", "critic.onnx", "plan.onnx"} <= changed
    assert "encoder.onnx" not in changed and set(files) == set(before)
    version.check_runs()
    revive(version)  # and can be learned on from


def steps(watch, surprise, cost, count, rng):
    for _ in range(count):
        watch.see(surprise * rng.uniform(0.5, 1.5), cost * rng.uniform(0.5, 1.5))


@pytest.mark.parametrize(
    ("surprise", "cost", "worse"),
    [
        (1.0, 1.0, ""),
        (0.5, 0.5, ""),
        (1.5, 1.0, "surprise"),
        (1.0, 1.5, "cost"),
        (2.0, 2.0, "surprise and cost"),
    ],
)
def test_the_watch_tells_what_got_worse(surprise, cost, worse):
    watch, rng = Watch(), np.random.default_rng(0)
    enough = learner.BLOCK * learner.WATCHED
    steps(watch, 1.0, 1.0, enough, rng)
    assert watch.worse == ""
    watch.changed()
    steps(watch, surprise, cost, enough // 4, rng)
    assert watch.worse == ""  # too early to say
    steps(watch, surprise, cost, enough, rng)
    assert watch.worse == worse


def test_costs_are_not_compared_with_those_of_another_goal():
    watch, rng = Watch(), np.random.default_rng(0)
    steps(watch, 1.0, 1.0, 1000, rng)
    watch.changed()
    watch.has_another_goal()
    steps(watch, 1.0, 5.0, 1000, rng)
    assert watch.worse == ""
    watch.changed()
    steps(watch, 1.0, 10.0, 1000, rng)
    assert watch.worse == "cost"
