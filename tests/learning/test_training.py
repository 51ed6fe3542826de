"""Training with Lightning: any choice of parts learns, and a run that was stopped ends the same."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from jepa_robot.cli import main
from jepa_robot.dataset import About, InvalidDataset, open_dataset, write_dataset
from jepa_robot.energy import PreventionConfig
from jepa_robot.learning import pipeline, training
from jepa_robot.learning.batches import Batches
from jepa_robot.learning.configuration import configure, to_yaml
from jepa_robot.learning.encoded import encode
from jepa_robot.learning.encoders import EncoderConfig
from jepa_robot.learning.jepa import JEPA, JEPAConfig, new_agent
from jepa_robot.learning.pipeline import TrainConfig, train_all
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.learning.training import train_jepa

STEPS = 6
TINY = {
    "latent_size": 4,
    "predictor": PredictorConfig(width=16),
    "iterations": STEPS,
    "batch": 4,
    "horizon": 3,
}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A dot that actions move about a 32 x 32 picture; no joints."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("small") / "dots.h5"

    def episode():
        actions = rng.uniform(-1, 1, (12, 2)).astype(np.float32)
        places = np.clip(15 + np.cumsum(np.vstack([np.zeros((1, 2)), 4 * actions]), axis=0), 2, 29)
        pixels = np.zeros((13, 32, 32, 3), np.uint8)
        for picture, (x, y) in zip(pixels, places.astype(int), strict=True):
            picture[y - 2 : y + 3, x - 2 : x + 3] = (255, 80, 40)
        last = np.full((1, 2), np.nan, np.float32)
        return {
            "pixels": pixels,
            "action": np.vstack([actions, last]),
            "achieved_goal": places.astype(np.float32),
        }

    camera = {"name": "render", "width": 32, "height": 32, "encoding": "rgb8"}
    interface = {
        "joints": [],
        "actions": {
            "kind": "environment",
            "channels": [{"name": f"action_{i}", "unit": "", "scale": 1.0} for i in range(2)],
        },
        "cameras": [{**camera, "crop": [0, 0, 32, 32]}],
        "time_step": 0.1,
    }
    write_dataset(path, About(interface, "dots", "achieved_goal"), [episode() for _ in range(40)])
    return path


def weights(agent):
    return torch.cat([p.flatten() for p in agent.parameters()])


@pytest.mark.parametrize("prevention", ["sigreg", "barlow_twins", "infonce", "byol", "simsiam"])
def test_every_way_to_prevent_collapse_trains(small, prevention):
    config = JEPAConfig(**TINY, prevention=prevention)
    before = weights(train_jepa(open_dataset(small), JEPAConfig(**{**TINY, "iterations": 1}))[0])
    agent, _ = train_jepa(open_dataset(small), config)
    assert torch.isfinite(weights(agent)).all()
    assert not torch.equal(weights(agent), before)


@pytest.mark.parametrize(
    "parts",
    [
        {"encoder": EncoderConfig(name="vit", width=16, depth=1), "history": 3},
        {"encoder": EncoderConfig(name="cnn"), "predictor": PredictorConfig(name="gru", width=16)},
        {"predictor": PredictorConfig(name="transformer", width=16, depth=1), "z": 3},
    ],
    ids=["vit with history", "cnn with gru", "transformer with z"],
)
def test_parts_combine(small, parts):
    data = open_dataset(small)
    agent, _ = train_jepa(data, JEPAConfig(**{**TINY, **parts}))
    assert np.isfinite(encode(agent, data).latents).all()


@pytest.mark.parametrize("prevention", ["byol", "simsiam", "vicreg"])
def test_prediction_trains_the_encoder_only_where_it_may(small, prevention):
    """Its error is smallest for latents that are all alike: a head alone cannot hold them apart."""
    settings = PreventionConfig(byol=0, simsiam=0, variance=0, covariance=0)
    config = JEPAConfig(
        **TINY, prevention=prevention, prevention_settings=settings, inverse=0, linearity=0, z=2
    )
    data = open_dataset(small)
    model = JEPA(new_agent(data, config), config)
    losses = model.losses(*Batches(data, 4, 3, 2, seed=0)[0])
    sum(losses.values()).backward()
    gradients = [p.grad for p in model.agent.encoder.parameters() if p.grad is not None]
    assert any(bool(g.any()) for g in gradients) == (prevention == "vicreg")
    assert all(bool(p.grad.any()) for p in model.agent.predictor.parameters())
    assert losses["prediction"] > 0


def test_a_moving_average_follows_the_encoder(small):
    data = open_dataset(small)
    config = JEPAConfig(**TINY, prevention="byol")
    seen = []

    class Seen(training.JEPA):
        def on_train_batch_end(self, *args):
            super().on_train_batch_end(*args)
            seen.append(next(self.average.network.parameters()).clone())

    original, training.JEPA = training.JEPA, Seen
    try:
        train_jepa(data, config)
    finally:
        training.JEPA = original
    assert len(seen) == STEPS
    assert not torch.equal(seen[0], seen[-1])


class Stopped(Exception):
    pass


@pytest.mark.parametrize("prevention", ["sigreg", "byol"])
def test_a_run_that_was_stopped_ends_with_the_same_weights(
    small, prevention, tmp_path, monkeypatch
):
    monkeypatch.setattr(training, "CHECKPOINT_EVERY", 2)
    data = open_dataset(small)
    config = JEPAConfig(**TINY, prevention=prevention)
    whole, _ = train_jepa(data, config, tmp_path / "whole")

    def stop(done, total):
        if done == 5:
            raise Stopped

    with pytest.raises(Stopped):
        train_jepa(data, config, tmp_path / "run", progress=stop)
    steps = []
    resumed, took = train_jepa(
        data, config, tmp_path / "run", progress=lambda done, _: steps.append(done)
    )
    assert steps == [5, 6]
    assert round(took["seconds"] / took["step_seconds"]) == STEPS  # of before, too
    assert torch.equal(weights(resumed), weights(whole))


def test_losses_are_logged_for_tensorboard(small, tmp_path):
    train_jepa(open_dataset(small), JEPAConfig(**{**TINY, "iterations": 12}), tmp_path / "run")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "logs"))
    events.Reload()
    assert {"loss", "prediction", "prevention", "inverse"} <= set(events.Tags()["scalars"])


def test_two_processes_train_one_model(small, tmp_path):
    """Lightning's own flags; the gradients of both are averaged (gloo, on the CPU)."""
    settings = ["jepa.iterations=3", "jepa.batch=4", "jepa.latent_size=4", "jepa.horizon=3"]
    settings += ["distill.decisions=2", "distill.rounds=1", "distill.iterations=2", "labels=20"]
    command = [sys.executable, "-m", "jepa_robot.cli.main", "train", str(small), "run"]
    command += ["--accelerator", "cpu", "--devices", "2", "--strategy", "ddp", "--json", "out.json"]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("latent_std") == 1  # the second process helps, and goes
    assert json.loads((tmp_path / "out.json").read_text())["latent_std"] > 0
    assert (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_run_with_other_settings_is_not_taken_up(small, tmp_path):
    (tmp_path / "run").mkdir()
    begun = TrainConfig(jepa=JEPAConfig(**TINY))
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(begun))
    with pytest.raises(FileExistsError, match="was begun with other settings"):
        train_all(small, tmp_path / "run", None, TrainConfig())


def test_episodes_shorter_than_a_window_are_named(small, tmp_path):
    config = TrainConfig(jepa=JEPAConfig(**{**TINY, "horizon": 13}))
    with pytest.raises(InvalidDataset, match="longest usable episode has 13 frames, expected at"):
        train_all(small, tmp_path / "run", None, config)
    assert not (tmp_path / "run").exists()


def test_pictures_alone_are_trained_longer_if_nothing_else_is_said(small, tmp_path, monkeypatch):
    chosen = []
    monkeypatch.setattr(pipeline, "train_all", lambda *known: chosen.append(known[3]) or {})
    for given in ({}, {"settings": ["jepa.iterations=7"]}, {"config": "object"}):
        main.train(small, tmp_path / "run", **given)
    assert [one.jepa.iterations for one in chosen] == [2400, 7, 3500]


def test_settings_come_from_a_file_and_the_command_line(tmp_path):
    (tmp_path / "mine.yaml").write_text("jepa: {encoder: {name: vit}, horizon: 8}\nseed: 3\n")
    config = configure(TrainConfig, tmp_path / "mine.yaml", ["jepa.horizon=4", "labels=50"])
    assert (config.jepa.encoder.name, config.jepa.horizon, config.labels) == ("vit", 4, 50)
    assert config.jepa.seed == config.distill.seed == 3
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert configure(TrainConfig, tmp_path / "again.yaml") == config


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("jepa.horizn=4", "jepa.horizn is unknown, expected one of latent_size, history"),
        ("jepa.horizon=4.5", "jepa.horizon is 4.5, expected a int"),
        ("jepa.encoder.name=mlp", "encoder.name is 'mlp', expected one of auto, spatial_softmax"),
        ("jepa=3", "jepa is 3, expected a section"),
        ("horizon", "setting is 'horizon', expected NAME=VALUE"),
    ],
)
def test_a_bad_setting_is_named(override, text):
    with pytest.raises(ValueError, match=text):
        configure(TrainConfig, None, [override])


def test_what_must_move_is_compared_within_episodes(small):
    data = open_dataset(small)
    config = JEPAConfig(**{**TINY, "batch": 6}, history=1, moving=3)
    images, _, _ = Batches(data, 6, 3, 1, seed=0, paired=True)[0]
    model, seen = JEPA(new_agent(data, config), config), []
    model.prevention_of_moving.register_forward_hook(lambda _, args, out: seen.extend(args))
    losses = model.losses(*Batches(data, 6, 3, 1, seed=0, paired=True)[0])
    assert losses["moving"] > 0 and seen[0].shape == (3, 4, 3)
    latents = model.agent.encoder.windows(
        model.agent.encoder.look(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    )
    torch.testing.assert_close(seen[0], (latents[:3] - latents[3:])[..., 1:] * 0.5**0.5)
    with pytest.raises(ValueError, match=r"jepa\.moving is 5, expected at most latent_size, 4"):
        JEPAConfig(**TINY, moving=5)


def test_pairs_of_windows_are_of_one_episode_and_not_the_same(small):
    training, _ = open_dataset(small).split(0.2)  # whose episodes are in another order
    batches = Batches(training, 20, 3, 1, seed=1, paired=True)
    begin = np.sort(training.offsets)
    drawn = np.concatenate(
        [batches._starts[batches._draw(np.random.default_rng(n))] for n in (0, 1)]
    )
    for first, second in zip(drawn[:10], drawn[10:20], strict=True):
        assert np.searchsorted(begin, first, "right") == np.searchsorted(begin, second, "right")
    assert (drawn[:10] != drawn[10:20]).any() and len(np.unique(drawn[:10])) > 3
    assert set(drawn) <= set(training.windows(3))


@pytest.mark.parametrize("prevention", ["vicreg", "barlow_twins"])
def test_collapse_is_prevented_of_embeddings_and_their_changes_are_predicted(small, prevention):
    data, config = open_dataset(small), JEPAConfig(**TINY, history=2, prevention=prevention)
    model, sizes = JEPA(new_agent(data, config), config), []
    model.prevention.register_forward_hook(lambda _, args, out: sizes.extend(args))
    losses = model.losses(*Batches(data, 4, 3, 2, seed=0)[0])
    assert model.agent.shape.latent == 8
    assert [part.shape[-1] for part in sizes] == [4, 4, 4]
    assert model.agent.control.out_features == 4
    assert losses["prediction"] > 0
