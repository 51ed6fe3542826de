"""Whether a world model is fit to plan with: figures, verdicts, and advice that names the cause."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from jepa_robot.dataset import InvalidDataset
from jepa_robot.learning.checkpoint import Samples
from jepa_robot.learning.doctor import DoctorConfig, examine, shared_seeds
from jepa_robot.learning.doctor_gauges import Imagined, measure_latents, spearman
from jepa_robot.learning.doctor_readouts import (
    BUNDLE,
    MLP,
    NO_UNIT,
    SUPERVISED,
    Reading,
    fit_linear,
    fit_mlp,
    r2_and_error,
)
from jepa_robot.learning.doctor_verdict import DOUBTFUL, FIT, UNFIT, judge
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.jepa import JEPAConfig, new_agent
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import Bundle, write_manifest

QUICK = DoctorConfig(horizon=8, frames=520, windows=200, probe=40, supervised=0)


@pytest.fixture(scope="module")
def shipped():
    return Bundle("reach_panda")


@pytest.fixture(scope="module")
def good(shipped, data):
    return examine(shipped, data, dataclasses.replace(QUICK, supervised=60))


def bundle_of(agent, data, contract, folder):
    history = agent.shape.history
    record = {**contract.interface(), "name": "small", "data": {}, "command": "", "results": {}}
    write_bundle(agent.eval(), Samples.draw(data, history, 0), folder, record)
    return Bundle(folder)


def small(data, **settings):
    config = JEPAConfig(latent_size=6, predictor=PredictorConfig(width=16), **settings)
    return new_agent(data, config)


def finding(examination, gauge):
    return next(found for found in examination.findings if found.gauge == gauge)


def test_a_model_that_reaches_is_fit(good):
    assert good.verdict == FIT
    assert not any(found.todo for found in good.findings)
    assert good.prediction.ratio(5) < 0.3
    assert good.prediction.shuffled_ratio(5) > 5
    assert good.order.latent > 0.9
    imagined = good.imagined[0]
    assert imagined.usable_horizon == 8
    assert imagined.error[3] < imagined.still[3] / 2


def test_few_labels_are_enough_for_a_good_latent_and_not_for_pictures(good):
    by = {(r.method, r.share): r for r in good.readings}
    assert by["linear", 1.0].error < 0.015
    assert by["linear", 0.1].labels == round(by["linear", 1.0].labels / 10)
    assert by["linear", 0.1].error < by["supervised", 1.0].error
    assert by["bundle", 0.0].r2 > 0.98


def test_a_collapsed_model_is_unfit_because_of_the_collapse(data, contract, tmp_path):
    agent = small(data)
    with torch.no_grad():
        agent.encoder.head[-1].weight *= 1e-4
    examination = examine(bundle_of(agent, data, contract, tmp_path / "b"), data, QUICK)
    assert examination.verdict == UNFIT
    first, *others = examination.findings
    assert (first.gauge, first.status) == ("latent variety", UNFIT)
    assert "collapsed" in first.todo and "jepa.prevention" in first.todo
    assert {other.todo for other in others} <= {"", "cure the collapse first"}


def test_a_constant_latent_gives_figures_that_are_no_nonsense(data, contract, tmp_path):
    agent = small(data)
    with torch.no_grad():
        agent.encoder.head[-1].weight.zero_()
    examination = examine(bundle_of(agent, data, contract, tmp_path / "b"), data, QUICK)
    assert examination.latents.effective_rank == 0
    assert examination.latents.dead == 6
    assert abs(examination.order.latent) < 0.1
    assert max(r.r2 for r in examination.readings) < 0.1
    json.dumps(examination.to_dict(), allow_nan=False)


def test_a_predictor_that_ignores_actions_is_unfit_because_of_it(shipped, data, tmp_path):
    examination = examine(without_actions(shipped, tmp_path / "deaf"), data, QUICK)
    assert examination.verdict == UNFIT
    assert examination.prediction.shuffled_ratio(5) == pytest.approx(1)
    found = finding(examination, "actions")
    assert found.status == UNFIT
    assert "ignores the actions" in found.todo and "jepa.inverse" in found.todo
    assert finding(examination, "latent variety").status == FIT
    assert finding(examination, "hand_position in the latent").status == FIT


def without_actions(bundle, folder):
    shutil.copytree(bundle.path, folder)
    model = onnx.load(folder / "predictor.onnx")
    for node in model.graph.node:
        node.input[:] = ["no_action" if name == "action" else name for name in node.input]
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    model.graph.initializer.append(zero)
    model.graph.node.insert(0, helper.make_node("Mul", ["action", "zero"], ["no_action"]))
    onnx.save(model, folder / "predictor.onnx")
    write_manifest(folder, bundle.manifest)
    return Bundle(folder)


def test_a_model_without_training_is_not_fit(data, contract, tmp_path):
    examination = examine(bundle_of(small(data), data, contract, tmp_path / "b"), data, QUICK)
    assert examination.verdict == UNFIT
    assert finding(examination, "prediction").status != FIT


def test_a_model_with_history_and_latent_variable_is_examined(data, contract, tmp_path):
    bundle = bundle_of(small(data, history=2, z=3), data, contract, tmp_path / "b")
    examination = examine(bundle, data, QUICK)
    assert len(examination.prediction.error) == 8
    assert np.isfinite(examination.prediction.error).all()


def test_an_object_that_the_latent_does_not_tell_of_is_named(shipped, data):
    rng = np.random.default_rng(0)
    steps = 0.01 * rng.standard_normal((len(data.columns["action"]), 3))
    columns = {**data.columns, "object_position": np.cumsum(steps, 0).astype(np.float32)}
    examination = examine(shipped, dataclasses.replace(data, columns=columns), QUICK)
    assert examination.verdict == DOUBTFUL
    found = finding(examination, "object_position in the latent")
    assert "the object is not in the latent" in found.todo
    assert "contact" in found.todo and "prevention_sees=residual" in found.todo
    assert finding(examination, "object_position imagined while it moves").status == DOUBTFUL


def test_a_label_that_never_changes_is_not_judged(shipped, data):
    columns = {**data.columns, "object_position": np.ones((len(data.columns["action"]), 3))}
    examination = examine(shipped, dataclasses.replace(data, columns=columns), QUICK)
    assert "label object_position does not change" in examination.warnings[0]
    assert {reading.label for reading in examination.readings} == {"hand_position"}


def test_training_data_is_noticed_by_its_seed(shipped, data):
    runs = tuple({**run, "seed": 0} for run in data.about.runs)
    trained_on = dataclasses.replace(data, about=dataclasses.replace(data.about, runs=runs))
    assert shared_seeds(shipped, data) == []
    assert shared_seeds(shipped, trained_on) == [0]
    examination = examine(shipped, trained_on, QUICK)
    assert "was recorded with seed 0, as the training data was" in examination.warnings[0]


def test_data_of_another_robot_is_refused(shipped, data):
    interface = {**data.about.interface, "time_step": 0.1}
    other = dataclasses.replace(data, about=dataclasses.replace(data.about, interface=interface))
    with pytest.raises(InvalidDataset, match=r"time_step is 0\.1 in the data, 0\.05 on the robot"):
        examine(shipped, other, QUICK)


def test_pictures_of_another_size_are_refused(shipped, data):
    smaller = dataclasses.replace(data, pixels=data.pixels[:, :32])
    with pytest.raises(InvalidDataset, match=r"pictures are \[32, 64\], expected \[64, 64\]"):
        examine(shipped, smaller, QUICK)


def test_too_few_episodes_are_refused(shipped, data):
    with pytest.raises(InvalidDataset, match=r"3 usable episode.* expected at least 4"):
        examine(shipped, data.take(slice(3)), QUICK)


def test_a_bad_setting_is_named():
    with pytest.raises(ValueError, match=r"doctor\.horizon is 0"):
        DoctorConfig(horizon=0)


@pytest.mark.parametrize(
    ("error", "read", "status", "advice"),
    [
        (0.015, 0.008, FIT, ""),
        (0.030, 0.004, DOUBTFUL, "seen but not foreseen"),
        (0.030, 0.028, DOUBTFUL, "not read well even from true pictures"),
        (0.050, 0.004, UNFIT, "more contact"),
    ],
)
def test_the_moving_object_decides_where_it_is_the_goal(good, error, read, status, advice):
    one = imagined_object(error, read, windows=100)
    found = judged(good, one)["object_position imagined while it moves"]
    assert found.status == status
    assert advice in found.todo


def test_an_object_that_hardly_moves_cannot_be_judged(good):
    one = imagined_object(np.nan, np.nan, windows=7)
    found = judged(good, one)["object_position imagined while it moves"]
    assert found.status == DOUBTFUL
    assert "at most 7 windows" in found.found and "contact" in found.todo


def imagined_object(error, read, windows):
    still = np.nan if np.isnan(error) else 0.045
    arrays = [np.full(8, value) for value in (windows, error, still, read)]
    return Imagined("object_position", *arrays)


def judged(good, one):
    reading = Reading("object_position", MLP, 1.0, 100, 0.99, 0.005)
    findings = judge(
        good.latents, good.prediction, [reading], [one], None, "object_position", [one.label]
    )
    return {found.gauge: found for found in findings}


@pytest.mark.parametrize(
    ("object_r2", "hand_r2", "advice"),
    [
        (0.95, 0.95, "the object is not in the latent"),
        (0.2, 0.95, "not told by the pictures either"),
        (0.2, 0.6, "look whether the pictures show it"),
    ],
)
def test_a_supervised_network_tells_encoder_from_camera(good, object_r2, hand_r2, advice):
    readings = [
        Reading("object_position", MLP, 1.0, 100, 0.3, 0.05),
        Reading("object_position", SUPERVISED, 1.0, 100, object_r2, 0.02),
        Reading("hand_position", SUPERVISED, 1.0, 100, hand_r2, 0.02),
    ]
    findings = judge(good.latents, good.prediction, readings, [], None, "", ["object_position"])
    assert advice in next(f for f in findings if f.gauge == "object_position in the latent").todo


@pytest.mark.parametrize(
    ("latent_r2", "advice"),
    [(0.95, "train with more labels"), (0.3, "cannot tell what the latent lacks")],
)
def test_the_bundles_readout_is_blamed_only_for_what_is_in_the_latent(good, latent_r2, advice):
    readings = [
        Reading("hand_position", MLP, 1.0, 100, latent_r2, 0.01),
        Reading("hand_position", BUNDLE, 0.0, 0, 0.2, 0.1),
    ]
    findings = judge(good.latents, good.prediction, readings, [], None, "", ["hand_position"])
    found = next(f for f in findings if f.gauge == "the bundle's readout")
    assert found.status == DOUBTFUL
    assert advice in found.todo


@pytest.mark.parametrize(
    ("label", "latent", "status"),
    [("object_position", 0.2, FIT), ("hand_position", 0.2, DOUBTFUL), ("hand_position", 0.9, FIT)],
)
def test_goal_pictures_mislead_where_they_are_not_read(good, label, latent, status):
    order = dataclasses.replace(good.order, label=label, latent=latent, position=0.95)
    found = judge(good.latents, good.prediction, [], [], order, label, [])[-1]
    assert (found.gauge, found.status) == ("cost and distance", status)
    assert ("goals given as pictures mislead" in found.todo) == (status == DOUBTFUL)


def test_what_joints_tell_need_not_be_in_the_latent(good):
    readings = [Reading("hand_position", MLP, 1.0, 100, 0.6, 0.05)]
    arguments = (good.latents, good.prediction, readings, [], None)
    found = judge(*arguments, "object_position", ["hand_position"], felt=["hand_position"])[3]
    assert (found.status, found.todo) == (FIT, "") and "the joints tell it" in found.found
    found = judge(*arguments, "object_position", ["hand_position"])[3]
    assert found.status == DOUBTFUL
    found = judge(*arguments, "hand_position", ["hand_position"], felt=["hand_position"])[3]
    assert found.status == DOUBTFUL  # what goals are about must be


def test_a_place_is_read_by_whichever_reads_it_best(shipped, data):
    """Of few frames a probe learns little; what is planned with was trained on more."""
    quick = dataclasses.replace(QUICK, probe=1)
    few = examine(shipped, data.take(slice(0, 6)), quick)
    own = next(r for r in few.readings if r.method == BUNDLE)
    probes = [r.r2 for r in few.readings if r.method != BUNDLE]
    assert own.r2 > max(probes)
    assert f"R² {own.r2:.3f}" in finding(few, "hand_position in the latent").found
    assert few.imagined[0].read.max() < 1.5 * own.error


def test_lengths_have_a_unit_where_there_is_an_arm(good):
    readings = [Reading("achieved_goal", MLP, 1.0, 100, 0.95, 1.234)]
    arguments = (good.latents, good.prediction, readings, [], None, "", ["achieved_goal"])
    assert "error 123.4 cm" in judge(*arguments)[3].found
    assert "error 1.23 (mlp)" in judge(*arguments, unit=NO_UNIT)[3].found
    assert good.unit.name == "cm"


def test_a_bundle_for_other_goals_is_told_and_its_readout_judged_by_its_own(shipped, data):
    other = {**data.columns, "second": data.columns["hand_position"][:, ::-1].copy()}
    about = dataclasses.replace(data.about, goal="second")
    bundle = Bundle(shipped.path)
    bundle.manifest["goal"] = "hand_position"
    examination = examine(bundle, dataclasses.replace(data, columns=other, about=about), QUICK)
    assert "its goals mean second, those of bundle" in examination.warnings[0]
    assert [r.label for r in examination.readings if r.method == BUNDLE] == ["hand_position"]
    assert (examination.order.label, examination.order.position) == ("second", None)


def test_the_usable_horizon_is_where_half_of_staying_is_met():
    still = np.arange(1, 7, dtype=float)
    error = np.array([0.9, 0.9, 0.9, 0.9, 2.5, 4.0])
    windows = np.full(6, 100)
    assert Imagined("hand_position", windows, error, still, error).usable_horizon == 5
    assert Imagined("hand_position", windows, still, still, error).usable_horizon == 0


def test_the_effective_rank_counts_directions_that_are_used_alike():
    rng = np.random.default_rng(0)
    used = rng.standard_normal((4000, 3)) @ np.linalg.qr(rng.standard_normal((8, 8)))[0][:3]
    assert measure_latents(used.astype(np.float32)).effective_rank == pytest.approx(3, abs=0.05)
    assert measure_latents(rng.standard_normal((4000, 8))).effective_rank > 7.9
    assert measure_latents(np.full((50, 8), 0.3, np.float32)).effective_rank == 0
    assert measure_latents(np.hstack([used, np.full((4000, 2), 7.0)])).dead == 2


def test_rank_correlation_knows_order_ties_and_none():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1)
    assert spearman(values, -values) == pytest.approx(-1)
    assert spearman(values, np.array([1.0, 2.0, 2.0, 3.0])) == pytest.approx(0.9486833)
    assert spearman(values, np.ones(4)) == 0


def test_probes_read_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((300, 6)).astype(np.float32)
    places = (latents @ rng.standard_normal((6, 3)) + 5).astype(np.float32)
    noise = rng.standard_normal((300, 3)).astype(np.float32)
    for fit in (fit_linear, lambda x, y: fit_mlp(x, y, 200, 0)):
        assert r2_and_error(fit(latents[:200], places[:200])(latents[200:]), places[200:])[0] > 0.98
    assert r2_and_error(fit_linear(latents[:200], noise[:200])(latents[200:]), noise[200:])[0] < 0.1


def test_the_command_writes_figures_and_says_the_verdict(data_file, tmp_path, capsys, monkeypatch):
    from jepa_robot.cli import doctor

    monkeypatch.setitem(doctor.QUICK, "frames", 520)
    monkeypatch.setitem(doctor.QUICK, "probe", 40)
    file = tmp_path / "new" / "result.json"
    doctor.run_doctor("reach_panda", data_file, quick=True, supervised=False, json_file=file)
    result = json.loads(file.read_text())
    assert result["verdict"] == "fit"
    assert result["prediction"]["ratio_to_copy"]["5"] < 0.3
    assert "Verdict: fit." in capsys.readouterr().out


def test_the_page_is_a_picture(good, tmp_path):
    pytest.importorskip("matplotlib")
    import cv2

    from jepa_robot.learning.doctor_page import draw

    draw(good, tmp_path / "new" / "page.png")
    picture = cv2.imread(str(tmp_path / "new" / "page.png"))
    assert picture.shape[0] > 800 and picture.std() > 10
