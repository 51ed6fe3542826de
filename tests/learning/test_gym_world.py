"""Any Gymnasium environment: recorded, learned from, acted in, or refused by what it lacks."""

import numpy as np
import pytest

from jepa_robot.dataset import open_dataset
from jepa_robot.learning.distill import DistillConfig
from jepa_robot.learning.export import export
from jepa_robot.learning.jepa import JEPAConfig
from jepa_robot.learning.pipeline import TrainConfig, train_all
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import Bundle, InvalidBundle
from jepa_robot_sim.collect import collect
from jepa_robot_sim.exploration import explore, stay_near
from jepa_robot_sim.gym_world import (
    GymSource,
    GymWorld,
    InvalidEnvironment,
    evaluate_environment,
)

NAME, MODULE = "Dot-v0", "tests.dot_environments"
SECONDS = TrainConfig(
    jepa=JEPAConfig(
        latent_size=4, predictor=PredictorConfig(width=64), iterations=250, batch=16, horizon=4
    ),
    distill=DistillConfig(decisions=20, rounds=1, iterations=20),
)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("dots") / "dots.h5"
    collect(GymSource(NAME, MODULE, image_size=(32, 32)), path, 1500, seed=1)
    return path


@pytest.fixture(scope="module")
def bundle(recording, tmp_path_factory):
    folder = tmp_path_factory.mktemp("agent")
    train_all(recording, folder / "run", None, SECONDS)
    export(folder / "run", folder / "bundle", "dots", "a test")
    return Bundle(folder / "bundle")


def test_what_is_recorded_is_pictures_actions_and_labels(recording):
    data = open_dataset(recording)
    assert data.image_size == (32, 32)
    assert data.labels == ("achieved_goal",)
    assert "proprio" not in data.columns
    assert data.lengths.max() == 13  # the environment's own limit, and the frame before it
    assert data.about.interface["time_step"] == pytest.approx(0.1)
    assert [c["scale"] for c in data.about.interface["actions"]["channels"]] == [2.0, 2.0]


def test_the_same_seed_records_the_same(recording, tmp_path):
    collect(GymSource(NAME, MODULE, image_size=(32, 32)), tmp_path / "again.h5", 30, seed=1)
    again, data = open_dataset(tmp_path / "again.h5"), open_dataset(recording)
    np.testing.assert_array_equal(again.images(again.rows), data.images(again.rows))


def test_exploration_comes_back_and_moves():
    spans = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        free = explore(rng, 50, 3)
        actions = stay_near(rng, free)
        assert np.abs(actions).max() <= 1
        assert np.isin(np.abs(actions), [0, *np.abs(free).ravel()]).all()
        spans.append(np.abs(actions.cumsum(axis=0)).max())
    assert max(spans) <= 20
    assert np.mean(np.array(spans) < 5) > 0.3
    assert np.mean(spans) > 2


def test_planning_succeeds_and_resting_does_not(bundle):
    world = GymWorld(NAME, MODULE)
    rates = {
        mode: evaluate_environment(world, bundle, mode, 15, 100)["success_rate"]
        for mode in ("2", "hold")
    }
    assert rates["2"] >= 0.6
    assert rates["hold"] <= 0.3


def test_a_goal_may_be_a_picture(bundle):
    world = GymWorld(NAME, MODULE, {"goal": "image"})
    view = world.reset(3)
    assert view.goal is None
    assert view.goal_image.shape == (40, 40, 3)
    assert evaluate_environment(world, bundle, "2", 10, 100)["success_rate"] >= 0.5


def test_a_bundle_of_an_environment_has_a_window_of_frames_and_no_joints(bundle):
    assert (bundle.history, bundle.proprioception_size, bundle.goal_size) == (2, 0, 2)
    assert bundle.manifest["goal"] == "achieved_goal"


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("Nothing-v0", {}, "environment is 'Nothing-v0': .*expected a registered id"),
        (NAME, {"actions": "discrete"}, r"actions are Discrete\(4\), expected a Box"),
    ],
)
def test_what_an_environment_lacks_is_named(name, options, text):
    with pytest.raises(InvalidEnvironment, match=text):
        GymWorld(name, MODULE, options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"flag": ""}, "info has no success flag, expected is_success or success"),
        ({"goal": "none"}, "tells no goal, expected desired_goal beside achieved_goal"),
    ],
)
def test_what_evaluation_needs_is_named(bundle, options, text):
    with pytest.raises(InvalidEnvironment, match=text):
        evaluate_environment(GymWorld(NAME, MODULE, options), bundle, "2", 1, 0)


def test_a_bundle_for_other_pictures_is_refused(bundle):
    world = GymWorld(NAME, MODULE, {"size": 48})
    with pytest.raises(InvalidBundle, match=r"does not fit Dot-v0: cameras\[0\].width is 40"):
        evaluate_environment(world, bundle, "2", 1, 0)
