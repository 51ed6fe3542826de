"""The intrinsic cost: what it costs, that it is the arm's, and the ways round it."""

import dataclasses
import json
import shutil

import numpy as np
import onnx
import pytest
import torch

from jepa_robot.learning import intrinsic as torch_terms
from jepa_robot.models import Bundle, InvalidBundle, write_manifest
from jepa_robot.modules import intrinsic
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.intrinsic import JOINTS, Intrinsic, fingerprint, limits_of
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.collision import Clearance
from jepa_robot.robot.contract import INTRINSIC, InvalidContract, load_contract
from jepa_robot.robot.kinematics import Kinematics

ARMS = ("panda", "iiwa", "xarm6", "hobby5")
POSES = 120
NEAR_ENOUGH = 0.02  # m, of what spheres are from hulls


def poses(contract, count=POSES):
    rng = np.random.default_rng(0)
    ends = contract.limits("lower"), contract.limits("upper")
    return rng.uniform(*ends, (count, len(contract.joints)))


def states_of(positions, velocities=0.0):
    return np.concatenate([positions, np.full_like(positions, velocities)], axis=1)


def terms_of(contract, positions, velocities=0.0, actions=None, **more):
    """By name ``[M]``, of poses ``[M, J]``."""
    states = states_of(positions, velocities)
    actions = np.zeros((len(states), 3)) if actions is None else actions
    terms = Intrinsic(positions.shape[1], limits_of(contract)).terms(states, actions, **more)
    return dict(zip(INTRINSIC, terms.T, strict=True))


@pytest.mark.parametrize("arm", ARMS)
def test_distances_of_spheres_are_those_of_hulls(arm):
    """Nearest first: what is far costs nothing either way."""
    contract = load_contract(arm)
    clearance, positions = Clearance(contract, Kinematics(contract)), poses(contract)
    obstacles = np.array([clearance.is_obstacle(pair) for pair in range(clearance.size)])
    hulls = np.array([clearance.distances(row) for row in positions])
    parts = torch_terms.unpack(torch.from_numpy(limits_of(contract).copy()))
    joints = np.pad(positions, ((0, 0), (0, JOINTS - positions.shape[1]))).astype(np.float32)
    places, _ = torch_terms.place(torch.from_numpy(joints), parts)
    far, counts = torch_terms.between_links(places, parts)
    spheres = {
        "links": far[counts > 0].amin(dim=0).numpy(),
        "obstacles": torch_terms.from_boxes(places, parts).flatten(1).amin(dim=1).numpy(),
    }
    expected = {
        "links": hulls[:, ~obstacles].min(axis=1),
        "obstacles": hulls[:, obstacles].min(axis=1),
    }
    for what, distances in expected.items():
        at_stake = (distances > 0) & (distances < 2 * contract.safety.slow_distance)
        assert at_stake.sum() > 3
        error = np.abs(spheres[what] - distances)[at_stake]
        assert np.quantile(error, 0.9) < NEAR_ENOUGH, what


@pytest.mark.parametrize("arm", ARMS)
def test_the_hand_is_where_kinematics_say(arm):
    contract = load_contract(arm)
    positions, kinematics = poses(contract, 20), Kinematics(contract)
    lower, upper = np.array(contract.workspace)
    hands = np.array([kinematics.pose(row)[0] for row in positions])
    beyond = np.maximum(hands - upper, 0) + np.maximum(lower - hands, 0)
    expected = (beyond**2).sum(axis=1) / 0.1**2
    assert expected.any()
    terms = terms_of(contract, positions)
    np.testing.assert_allclose(terms["workspace"], expected, rtol=1e-3, atol=1e-3)


def test_what_motion_costs(contract):
    home = np.array([contract.home])
    actions = np.array([[0.5, 0.0, 1.0]])
    still = terms_of(contract, home, actions=actions)
    del still["self_collision"]  # two links of the wrist are close at home
    assert {name: cost[0] for name, cost in still.items() if cost[0]} == {"effort": 1.25}
    fastest = np.array(contract.limits("velocity"))
    assert terms_of(contract, home, 0.5 * fastest)["speed"][0] == pytest.approx(7 / 4, rel=1e-4)
    at_once = {"before": states_of(home - 0.5 * contract.rates.time_step * fastest)}
    started = terms_of(contract, home, fastest, **at_once)  # as if evenly accelerated: no jerk
    assert started["jerk"][0] == pytest.approx(0, abs=1e-3)
    jerked = terms_of(contract, home, fastest, before=states_of(home))
    assert jerked["jerk"][0] == pytest.approx(7, rel=1e-3)
    surprised = terms_of(contract, home, surprise=np.array([0.3]))
    assert surprised["surprise"][0] == pytest.approx(0.3)


@pytest.mark.parametrize("arm", ARMS)
def test_every_term_can_be_descended(arm):
    """Their slopes are those of small differences, near and far from what is in the way."""
    contract = load_contract(arm)
    positions = poses(contract, 30)
    count = positions.shape[1]
    limits = torch.from_numpy(limits_of(contract).copy()).double()

    def clearance(rows):
        padded = torch.nn.functional.pad(rows, (0, JOINTS - count))
        return torch_terms.clearance(padded, limits).sum(dim=1)

    rows = torch.from_numpy(positions).requires_grad_(True)
    (slopes,) = torch.autograd.grad(clearance(rows).sum(), rows)
    assert torch.isfinite(slopes).all() and slopes.abs().max() > 0
    step = 1e-6
    for joint in range(count):
        nudge = torch.zeros(count, dtype=torch.double)
        nudge[joint] = step
        rise = (clearance(rows + nudge) - clearance(rows - nudge)).detach() / (2 * step)
        np.testing.assert_allclose(slopes[:, joint], rise, rtol=1e-3, atol=1e-3)


def test_what_is_imagined_costs_what_is_measured(tiny, contract):
    """Each term, in the graph that plans and in the cost of states that came."""
    bundle = Bundle(tiny)
    model, cost = WorldModel(bundle), Cost(bundle, contract)
    rng = np.random.default_rng(0)
    start = np.zeros((1, bundle.state_size), np.float32)
    start[:, :14] = states_of(poses(contract, 1), 0.3)
    actions = rng.uniform(-1, 1, (1, 5, 4, bundle.action_size)).astype(np.float32)
    rollouts = model.rollout(start, actions[0])
    starts = np.repeat(start, 5, axis=0)
    for name in INTRINSIC:
        cost.configure(CostConfig.for_bundle({"weights": {name: 1.0}}, bundle))
        known = (bundle, model, cost, start, None, np.ones(4, np.float32))
        imagined = Imagined(*known).costs(actions)[0]
        measured = cost.total(rollouts, actions[0], before=starts)
        np.testing.assert_allclose(imagined, measured, rtol=1e-3, atol=1e-4, err_msg=name)


def test_a_bundle_with_terms_of_its_own_is_not_planned_with(milder, contract):
    cost = Cost(Bundle(milder), contract)
    with pytest.raises(InvalidBundle, match=r"plan.onnx: its intrinsic term 'effort' differs"):
        cost.check("plan")


def test_terms_of_places_are_compared_when_they_begin_to_count(flat, contract):
    cost = Cost(Bundle(flat), contract)
    cost.check("plan")
    cost.configure(CostConfig.for_bundle({"weights": {"obstacles": 1.0}}, Bundle(flat), contract))
    with pytest.raises(InvalidBundle, match=r"its intrinsic term 'self_collision' differs"):
        cost.check("plan")


@pytest.mark.parametrize("named", [None, "0" * 64])
def test_a_bundle_exported_with_other_terms_is_not_planned_with(named, tiny, tmp_path, contract):
    shutil.copytree(tiny, tmp_path / "old")
    manifest = json.loads((tmp_path / "old" / "manifest.json").read_text())
    manifest = {**manifest, "intrinsic": named} if named else without(manifest, "intrinsic")
    write_manifest(tmp_path / "old", manifest)
    says = rf"exported with intrinsic terms of SHA-256 {named!r}, expected '{fingerprint()}'"
    with pytest.raises(InvalidBundle, match=says):
        Cost(Bundle(tmp_path / "old"), contract).check("plan")


def without(manifest, field):
    return {name: value for name, value in manifest.items() if name != field}


def test_a_package_whose_terms_were_altered_plans_with_no_bundle(
    tiny, tmp_path, contract, monkeypatch
):
    model = onnx.load(str(intrinsic.GRAPH))
    model.doc_string = "altered"
    onnx.save(model, str(tmp_path / "intrinsic.onnx"))
    monkeypatch.setattr(intrinsic, "GRAPH", tmp_path / "intrinsic.onnx")
    fingerprint.cache_clear()
    try:
        with pytest.raises(InvalidBundle, match="exported with intrinsic terms of SHA-256"):
            Cost(Bundle(tiny), contract).check("plan")
    finally:
        monkeypatch.undo()
        fingerprint.cache_clear()


def test_nothing_alters_the_limits(tiny, contract):
    """They are the contract's: no section of a configuration has a say."""
    bundle = Bundle(tiny)
    cost, other = Cost(bundle, contract), {"weights": {}, "limits": [0.0], "near": 0.0}
    cost.configure(CostConfig.for_bundle(other, bundle, contract))
    np.testing.assert_array_equal(cost.inputs["limits"], limits_of(contract, False))
    cost.configure(CostConfig.for_bundle({"weights": {"obstacles": 1.0}}, bundle, contract))
    np.testing.assert_array_equal(cost.inputs["limits"], limits_of(contract))
    with pytest.raises(ValueError, match="read-only"):
        cost.inputs["limits"][0] = 9.0


def test_terms_have_nothing_that_could_be_learned():
    """The shipped graph is what the source makes, and it has no weights: only what sizes are."""
    from jepa_robot.learning.intrinsic_graphs import generic_graph

    made, shipped = generic_graph(), onnx.load(str(intrinsic.GRAPH))
    assert [node.op_type for node in made.graph.node] == [
        node.op_type for node in shipped.graph.node
    ]
    assert sum(len(tensor.raw_data) for tensor in shipped.graph.initializer) < 2000


def test_too_many_joints_or_obstacles_are_refused_by_name(contract):
    box = contract.safety.obstacles[0]
    safety = dataclasses.replace(contract.safety, obstacles=(box,) * 9)
    crowded = dataclasses.replace(contract, safety=safety)
    with pytest.raises(InvalidContract, match=r"safety\.obstacles are 9, expected at most 8"):
        limits_of(crowded)


def test_without_a_body_only_effort_and_surprise_cost():
    terms = Intrinsic(0, limits_of(None)).terms(
        np.ones((2, 3), np.float32), np.ones((2, 2)), surprise=np.array([0.5, 0.0])
    )
    found = {name: values.tolist() for name, values in zip(INTRINSIC, terms.T, strict=True)}
    assert {name: values for name, values in found.items() if any(values)} == {
        "effort": [2.0, 2.0],
        "surprise": [0.5, 0.0],
    }
