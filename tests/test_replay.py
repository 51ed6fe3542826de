"""An agent on what was recorded: what it foresees and would do, beside what came and was done."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from jepa_robot.cli.main import app
from jepa_robot.dataset import About, InvalidDataset, open_dataset, write_dataset
from jepa_robot.models import Bundle, InvalidBundle
from jepa_robot.modules.configurator import Configurator
from jepa_robot.modules.tasks import load_task
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.replaying import replay
from jepa_robot.robot.contract import load_contract

EPISODES, STEPS = 3, 12
TASK = load_task("name: it\nmode: 1\nweights: {goal_latent: 1.0}")


def record(path, contract, size=64):
    """Episodes of pictures and joints that wander."""
    rng = np.random.default_rng(0)
    joints, actions = len(contract.joints), contract.actions.size

    def episodes():
        for _ in range(EPISODES):
            done = rng.uniform(-1, 1, (STEPS + 1, actions)).astype(np.float32)
            done[-1] = np.nan
            walk = 0.01 * rng.standard_normal((STEPS + 1, joints)).cumsum(axis=0)
            felt = np.concatenate([np.array(contract.home) + walk, 0.1 * walk], axis=1)
            shape = (STEPS + 1, size, len(contract.cameras) * size, 3)
            yield {
                "pixels": rng.integers(0, 255, shape, np.uint8),
                "action": done,
                "proprio": felt.astype(np.float32),
            }

    write_dataset(path, About(contract.interface(), "reach", "hand_position"), episodes())
    return path


def test_it_tells_what_modules_called_by_hand_tell(tmp_path, tiny, contract):
    bundle, data = Bundle(tiny), open_dataset(record(tmp_path / "data.h5", contract))
    replayed = replay(bundle, contract, data, TASK)
    assert (replayed.episodes, replayed.frames) == (EPISODES, EPISODES * (STEPS + 1))
    assert [one.steps for one in replayed.foreseen] == [1, 3, 5, 10]
    rows, model = np.arange(STEPS + 1), WorldModel(bundle)
    encoder, policy = bundle.session("encoder"), bundle.session("policy")
    states = encoder.run(
        "state", images=data.images(rows), proprioception=data.proprioception(rows)
    )["state"]
    actions = data.columns["action"][rows[:-1]]
    assert np.array_equal(replayed.done[:STEPS], actions)
    goal = Configurator(contract, bundle).with_latent(TASK, bundle.latent(states[-1:])[0])
    latent = np.array([goal.goal_latent], np.float32)
    would = [policy(state=s[None], goal_latent=latent)[0] for s in states[:-1]]
    assert np.allclose(replayed.would[:STEPS], np.clip(would, -1, 1), atol=1e-5)
    errors, copied = [], []
    for offset in data.offsets:
        rows = np.arange(offset, offset + STEPS + 1)
        seen = encoder.run(
            "state", images=data.images(rows), proprioception=data.proprioception(rows)
        )["state"]
        for begin in range(STEPS + 1 - 3):
            some = data.columns["action"][rows[begin : begin + 3]][None]
            last = model.rollout(seen[begin : begin + 1], some)[:, -1]
            now, then = bundle.latent(seen[begin]), bundle.latent(seen[begin + 3])
            errors.append(np.mean((bundle.latent(last)[0] - then) ** 2))
            copied.append(np.mean((now - then) ** 2))
    three = next(one for one in replayed.foreseen if one.steps == 3)
    assert three.ratio == pytest.approx(np.mean(errors) / np.mean(copied), rel=1e-3)


def test_mode_2_plans_and_channels_are_named(tmp_path, tiny, contract):
    data = open_dataset(record(tmp_path / "data.h5", contract))
    task = load_task(
        "name: it\nweights: {goal_latent: 1.0}\nplanner: {candidates: 8, elites: 2, iterations: 1}"
    )
    replayed = replay(Bundle(tiny), contract, data, task)
    assert [one.channel for one in replayed.agreed] == ["vx", "vy", "vz"]
    assert replayed.mode == 2 and np.ptp(replayed.would) > 0


def test_the_command_takes_a_recording(tmp_path, tiny, contract):
    file = record(tmp_path / "data.h5", contract)
    out = tmp_path / "out.json"
    arguments = ["replay", str(tiny), str(file), "--mode", "1", "--json", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    written = json.loads(out.read_text())
    assert written["episodes"] == EPISODES and "would" not in written
    assert f"{EPISODES * (STEPS + 1)} frames of {EPISODES} episodes" in result.output


def test_pictures_of_another_size_and_other_robots_are_refused(tmp_path, tiny, contract):
    small = open_dataset(record(tmp_path / "small.h5", contract, size=32))
    with pytest.raises(InvalidDataset, match="pictures are 32x32, expected 64x64"):
        replay(Bundle(tiny), contract, small, TASK)
    with pytest.raises(InvalidBundle):
        replay(Bundle(tiny), load_contract("iiwa"), small, TASK)
