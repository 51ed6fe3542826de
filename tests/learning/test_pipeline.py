"""All stages of training in a row, as `jepa-robot train` runs them."""

import dataclasses
import shutil

import h5py
import numpy as np
import pytest
import torch

from jepa_robot import resources
from jepa_robot.learning.batches import Batches
from jepa_robot.learning.checkpoint import load_checkpoint
from jepa_robot.learning.configuration import configure
from jepa_robot.learning.distill import DistillConfig
from jepa_robot.learning.export import export
from jepa_robot.learning.imagination import ImaginationConfig
from jepa_robot.learning.jepa import JEPA, JEPAConfig, new_agent
from jepa_robot.learning.pipeline import TrainConfig, prevention_sees, train_all
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.learning.refinement import RefinementConfig
from jepa_robot.models import Bundle
from jepa_robot.modules.configurator import Configurator
from jepa_robot.modules.tasks import InvalidTask, load_task

MOMENT = TrainConfig(
    jepa=JEPAConfig(latent_size=4, predictor=PredictorConfig(width=16), iterations=4, batch=4),
    distill=DistillConfig(decisions=20, rounds=2, iterations=5, imagined_steps=3),
    labels=50,
    seed=3,
)


@pytest.fixture(scope="module")
def trained(contract, data_file, tmp_path_factory):
    run = tmp_path_factory.mktemp("pipeline") / "run"
    calls = []
    metrics = train_all(data_file, run, contract, MOMENT, lambda *call: calls.append(call))
    return run, metrics, calls


def test_metrics_and_progress_cover_every_stage(trained):
    _, metrics, calls = trained
    assert {"readout_r2", "prediction_ratio", "latent_std", "policy_error"} <= set(metrics)
    assert 0 < metrics["view_distance"] < 1
    assert set(metrics["seconds"]) == {"jepa", "readout", "policy"}
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_the_bundle_records_data_labels_seed_and_recipe(trained, contract, tmp_path):
    export(trained[0], tmp_path / "bundle", "moment", "a command", contract)
    manifest = Bundle(tmp_path / "bundle").manifest
    data = manifest["data"]
    assert (data["transitions"], data["labelled_frames"], data["task"]) == (2000, 50, "reach")
    assert data["runs"][0]["seed"] == 7
    assert manifest["recipe"]["jepa"]["seed"] == manifest["recipe"]["distill"]["seed"] == 3
    assert manifest["recipe"]["jepa"]["predictor"]["width"] == 16
    assert manifest["results"]["readout_r2"] == trained[1]["readout_r2"]


def test_the_bundle_can_tell_what_the_cameras_should_show(trained, contract, tmp_path):
    export(trained[0], tmp_path / "bundle", "moment", "a command", contract)
    assert list(Bundle(tmp_path / "bundle").session("encoder").outputs) == ["state", "views"]


def test_a_finished_run_is_not_written_over(trained, contract, data_file):
    with pytest.raises(FileExistsError, match="expected the name of a new run"):
        train_all(data_file, trained[0], contract, MOMENT)


def test_missing_data_is_named(contract, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a recording made by collect"):
        train_all(tmp_path / "nothing", tmp_path / "run", contract, MOMENT)
    assert not list(tmp_path.iterdir())


def test_collapse_is_prevented_of_what_joints_do_not_tell_where_goals_are_about_that(data):
    assert prevention_sees(data, MOMENT) == "embedding"  # joints tell where the hand is
    luck = np.random.default_rng(0).normal(size=(len(data.columns["action"]), 3))
    other = dataclasses.replace(
        data,
        about=dataclasses.replace(data.about, goal="luck"),
        columns={**data.columns, "luck": luck.astype(np.float32)},
    )
    assert prevention_sees(other, MOMENT) == "residual"
    chosen = dataclasses.replace(MOMENT.jepa, prevention_sees="embedding")
    assert prevention_sees(other, dataclasses.replace(MOMENT, jepa=chosen)) == "embedding"


def test_a_residual_is_free_of_what_joints_explain(data):
    config = dataclasses.replace(MOMENT.jepa, prevention_sees="residual")
    model, seen = JEPA(new_agent(data, config), config), []
    model.prevention.register_forward_hook(lambda _, parts, out: seen.append(parts))
    windows = Batches(data, 4, config.horizon, 1, seed=0)[0]
    explained = model.losses(*windows)["explained"]
    with torch.no_grad():
        for parameter in model.explained.parameters():
            parameter.zero_()
    model.losses(*windows)
    assert explained > 0
    shifts = [one - other for one, other in zip(*seen, strict=True)]
    torch.testing.assert_close(shifts[0][:, 1:], shifts[1])  # the same of latents, of what was
    torch.testing.assert_close(shifts[1], shifts[2])  # predicted, and of targets
    assert shifts[0].abs().max() > 0


def test_the_shared_penalty_takes_out_of_the_embedding_what_joints_explain(data):
    config = dataclasses.replace(MOMENT.jepa, prevention_sees="residual", shared=2.0)
    model = JEPA(new_agent(data, config), config)
    windows = Batches(data, 32, config.horizon, 1, seed=0)[0]
    embedded = []
    model.prevention.register_forward_hook(lambda _, parts, out: embedded.append(parts[0]))
    before = model.losses(*windows)["shared"]
    before.backward()
    assert all(parameter.grad is None for parameter in model.explained.parameters())
    felt = model.agent.body(windows[1].flatten(0, 1))
    with torch.no_grad():
        explained = model.explained(model.agent.predictor.scale(felt))
        latents = embedded[0].flatten(0, 1) + explained  # what prevention saw was without it
        shared = (explained - explained.mean(dim=0)) * latents
        torch.testing.assert_close(before, 2 * shared.mean())
        for parameter in model.agent.encoder.parameters():
            if parameter.grad is not None:
                parameter -= 1e-2 * parameter.grad / (parameter.grad.norm() + 1e-12)
        assert model.losses(*windows)["shared"] < before


def test_a_run_goes_on_from_another_with_its_encoder_as_it_was(data_file, contract, tmp_path):
    dreaming = dataclasses.replace(
        MOMENT,
        jepa=dataclasses.replace(MOMENT.jepa, prevention_sees="residual"),
        refinement=RefinementConfig(iterations=3, batch=8),
        imagination=ImaginationConfig(iterations=2, batch=8),
    )
    calls = []
    figures = train_all(
        data_file, tmp_path / "one", contract, dreaming, lambda *call: calls.append(call)
    )
    assert set(figures["seconds"]) == {"jepa", "readout", "refinement", "policy"}
    assert calls[-1] == (4 + 3 + 2, 4 + 3 + 2)
    assert calls == sorted(calls)
    on = dataclasses.replace(
        dreaming,
        jepa=dataclasses.replace(dreaming.jepa, iterations=0),
        begin=str(tmp_path / "one"),
    )
    train_all(data_file, tmp_path / "two", contract, on)
    one, two = (load_checkpoint(tmp_path / name).agent for name in ("one", "two"))
    for part, is_kept in (("encoder", True), ("predictor", False), ("critic", False)):
        parts = [
            torch.cat([p.flatten() for p in getattr(a, part).parameters()]) for a in (one, two)
        ]
        assert torch.equal(*parts) == is_kept, part
    export(tmp_path / "two", tmp_path / "bundle", "on", "", contract)
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.has("critic") and bundle.proprioception_size == 14 + 6
    wider = dataclasses.replace(on.jepa, latent_size=5)
    with pytest.raises(ValueError, match=r"begin is '.*one', whose latent is 4, expected 5"):
        train_all(data_file, tmp_path / "three", contract, dataclasses.replace(on, jepa=wider))


def test_without_labels_goals_are_pictures(data_file, contract, tmp_path, monkeypatch):
    residual = dataclasses.replace(MOMENT.jepa, prevention_sees="residual")
    short = {
        "refinement": RefinementConfig(iterations=2, batch=8),
        "imagination": ImaginationConfig(iterations=2, batch=8),
    }
    labelled = dataclasses.replace(MOMENT, jepa=residual, **short)
    train_all(data_file, tmp_path / "one", contract, labelled)
    config = dataclasses.replace(
        labelled,
        jepa=dataclasses.replace(residual, iterations=0),
        labels=0,
        begin=str(tmp_path / "one"),
    )
    metrics = train_all(data_file, tmp_path / "two", contract, config)
    one, two = (load_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert all(map(torch.equal, one.agent.encoder.parameters(), two.agent.encoder.parameters()))
    assert (one.agent.shape.goal, two.agent.shape.goal) == (3, 2)
    assert "readout_r2" in metrics  # of a map that the agent does not have
    monkeypatch.setattr("jepa_robot.learning.export.TOLERANCE", 1e-2)  # so little was learned
    export(tmp_path / "two", tmp_path / "bundle", "two", "", contract)
    bundle = Bundle(tmp_path / "bundle")
    assert not bundle.reads_positions and bundle.manifest["data"]["labelled_frames"] == 0
    task = dataclasses.replace(load_task("push"), mode=1)
    configurator = Configurator(contract, bundle)
    with pytest.raises(InvalidTask, match="was trained without labels: expected a goal image"):
        configurator.with_position(task, [0.5, 0.0, 0.2])
    with pytest.raises(InvalidTask, match="was trained without labels"):
        configurator.sections(dataclasses.replace(task, goal_position=(0.5, 0.0, 0.2)))
    picture = np.random.default_rng(0).integers(0, 255, (2, 64, 64, 3), np.uint8)
    seen = configurator.with_image(task, list(picture[: len(contract.cameras)]))
    goal = configurator.sections(seen)["cost"]["goal"]
    latent = np.array([seen.goal_latent], np.float32)
    features = bundle.session("readout")(latent=latent)
    np.testing.assert_allclose(goal["position"], features[0], rtol=1e-5)
    encoded = bundle.session("goal_encoder")(position=features)
    np.testing.assert_allclose(goal["encoded"], encoded[0], rtol=1e-4, atol=1e-5)
    assert goal["latent"] is None


def test_without_labels_it_must_be_said_what_is_kept():
    with pytest.raises(ValueError, match="prevention_sees is 'auto', expected 'residual'"):
        dataclasses.replace(MOMENT, labels=0)
    with pytest.raises(ValueError, match="labels is 5, expected 10 to 500, or 0"):
        dataclasses.replace(MOMENT, labels=5)


def test_data_without_the_label_of_its_goals_is_learned_from_all_the_same(
    data_file, contract, tmp_path
):
    """Nothing can be imagined of goals that nobody can tell: the policy is distilled."""
    path = tmp_path / "bare.h5"
    shutil.copy(data_file, path)
    with h5py.File(path, "r+") as file:
        del file["hand_position"]
    config = dataclasses.replace(
        MOMENT, jepa=dataclasses.replace(MOMENT.jepa, prevention_sees="residual")
    )
    figures = train_all(path, tmp_path / "run", contract, config)
    assert "policy_error" in figures and "readout_r2" not in figures


@pytest.mark.parametrize("name", ["object", "practice"])
def test_shipped_settings_are_settings(name):
    file = resources.find("config/training", name, ".yaml")
    config = configure(TrainConfig, file)
    assert config.jepa.shared > 0 and config.jepa.linearity == 0
    assert (config.jepa.iterations == 0) == (name == "practice")
