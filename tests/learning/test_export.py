"""From a training run to a bundle that the run time loads."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from jepa_robot.dataset import InvalidDataset
from jepa_robot.learning import export as exporting
from jepa_robot.learning.checkpoint import (
    FILE,
    Checkpoint,
    InvalidCheckpoint,
    Samples,
    load_checkpoint,
    save_checkpoint,
)
from jepa_robot.learning.encoded import encode
from jepa_robot.learning.export import ParityError, export, write_bundle
from jepa_robot.learning.jepa import JEPAConfig, new_agent
from jepa_robot.learning.pipeline import TrainConfig
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.learning.upper import UpperConfig
from jepa_robot.models import DERIVATIVES, FUSED, GRAPHS, Bundle

TINY = JEPAConfig(latent_size=6, predictor=PredictorConfig(width=32))


@pytest.fixture(scope="module")
def agent(data):
    agent = new_agent(data, TINY)
    agent.views.fit(encode(agent, data.split(0.1)[0]).looks)
    return agent.eval()


@pytest.fixture(scope="module")
def run(agent, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    record = {
        "interface": data.about.interface,
        "goal": "hand_position",
        "goal_unit": 0.1,
        "data": {"transitions": data.transitions, "labelled_frames": 0},
        "recipe": {},
        "results": {"readout_r2": 0.5},
    }
    save_checkpoint(folder, Checkpoint(agent, Samples.draw(data, 1, 0), record))
    return folder


@pytest.fixture(scope="module")
def bundle(run, contract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    export(run, folder, "tiny", "a command", contract)
    return Bundle(folder)


def test_every_graph_computes_what_torch_does(agent, data, bundle):
    rows = np.arange(5)
    images, proprioception = data.images(rows), data.proprioception(rows)
    actions, places = data.columns["action"][rows], data.columns["hand_position"][rows]
    z = np.zeros((5, 0), np.float32)
    state = bundle.session("encoder")(images=images, proprioception=proprioception)
    np.testing.assert_array_equal(state[:, :14], proprioception)
    with torch.no_grad():
        latent = agent.encoder(torch.from_numpy(images)).numpy()
        expected = {
            "predictor": agent.predictor(torch.from_numpy(state), torch.from_numpy(actions)),
            "policy": agent.policy(torch.from_numpy(state), torch.from_numpy(latent)),
            "readout": agent.readout(torch.from_numpy(latent)),
            "goal_encoder": agent.goal_encoder(torch.from_numpy(places)),
        }
    np.testing.assert_allclose(state[:, 14:], latent, atol=1e-5)
    inputs = {
        "predictor": {"state": state, "action": actions, "z": z},
        "policy": {"state": state, "goal_latent": latent},
        "readout": {"latent": latent},
        "goal_encoder": {"position": places},
    }
    for name, value in expected.items():
        np.testing.assert_allclose(
            bundle.session(name)(**inputs[name]), value.numpy(), atol=1e-5, err_msg=name
        )


def test_the_encoder_tells_how_far_a_picture_is_from_the_training_pictures(data, bundle):
    encoder = bundle.session("encoder")

    def views(images):
        joints = np.zeros((len(images), 14), np.float32)
        return encoder.run(images=images, proprioception=joints)["views"]

    held_out = data.images(data.split(0.1)[1].rows)
    assert views(held_out).shape == (len(held_out), 2)
    assert views(held_out).min() > 0
    assert np.quantile(views(held_out), 0.8) < 1  # of 72 episodes one knows little of the others
    half = held_out.copy()
    half[:, 0, 32:] = 0
    assert views(half)[:, 0].min() > 1
    np.testing.assert_allclose(views(half)[:, 1], views(held_out)[:, 1], rtol=1e-5)


def test_an_agent_that_was_not_fitted_to_views_says_nothing_of_them(data, contract, tmp_path):
    agent = new_agent(data, TINY).eval()
    record = {**contract.interface(), "name": "blind", "data": {}, "command": "", "results": {}}
    write_bundle(agent, Samples.draw(data, 1, 0), tmp_path / "bundle", record)
    assert list(Bundle(tmp_path / "bundle").session("encoder").outputs) == ["state"]


def test_a_network_that_gives_nan_is_not_exported(data, contract, tmp_path):
    agent = new_agent(data, TINY).eval()
    with torch.no_grad():
        agent.goal_encoder.network[-1].bias += np.nan
    with pytest.raises(ParityError, match=r"goal_encoder.onnx differs from torch by up to nan"):
        write_bundle(agent, Samples.draw(data, 1, 0), tmp_path / "bundle", {"name": "broken"})


def test_an_upper_level_comes_with_the_agent_and_its_checkpoint(data, contract, tmp_path):
    upper = UpperConfig(stride=4, horizon=3, latent=8, width=16)
    agent = new_agent(data, TINY, upper=upper).eval()
    agent.upper.reach.copy_(torch.tensor([0.1, 0.2, 0.3]))
    record = {"interface": data.about.interface, "goal": "hand_position", "goal_unit": 0.1}
    record |= {"data": {"transitions": 1, "labelled_frames": 0}, "recipe": {}, "results": {}}
    save_checkpoint(tmp_path / "run", Checkpoint(agent, Samples.draw(data, 1, 0), record))
    manifest = export(tmp_path / "run", tmp_path / "levels", "levels", "a command", contract)
    assert manifest["upper_stride"] == 4 and manifest["parity"]["upper"] < 1e-4
    session = Bundle(tmp_path / "levels").session("upper")
    state, macros = np.zeros((5, agent.shape.state), np.float32), np.ones((5, 3, 3), np.float32)
    found = session.run(state=state, macros=macros)
    assert found["places"].shape == (5, 4, 3)
    asked = found["asked"] - found["places"][:, :-1]
    np.testing.assert_allclose(asked, np.broadcast_to([0.1, 0.2, 0.3], asked.shape), atol=1e-5)


def test_any_number_of_rows_is_taken(bundle):
    for rows in (1, 3, 256):
        state = np.zeros((rows, bundle.state_size), np.float32)
        action = np.zeros((rows, bundle.action_size), np.float32)
        z = np.zeros((rows, 0), np.float32)
        assert bundle.session("predictor")(state=state, action=action, z=z).shape == state.shape


def test_the_manifest_tells_what_the_bundle_is_and_fits_its_robot(bundle, contract):
    bundle.check_fits(contract)
    manifest = bundle.manifest
    graphs = set(GRAPHS) - {"critic"}  # its policy imitates the planner
    files = graphs | {*FUSED, *DERIVATIVES, "plan_int8"}
    assert set(manifest["files"]) == {f"{name}.onnx" for name in files}
    assert set(manifest["parity"]) == graphs | {"plan", "plan_gradient"}
    assert max(manifest["parity"].values()) < 3e-5
    assert manifest["image_size"] == [64, 64]
    assert manifest["command"] == "a command"
    assert manifest["data"]["transitions"] == 2000
    assert manifest["id"].startswith("tiny-")


def test_a_graph_that_computes_something_else_is_not_exported(run, contract, tmp_path, monkeypatch):
    honest = exporting._export

    def lossy(module, inputs, output, path):
        if path.name == "readout.onnx":
            with torch.no_grad():
                module.linear.bias += 1
        honest(module, inputs, output, path)
        if path.name == "readout.onnx":
            with torch.no_grad():
                module.linear.bias -= 1

    monkeypatch.setattr(exporting, "_export", lossy)
    with pytest.raises(ParityError, match=r"readout\.onnx differs from torch"):
        export(run, tmp_path / "bundle", "wrong", "", contract)
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_robot_is_refused(run, contract, tmp_path):
    other = dataclasses.replace(contract, joints=contract.joints[:-1])
    with pytest.raises(InvalidDataset, match="joints has 7 entries in the data, the robot has 6"):
        export(run, tmp_path / "bundle", "other", "", other)


def test_an_existing_bundle_is_not_overwritten(run, contract, tmp_path):
    with pytest.raises(FileExistsError, match="expected the name of a new bundle"):
        export(run, tmp_path, "again", "", contract)


def test_a_missing_or_damaged_checkpoint_is_named(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a folder made by train"):
        load_checkpoint(tmp_path)
    (tmp_path / FILE).write_bytes((run / FILE).read_bytes()[:5000])
    with pytest.raises(InvalidCheckpoint, match="is no checkpoint of this release"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_cannot_run_code(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (print, ("harm",))

    torch.save({"format": 1, "shape": Harmful()}, tmp_path / FILE)
    with pytest.raises(InvalidCheckpoint):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("iterations", -1), ("prevention", "barlow"), ("inverse", -1.0), ("precision", "float16")],
)
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"jepa.{field} is {value!r}"):
        JEPAConfig(**{field: value})


def test_more_labels_than_promised_are_refused():
    with pytest.raises(ValueError, match="labels is 501, expected 10 to 500"):
        TrainConfig(labels=501)


def test_the_manifest_is_json_that_ends_in_a_newline(bundle):
    text = (bundle.path / "manifest.json").read_text()
    assert json.loads(text)["schema"] == 1
    assert text.endswith("}\n")
