"""The bundle: what does not fit is refused by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import onnx
import pytest

from jepa_robot import files, models
from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.models import Bundle, InvalidBundle
from jepa_robot.modules.tasks import InvalidTask, load_task
from jepa_robot.robot.contract import load_contract
from tests import tiny_bundle


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def change(path, edit):
    manifest = json.loads((path / models.MANIFEST).read_text())
    edit(manifest)
    (path / models.MANIFEST).write_text(json.dumps(manifest))
    return path


def rename_input(model):
    before = model.graph.input[0].name
    model.graph.input[0].name = "code"
    for node in model.graph.node:
        node.input[:] = ["code" if name == before else name for name in node.input]


def test_a_good_bundle_loads_and_fits(tiny, contract):
    bundle = Bundle(tiny)
    bundle.check_fits(contract)
    assert bundle.id.startswith("tiny-")
    assert bundle.state_size == 14 + 6


@pytest.mark.parametrize("robot", ["panda", "iiwa", "xarm6"])
def test_a_shipped_bundle_reaches(robot):
    contract, task = load_contract(robot), load_task("reach")
    judge, episodes = sample_episodes(contract, task.name, 3, 4000)
    runner = InProcessRunner(contract, Bundle(f"reach_{robot}"), task, judge, "2", "image")
    try:
        assert all(evaluate(runner, contract, episodes, 4000)["successes"])
    finally:
        runner.close()


@pytest.mark.parametrize(
    ("robot", "name", "task", "mode", "goal"),
    [
        ("panda_push", "push_panda", "push", "2", "image"),
        ("panda_table", "pick_panda", "pick_and_place", "2", "position"),
        ("panda_table", "pick_panda", "pick_and_place", "1", "position"),
    ],
)
def test_a_shipped_bundle_brings_a_block_to_its_place(robot, name, task, mode, goal):
    contract, task = load_contract(robot), load_task(task)
    judge, episodes = sample_episodes(contract, task.name, 5, 4000)
    runner = InProcessRunner(contract, Bundle(name), task, judge, mode, goal)
    try:
        assert sum(evaluate(runner, contract, episodes, 4000)["successes"]) >= 3
    finally:
        runner.close()


def test_an_agent_that_misreads_its_goals_holds_and_fails(tmp_path):
    """A tiny bundle's readout sees objects metres away."""
    contract, task = load_contract("panda_push"), load_task("push")
    bundle = Bundle(tiny_bundle.build(tmp_path / "tiny", contract))
    judge, episodes = sample_episodes(contract, task.name, 2, 4000)
    results = []
    for mode in ("1", "hold"):
        runner = InProcessRunner(contract, bundle, task, judge, mode, "image")
        try:
            results.append(evaluate(runner, contract, episodes, 4000))
        finally:
            runner.close()
    assert [result["goals_refused"] for result in results] == [2, 0]
    assert results[0]["planned_share"] == 0
    assert results[0]["distances"] == results[1]["distances"]
    wrong = dataclasses.replace(task, weights={"joint_limits": 1000.0})
    runner = InProcessRunner(contract, bundle, wrong, judge, "1", "image")
    try:
        with pytest.raises(InvalidTask, match=r"joint_limits is 1000\.0, expected 0\.1 to 100"):
            evaluate(runner, contract, episodes, 4000)  # that is not the goal's fault
    finally:
        runner.close()


def test_an_unknown_bundle_is_named():
    with pytest.raises(FileNotFoundError, match=r"'no_such' is neither a path nor one of models"):
        Bundle("no_such")


def test_a_changed_graph_is_refused_by_its_hash(copy):
    with (copy / "policy.onnx").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(InvalidBundle, match=r"policy.onnx: SHA-256 is \w+, expected \w+"):
        Bundle(copy)


def test_a_missing_graph_is_named(copy):
    (copy / "predictor.onnx").unlink()
    with pytest.raises(InvalidBundle, match=r"predictor.onnx: is missing"):
        Bundle(copy)


def test_a_manifest_that_leads_out_of_the_folder_is_refused(copy):
    change(copy, lambda manifest: manifest["files"].update({"../policy.onnx": "0"}))
    with pytest.raises(InvalidBundle, match=r"names '../policy.onnx'"):
        Bundle(copy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 7}', '{"schema": 1}'])
def test_a_broken_manifest_is_refused(copy, text):
    (copy / models.MANIFEST).write_text(text)
    with pytest.raises(InvalidBundle, match=r"manifest.json"):
        Bundle(copy)


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda m: m["joints"].reverse(), r"joints\[0\] is 'panda_joint7' in the bundle"),
        (lambda m: m["cameras"].pop(), r"cameras has 1 entries in the bundle, the robot has 2"),
        (
            lambda m: m["cameras"][1].update(width=128),
            r"cameras\[1\].width is 128 in the bundle, 64 on the robot",
        ),
        (
            lambda m: m["cameras"][0]["position"].__setitem__(2, 1.0),
            r"cameras\[0\].position\[2\] is 1.0 in the bundle, 0.6",
        ),
        (
            lambda m: m["actions"]["channels"][0].update(scale=0.5),
            r"actions.channels\[0\].scale is 0.5 in the bundle, 0.4",
        ),
        (lambda m: m["actions"].update(kind="joint_velocity"), r"actions.kind is 'joint_velocity'"),
        (lambda m: m.update(time_step=0.1), r"time_step is 0.1 in the bundle, 0.05"),
    ],
)
def test_a_bundle_that_does_not_fit_the_robot_names_the_mismatch(copy, contract, edit, says):
    with pytest.raises(InvalidBundle, match=says):
        Bundle(change(copy, edit)).check_fits(contract)


def test_a_graph_that_does_not_load_is_named(copy):
    (copy / "policy.onnx").write_bytes(b"not a graph")
    digest = files.sha256(copy / "policy.onnx")
    change(copy, lambda manifest: manifest["files"].update({"policy.onnx": digest}))
    with pytest.raises(InvalidBundle, match=r"policy.onnx: is no ONNX graph that loads"):
        Bundle(copy).session("policy")


@pytest.mark.parametrize(
    ("change_graph", "says"),
    [
        (
            lambda model: model.opset_import[0].__setattr__("version", 999),
            r"readout.onnx: is no ONNX graph that loads: .*[Oo]pset 999",
        ),
        (
            lambda model: (
                model.graph.input[0].type.tensor_type.shape.dim[1].__setattr__("dim_value", 5)
            ),
            r"readout.onnx: (is no ONNX graph that loads|latent has size 5, expected 6)",
        ),
        (rename_input, r"readout.onnx: takes \['code'\], expected \['latent'\]"),
    ],
    ids=["opset", "size", "input"],
)
def test_a_graph_of_another_kind_is_named(copy, change_graph, says):
    file = copy / "readout.onnx"
    model = onnx.load(str(file))
    change_graph(model)
    onnx.save(model, str(file))
    digest = files.sha256(file)
    change(copy, lambda manifest: manifest["files"].update({file.name: digest}))
    with pytest.raises(InvalidBundle, match=says):
        Bundle(copy).session("readout")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "kept"
    files.write_atomically(file, "old")

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert file.read_text() == "old"


def test_a_gpu_that_was_asked_for_is_not_replaced_by_the_cpu(tiny):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("there is one")
    with pytest.raises(InvalidBundle, match=r"expected (CUDAExecutionProvider|one that this ONNX)"):
        Bundle(tiny, provider="cuda").session("policy")
    with pytest.raises(InvalidBundle, match="provider is 'magic', expected one of"):
        Bundle(tiny, provider="magic")
    bundle = Bundle(tiny)
    bundle.session("policy")
    assert bundle.provider == "cpu"


def test_a_bundle_of_before_cost_terms_is_told_to_be_exported_again(tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    del manifest["terms"]
    (tmp_path / "old" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidBundle, match=r"is of an older release.* export its run again"):
        _ = Bundle(tmp_path / "old").terms


def test_how_far_ahead_the_predictor_was_trained_is_told(tiny):
    bundle = Bundle(tiny)
    assert bundle.trained_horizon is None
    bundle.manifest["recipe"] = {"jepa": {"horizon": 5}, "refinement": {"horizon": 16}}
    assert bundle.trained_horizon == 5
    bundle.manifest["results"] = {"seconds": {"refinement": 3.0}}
    assert bundle.trained_horizon == 16
