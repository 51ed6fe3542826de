"""The modules without ROS: perception, world model, cost, actor, memory, configurator."""

import dataclasses

import numpy as np
import pytest

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import Actor, ActorConfig
from jepa_robot.modules.configurator import Configuration, Configurator
from jepa_robot.modules.cost import Cost, CostConfig, InvalidConfiguration
from jepa_robot.modules.perception import InvalidObservation, Observation, Perception
from jepa_robot.modules.tasks import InvalidTask, load_task, task_text
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning.cem import CEMConfig
from jepa_robot.robot.contract import load_contract
from tests import tiny_bundle


@pytest.fixture(scope="module")
def bundle(tiny):
    return Bundle(tiny)


def observation(contract, **changes):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in contract.cameras]
    whole = Observation(1, images, np.array(contract.home), np.zeros(7))
    return dataclasses.replace(whole, **changes)


def test_the_state_is_proprioception_then_latent(bundle, contract):
    seen = observation(contract)
    state = Perception(bundle).encode(seen)
    assert state.shape == (1, bundle.state_size) and state.dtype == np.float32
    assert np.allclose(state[0, :7], contract.home)
    means = np.concatenate([image.mean(axis=(0, 1)) / 255 for image in seen.images])
    assert np.allclose(bundle.latent(state)[0], means, atol=1e-4)


def test_images_of_another_size_are_refused(bundle, contract):
    wide = [np.zeros((64, 80, 3), np.uint8)] * 2
    with pytest.raises(InvalidObservation, match=r"camera_side is \(64, 80, 3\).*expected \(64"):
        Perception(bundle).encode(observation(contract, images=wide))


def test_joints_that_are_not_finite_are_refused(bundle, contract):
    joints = np.array([np.nan] * 7)
    with pytest.raises(InvalidObservation, match="expected finite numbers"):
        Perception(bundle).encode(observation(contract, positions=joints))


def test_a_gripper_that_actions_move_is_felt(tmp_path):
    contract = load_contract("panda_table")
    bundle = Bundle(tiny_bundle.build(tmp_path / "gripping", contract))
    state = Perception(bundle).encode(observation(contract, opening=0.03))
    assert state.shape == (1, bundle.state_size) and bundle.proprioception_size == 15
    assert np.allclose(state[0, [0, 14]], [contract.home[0], 0.03])
    with pytest.raises(InvalidObservation, match="do not tell the gripper's opening"):
        Perception(bundle).encode(observation(contract))


def test_a_camera_in_bgr_gives_the_same_state(bundle, contract, tiny):
    seen = observation(contract)
    other = Bundle(tiny)
    for camera in other.manifest["cameras"]:
        camera["encoding"] = "bgr8"
    flipped = dataclasses.replace(seen, images=[image[..., ::-1] for image in seen.images])
    assert np.array_equal(Perception(bundle).encode(seen), Perception(other).encode(flipped))


def test_a_rollout_is_the_repeated_prediction(bundle):
    model, rng = WorldModel(bundle), np.random.default_rng(0)
    state = rng.standard_normal((1, bundle.state_size)).astype(np.float32)
    actions = rng.uniform(-1, 1, (4, 3, 3)).astype(np.float32)
    states = model.rollout(state, actions)
    assert states.shape == (4, 3, bundle.state_size)
    current = np.repeat(state, 4, axis=0)
    for step in range(3):
        current = model.predict(current, actions[:, step])
        assert np.allclose(states[:, step], current)
    assert model.surprise(state, state) == 0
    assert model.surprise(state, state + 1) == pytest.approx(1, rel=1e-5)


def index(bundle, term):
    return list(bundle.terms).index(term)


def configured(bundle, contract, section):
    cost = Cost(bundle, contract)
    cost.configure(CostConfig.for_bundle(section, bundle))
    return cost


def test_goal_terms_vanish_at_the_goal_and_grow_away_from_it(bundle, contract):
    latent = [0.5] * bundle.latent_size
    section = {"weights": {"goal_latent": 1.0}, "goal": {"latent": latent}}
    cost = configured(bundle, contract, section)
    state = np.zeros((1, bundle.state_size), np.float32)
    state[0, :7], state[0, 14:] = contract.home, 0.5
    assert not cost.terms(state).any()
    state[0, 14:] = 0.7
    assert cost.terms(state)[0, index(bundle, "goal_latent")] == pytest.approx(0.04, rel=1e-4)


def test_the_position_term_measures_the_readout_in_units_of_10_cm(bundle, contract):
    state = np.zeros((1, bundle.state_size), np.float32)
    section = {"weights": {"goal_position": 1.0}, "goal": {"position": [0.1, 0.0, 0.2]}}
    terms = configured(bundle, contract, section).terms(state)
    assert terms[0, index(bundle, "goal_position")] == pytest.approx(1 + 4, rel=1e-4)
    assert terms[0, index(bundle, "goal_distance")] == pytest.approx(5**0.5, rel=1e-4)


def test_what_the_critic_foresees_counts_after_the_last_state(bundle, contract):
    section = {"weights": {"cost_to_go": 2.0}, "goal": {"encoded": [1.0] + 5 * [0.0]}}
    cost = Cost(bundle, contract)
    cost.configure(CostConfig.for_bundle(section, bundle))
    states = np.zeros((2, 3, bundle.state_size), np.float32)
    states[1, -1, 14] = 4.0
    terms = cost.terms(states)
    np.testing.assert_allclose(terms[:, -1, index(bundle, "cost_to_go")], [1, 3])
    assert not terms[:, :-1, index(bundle, "cost_to_go")].any()
    np.testing.assert_allclose(cost.total(states, np.zeros((2, 3, 3), np.float32)), [2, 6])


def bounded(contract):
    return dataclasses.replace(contract, intrinsic=(("joint_limits", 0.5, 2.0),))


def test_an_intrinsic_term_that_is_not_named_weighs_the_least_that_it_may(bundle, contract):
    config = CostConfig.for_bundle({"weights": {"effort": 3.0}}, bundle, bounded(contract))
    weights = dict(zip(bundle.terms, config.weights, strict=True))
    assert (weights["joint_limits"], weights["effort"]) == (0.5, 3.0)


@pytest.mark.parametrize("weight", [0.0, 0.4, 2.1, -1.0, 1e9, float("nan"), "1"])
def test_an_intrinsic_term_cannot_be_weighed_out_of_its_bounds(weight, bundle, contract):
    """Not by a task, and not by who sends a configuration without asking the configurator."""
    said = rf"weights.joint_limits is {weight!r}, expected 0.5 to 2, the bounds that the contract"
    section, task = {"weights": {"joint_limits": weight}}, load_task("reach")
    with pytest.raises(InvalidConfiguration, match=f"cost.{said}"):
        CostConfig.for_bundle(section, bundle, bounded(contract))
    task = dataclasses.replace(task, weights=section["weights"])
    with pytest.raises(InvalidTask, match=said):
        Configurator(bounded(contract), bundle).sections(task)


def test_a_critic_that_is_not_there_cannot_be_weighed(tmp_path, contract):
    bundle = Bundle(tiny_bundle.build(tmp_path / "uncritical", contract, has_critic=False))
    with pytest.raises(InvalidConfiguration, match=r"cost_to_go is 2.0, expected 0: .* no critic"):
        CostConfig.for_bundle({"weights": {"cost_to_go": 2.0}}, bundle)


def test_intrinsic_terms_cost_what_they_should(bundle, contract):
    cost = configured(bundle, contract, {"weights": {"joint_limits": 1.0, "effort": 1.0}})
    state = np.zeros((1, bundle.state_size), np.float32)
    state[0, :7] = contract.home
    terms = dict(zip(bundle.terms, cost.terms(state, np.array([[0.5, 0, 1.0]]))[0], strict=True))
    assert {name: value for name, value in terms.items() if value} == {"effort": 1.25}
    state[0, 3] = contract.joints[3].upper
    assert cost.terms(state)[0, index(bundle, "joint_limits")] == pytest.approx(1, rel=1e-4)


def test_total_is_the_weighted_sum_over_the_steps(bundle, contract):
    section = {"weights": {"effort": 2.0}}
    actions = np.ones((5, 4, 3), np.float32)
    states = np.zeros((5, 4, bundle.state_size), np.float32)
    states[..., :7] = contract.home
    assert configured(bundle, contract, section).total(states, actions).tolist() == [24.0] * 5


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"weights": {"magic": 1}}, r"names \['magic'\], expected some of"),
        ({"weights": {"effort": float("nan")}}, "expected 12 finite numbers"),
        ({"goal": {"latent": [1.0]}}, "cost.goal.latent.*expected 6 finite numbers"),
        ({"goal": {"position": "there"}}, "cost.goal.position is 'there', expected 3 numbers"),
    ],
)
def test_cost_sections_are_checked(section, says, bundle):
    with pytest.raises(InvalidConfiguration, match=says):
        CostConfig.for_bundle(section, bundle)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"mode": 4}, "actor.mode is 4"),
        ({"mode": 1}, "goal_latent is missing, expected one in mode 1"),
        ({"planner": {"name": "magic"}}, "planner.name is 'magic', expected one of"),
        ({"planner": {"colour": 1}}, "planner.colour is unknown to cem, expected one of"),
        ({"seed": -1}, "actor.seed is -1"),
        ({"auto": {"look": -1}}, "auto.look is -1, expected a whole number from 0"),
        ({"replan": "never"}, "actor.replan is 'never'"),
        ({"deadline": -1}, "actor.deadline is -1, expected 0 to 10 s"),
        ({"precision": "int8"}, "actor.precision is 'int8', expected one that the bundle has"),
    ],
)
def test_actor_sections_are_checked(section, says):
    with pytest.raises(InvalidConfiguration, match=says):
        ActorConfig.from_section(section, 6, ["float32"])


def test_what_was_warmed_up_loads_no_graph_when_it_decides(tiny, contract):
    bundle = Bundle(tiny)
    section = {"weights": {"goal_latent": 1.0}, "goal": {"latent": [0.1] * 6}}
    actor = Actor(bundle, WorldModel(bundle), configured(bundle, contract, section))
    task = {"mode": 2, "goal_latent": [0.1] * 6, "planner": {"seeds": 1}}
    actor.configure(ActorConfig.from_section(task, 6))
    actor.warm_up()
    loaded = dict(bundle._sessions)
    actor.plan(np.zeros((1, bundle.state_size), np.float32))
    assert bundle._sessions == loaded


def test_planning_lowers_the_cost_that_it_is_given(bundle, contract):
    goal = [0.3, -0.2, 0.1, 0.0, 0.2, 0.1]
    section = {"weights": {"goal_latent": 1.0}, "goal": {"latent": goal}}
    cost, model = configured(bundle, contract, section), WorldModel(bundle)
    actor = Actor(bundle, model, cost)
    actor.configure(ActorConfig.from_section({"mode": 2, "goal_latent": goal}, 6))
    state = np.zeros((1, bundle.state_size), np.float32)
    state[0, :7] = contract.home
    plan = actor.plan(state).actions[0]
    assert plan.shape == (5, 3) and plan.dtype == np.float32

    def price(actions):
        return cost.total(model.rollout(state, actions[None]), actions[None])[0]

    random = np.random.default_rng(0).uniform(-1, 1, (200, 5, 3)).astype(np.float32)
    assert price(plan) < min(price(actions) for actions in random)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("fly", "'fly' is neither a path nor one of config/tasks: expected one of .*, reach"),
        ("name: reach\nmode: 9", "mode is 9"),
        ("name: reach\nspeed: 9", "speed is not a known field"),
        ("name: reach\ngoal: {position: [1, 2]}", "goal.position is .*a list of 3 numbers"),
        ("name: reach\nweights: {effort: -1}", "weights.effort is -1"),
        ("name: [", "is not YAML"),
        ("a: b: c", "is not YAML"),
    ],
)
def test_tasks_are_checked(text, says):
    with pytest.raises(InvalidTask, match=says):
        load_task(text)


def test_a_goal_out_of_reach_is_refused_with_the_workspace(bundle, contract):
    configurator = Configurator(contract, bundle)
    with pytest.raises(InvalidTask, match=r"\[2.0, 0.0, 0.3\], out of reach: expected inside"):
        configurator.with_position(load_task("reach"), (2.0, 0.0, 0.3))
    with pytest.raises(InvalidTask, match="expected 3 finite numbers"):
        configurator.with_position(load_task("reach"), (np.nan, 0.0, 0.3))


def test_an_object_seen_a_little_out_of_reach_is_where_reach_ends(bundle, contract, monkeypatch):
    configurator, images = Configurator(contract, bundle), observation(contract).images
    task = dataclasses.replace(load_task("reach"), goal_label="object_position")
    (low, *_), (high, *_) = contract.workspace
    middle = [(a + b) / 2 for a, b in zip(*contract.workspace, strict=True)]
    for x, taken in ((middle[0], middle[0]), (high + 0.03, high), (low - 0.03, low)):
        seen = np.array([[x, *middle[1:]]], np.float32)
        monkeypatch.setattr(configurator, "_readout", lambda latent, seen=seen: seen)
        goal = configurator.with_image(task, images).goal_position
        assert goal == pytest.approx((taken, *middle[1:]), abs=1e-6)
    seen = np.array([[high + 0.06, *middle[1:]]], np.float32)
    monkeypatch.setattr(configurator, "_readout", lambda latent: seen)
    with pytest.raises(InvalidTask, match="out of reach: expected inside"):
        configurator.with_image(task, images)


def test_a_task_without_a_goal_is_off_and_with_one_on(bundle, contract):
    configurator, task = Configurator(contract, bundle), load_task("reach")
    assert configurator.sections(task)["actor"]["mode"] == 0
    sections = configurator.sections(configurator.with_position(task, (0.5, 0.0, 0.3)))
    assert sections["actor"]["mode"] == 2
    assert len(sections["actor"]["goal_latent"]) == bundle.latent_size
    assert sections["cost"]["goal"]["latent"] is None
    images = observation(contract).images
    sections = configurator.sections(configurator.with_image(task, images))
    assert sections["cost"]["goal"] == {
        "position": None,
        "latent": sections["actor"]["goal_latent"],
        "encoded": sections["actor"]["goal_latent"],
    }


def test_a_picture_of_an_objects_goal_says_where_the_object_is(bundle, contract):
    images = observation(contract).images
    latent = Perception(bundle).encode_goal(images)
    place = bundle.session("readout")(latent=latent)[0]
    workspace = (tuple(place - 1), tuple(place + 1))
    wide = dataclasses.replace(contract, workspace=workspace)
    task = Configurator(wide, bundle).with_image(load_task("push"), images)
    np.testing.assert_allclose(task.goal_position, place, rtol=1e-6)
    assert task.goal_latent is None


def test_the_last_state_may_count_more(bundle, contract):
    cost = Cost(bundle, contract)
    cost.configure(CostConfig.for_bundle({"weights": {"effort": 1.0}}, bundle))
    states = np.zeros((1, 3, bundle.state_size), np.float32)
    actions = np.array([[[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]]], np.float32)
    weights = CEMConfig(horizon=3, final=4.0).weights()
    added = cost.total(states, actions, weights) - cost.total(states, actions)
    np.testing.assert_allclose(added, [4 * 9.0])


def test_a_task_survives_being_written_and_read():
    task = dataclasses.replace(load_task("reach"), mode=1, seed=3, replan="continuous")
    assert load_task(task_text(task)) == task


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '{"version": "1", "activation": 0, "bundle": "", "task": "", "sections": {}}',
        '{"version": 1, "activation": 0, "bundle": "", "task": "", "sections": {"cost": 3}}',
    ],
)
def test_what_is_no_configuration_is_refused(text):
    with pytest.raises(InvalidConfiguration, match="configuration"):
        Configuration.from_json(text)


def test_a_name_that_cannot_be_a_file_is_refused():
    with pytest.raises(InvalidTask, match="is neither a path nor one of"):
        load_task("x" * 5000)
    with pytest.raises(InvalidTask, match="1 is not a known field"):
        load_task("name: reach\n1: 2\nfoo: 3")
