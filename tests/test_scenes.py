"""Scenes: what is random about them, whether they can be done, and that they repeat to the bit."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jepa_robot import resources
from jepa_robot.robot.contract import InvalidContract, load_contract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.episodes import GRIPPER, HAND, OBJECT, Episode
from jepa_robot_sim.scenes import Randomisation, Variation
from jepa_robot_sim.tasks import TASKS, Reach, make_task
from jepa_robot_sim.world import ArmWorld

ROBOTS = sorted(
    path.stem for path in (resources.share_directory() / "config/robots").glob("*.yaml")
)
CASES = [
    (robot, task)
    for robot, task in itertools.product(ROBOTS, TASKS)
    if TASKS[task].refusal(load_contract(robot)) is None
]
OBJECT_CASES = [(robot, task) for robot, task in CASES if task != "reach"]
VARIED = Randomisation.full(1.0, distractors=2)


def blindfolded(robot):
    """Nothing is rendered."""
    return dataclasses.replace(load_contract(robot), cameras=())


def run(world, episode, policy, steps=None):
    """Labels after each action."""
    frame, labels = world.reset(episode), []
    for _ in range(steps or world.task.steps):
        frame = world.step(policy(frame.labels, episode))
        labels.append(frame.labels)
    return labels


def success_rate(robot, task, policy, episodes):
    contract = blindfolded(robot)
    task = make_task(task, contract)
    world, rng = ArmWorld(contract, task), np.random.default_rng(11)
    ends = []
    for _ in range(episodes):
        episode = task.sample(rng)
        ends.append(task.is_success(run(world, episode, getattr(task, policy))[-1], episode.goal))
    world.close()
    return np.mean(ends)


QUICK_CASES = [(r, t) for r, t in OBJECT_CASES if t != "push_around" or r == "panda"]


@pytest.mark.parametrize(("robot", "task"), QUICK_CASES)
def test_the_privileged_script_mostly_succeeds(robot, task):
    episodes, least = (4, 0.5) if task == "push_around" else (3, 2 / 3)
    assert success_rate(robot, task, "oracle", episodes) >= least


@pytest.mark.parametrize("task", ["push", "pick_and_place"])
def test_going_straight_to_the_goal_without_seeing_the_object_fails(task):
    assert success_rate("panda_table", task, "blind", 4) < 0.2


def test_an_arm_without_a_gripper_is_told_why_it_cannot_pick():
    with pytest.raises(ValueError, match="'pick_and_place', which iiwa cannot do: it has no grip"):
        make_task("pick_and_place", load_contract("iiwa"))
    with pytest.raises(ValueError, match=r"hobby5 cannot do: its workspace is 0\.12 m wide"):
        make_task("push_around", load_contract("hobby5"))
    with pytest.raises(ValueError, match=r"task is 'juggle', expected one of \['reach', "):
        make_task("juggle", load_contract("panda"))


@pytest.mark.parametrize(("robot", "task"), CASES)
def test_episodes_depend_on_the_seed_alone_and_survive_json_to_the_bit(robot, task):
    task = make_task(task, load_contract(robot), VARIED)
    one, other = (task.sample(np.random.default_rng(4)) for _ in range(2))
    again = Episode.from_dict(json.loads(json.dumps(one.to_dict())))
    for twin in (other, again):
        for field in dataclasses.fields(Episode):
            np.testing.assert_equal(getattr(twin, field.name), getattr(one, field.name))
    assert not np.array_equal(task.sample(np.random.default_rng(5)).goal, one.goal)


@pytest.mark.parametrize(("robot", "task"), OBJECT_CASES)
def test_object_and_goal_lie_apart_and_the_goal_picture_has_the_hand_anywhere(robot, task):
    task = make_task(task, load_contract(robot))
    rng = np.random.default_rng(0)
    episodes = [task.sample(rng) for _ in range(12)]
    for episode in episodes:
        apart = np.linalg.norm(episode.goal - episode.object_start)
        assert task.distance[0] <= apart <= task.distance[1]
        assert apart > 1.5 * task.success_distance  # or it would be done before it begins
        np.testing.assert_array_equal(episode.goal, episode.object_goal)
    kinematics = task._placer._limiter.kinematics
    hands = np.array([kinematics.pose(e.goal_joints)[0] for e in episodes])
    goals = np.array([e.goal for e in episodes])
    span = np.subtract(task.upper, task.lower)[:2]
    assert (np.ptp(hands[:, :2], axis=0) > 0.4 * span).all()
    assert np.linalg.norm((hands - goals)[:, :2], axis=1).mean() > 0.2 * span.max()


@pytest.mark.parametrize(("robot", "task"), OBJECT_CASES)
def test_what_rests_stays_where_it_is(robot, task):
    contract = blindfolded(robot)
    task = make_task(task, contract)
    world = ArmWorld(contract, task)
    episode = task.sample(np.random.default_rng(1))
    ends = run(world, episode, lambda labels, episode: None, 50)
    world.close()
    assert np.linalg.norm(ends[-1]["object_position"] - episode.object_start) < 5e-4


@pytest.mark.parametrize(("robot", "task"), CASES)
def test_an_episode_repeats_to_the_bit_whatever_ran_before(robot, task):
    contract = load_contract(robot)
    task = make_task(task, contract, VARIED)
    rng = np.random.default_rng(2)
    episodes = [task.sample(rng) for _ in range(3)]
    noise = 0.4 * rng.standard_normal((15, contract.actions.size))

    def frames(world, episode):
        frame = world.reset(episode)
        seen = [frame]
        for push in noise:
            frame = world.step(task.oracle(frame.labels, episode) + push)
            seen.append(frame)
        return seen

    world = ArmWorld(contract, task)
    first = [frames(world, episode) for episode in episodes]
    world.goal_images(episodes[1])
    for number in (2, 1, 1, 0):
        assert_same(frames(world, episodes[number]), first[number])
    world.close()
    fresh = ArmWorld(contract, task)
    assert_same(frames(fresh, episodes[1]), first[1])
    fresh.close()


def assert_same(one, other):
    for frame, twin in zip(one, other, strict=True):
        for name, value in frame.labels.items():
            np.testing.assert_array_equal(value, twin.labels[name], err_msg=name)
        seen, again = frame.observation, twin.observation
        np.testing.assert_array_equal(seen.positions, again.positions)
        np.testing.assert_array_equal(seen.velocities, again.velocities)
        np.testing.assert_array_equal(np.stack(seen.images), np.stack(again.images))


def test_the_goal_picture_shows_the_object_at_the_goal_and_leaves_the_episode_alone():
    contract = load_contract("panda_table")
    task = make_task("push", contract)
    world, episode = ArmWorld(contract, task), task.sample(np.random.default_rng(3))
    before = world.reset(episode)
    goal = world.goal_images(episode)
    after = world.step(None)
    world.close()
    np.testing.assert_array_equal(
        after.labels["object_position"].round(4), before.labels["object_position"].round(4)
    )
    for camera, picture, now in zip(contract.cameras, goal, before.observation.images, strict=True):
        from jepa_robot.robot.geometry import project

        assert is_red_at(picture, project(camera, episode.goal))
        assert not is_red_at(now, project(camera, episode.goal))


def is_red_at(image, pixel):
    u, v = np.round(pixel).astype(int)
    r, g, b = image[v, u].astype(float)
    return r > 1.8 * max(g, b)


@pytest.mark.parametrize("task", ["reach", "push"])
def test_nothing_varies_by_default_and_randomisation_is_seen(task):
    contract = load_contract("panda")
    plain, varied = make_task(task, contract), make_task(task, contract, Randomisation.full(1.0))
    one, other = (t.sample(np.random.default_rng(0)) for t in (plain, varied))
    np.testing.assert_array_equal(one.goal, other.goal)
    assert one.variation.colours is None and one.variation.latency == 0
    arm = SimulatedArm(contract, scene=plain.scene)
    arm.arrange(one)
    nominal = arm.images()
    for change in ("colours", "light", "cameras"):
        looks = {change: getattr(other.variation, change)}
        arm.arrange(dataclasses.replace(one, variation=dataclasses.replace(one.variation, **looks)))
        assert np.abs(np.subtract(arm.images(), nominal, dtype=float)).mean() > 1, change
    arm.arrange(one)
    np.testing.assert_array_equal(arm.images(), nominal)
    arm.close()


def test_friction_and_mass_of_an_episode_are_felt():
    contract = blindfolded("panda_table")
    task = make_task("push", contract)
    world, episode = ArmWorld(contract, task), task.sample(np.random.default_rng(6))
    ends = []
    for friction, mass in ((1.0, 1.0), (0.5, 1.0), (1.0, 2.0), (1.0, 1.0)):
        variation = dataclasses.replace(episode.variation, friction=friction, mass=mass)
        labels = run(
            world, dataclasses.replace(episode, variation=variation), task.oracle, task.steps
        )
        ends.append(labels[-1]["object_position"])
    world.close()
    assert not np.array_equal(ends[0], ends[1]) and not np.array_equal(ends[0], ends[2])
    np.testing.assert_array_equal(ends[0], ends[3])


def test_a_payload_is_felt_by_the_arm_alone_that_carries_it():
    contract = blindfolded("panda_push")
    task = make_task("push", contract)
    plain = task.sample(np.random.default_rng(0))
    arm = SimulatedArm(contract, scene=task.scene)
    last = arm._joints[-1]
    nominal = arm._call("getDynamicsInfo", arm._body, last)[:3]
    for payload in (0.0, 2.0, 0.5, 0.0):
        arm.arrange(dataclasses.replace(plain, variation=Variation(payload=payload)))
        mass, _, inertia = arm._call("getDynamicsInfo", arm._body, last)[:3]
        assert mass == pytest.approx(nominal[0] + payload) and inertia == nominal[2]
    arm.close()


def test_joints_that_measure_wrongly_are_where_nobody_thinks():
    contract = blindfolded("panda_push")
    task, off = make_task("push", contract), np.array([0, 0.05, 0, 0, 0, 0, 0])
    plain = task.sample(np.random.default_rng(0))
    wrong = dataclasses.replace(plain, variation=Variation(miscalibration=tuple(off)))
    arm, hands = SimulatedArm(contract, scene=task.scene), {}
    for name, episode in (("plain", plain), ("wrong", wrong), ("again", plain)):
        arm.arrange(episode)
        np.testing.assert_allclose(arm.joint_states()[0], plain.start, atol=1e-6)
        for _ in range(100):
            arm.step()
        np.testing.assert_allclose(arm.joint_states()[0], plain.start, atol=2e-3)
        hands[name] = arm.ee_position()
    assert np.linalg.norm(hands["wrong"] - hands["plain"]) > 0.01
    np.testing.assert_array_equal(hands["again"], hands["plain"])
    short = dataclasses.replace(plain, variation=Variation(miscalibration=(0.1,)))
    with pytest.raises(ValueError, match="miscalibration is of 1 joints, expected of all 7"):
        arm.check(short)
    assert Episode.from_dict(json.loads(json.dumps(wrong.to_dict()))).variation == wrong.variation
    arm.close()


def test_a_square_block_turns_where_it_is_pushed_aside():
    contract = load_contract("panda_push")
    task = make_task("push", contract)
    task.scene = dataclasses.replace(
        task.scene, block=dataclasses.replace(task.scene.block, is_square=True)
    )
    world = ArmWorld(contract, task)
    bodies = world.robot.arm._scene
    shape = bodies._call("getCollisionShapeData", bodies._block, -1)[0]
    np.testing.assert_allclose(shape[3], [2 * task.scene.block.radius] * 2 + [shape[3][2]])
    turns = []
    for seed in range(4):
        run(world, task.sample(np.random.default_rng(seed)), task.oracle)
        pose = bodies._call("getBasePositionAndOrientation", bodies._block)
        turns.append(abs(2 * np.arctan2(pose[1][2], pose[1][3])))
    world.close()
    assert max(turns) > 0.2


def test_a_late_action_moves_the_arm_so_many_periods_later():
    contract = blindfolded("panda")
    task = Reach(contract)
    world, episode = ArmWorld(contract, task), task.sample(np.random.default_rng(0))
    on_time = run(world, episode, lambda *_: np.array([1, 0, 0]), 10)
    late = dataclasses.replace(episode, variation=dataclasses.replace(episode.variation, latency=2))
    delayed = run(world, late, lambda *_: np.array([1, 0, 0]), 12)
    world.close()
    for one, other in zip(on_time, delayed[2:], strict=True):
        np.testing.assert_allclose(other["hand_position"], one["hand_position"], atol=2e-3)
    still = delayed[0]["hand_position"]
    np.testing.assert_allclose(delayed[1]["hand_position"], still, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"), [("colours", 1.5), ("latency", -0.1), ("distractors", 7), ("mass", "much")]
)
def test_a_strength_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} is {value!r}, expected"):
        Randomisation(**{field: value})


def test_an_episode_of_another_scene_is_refused():
    contract = blindfolded("panda")
    push, around = make_task("push", contract), make_task("push_around", contract)
    arm = SimulatedArm(contract, scene=push.scene)
    arm.check(push.sample(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=r"wall is \[.*\], expected none in this scene"):
        arm.check(around.sample(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="object_start is None, expected 3 finite numbers"):
        arm.check(Reach(contract).sample(np.random.default_rng(0)))
    arm.close()


@pytest.mark.parametrize(("robot", "task"), CASES)
def test_exploration_depends_on_the_generator_alone_and_says_what_was_scripted(robot, task):
    contract = blindfolded(robot)
    task = make_task(task, contract)
    world = ArmWorld(contract, task)

    def explored(seed):
        rng, rows, scripted = np.random.default_rng(seed), [], []
        for _ in range(4):
            explorer = task.explore(rng, 8)
            frame = world.reset(explorer.episode)
            for _ in range(8):
                choice = explorer.act(frame)
                action = choice.action
                assert action.shape == (contract.actions.size,) and np.abs(action).max() <= 1
                rows.append(action)
                scripted.append(choice.is_scripted)
                frame = world.step(action)
        return np.array(rows), scripted

    one, scripted = explored(0)
    np.testing.assert_array_equal(explored(0)[0], one)
    assert any(scripted) == (task.name != "reach")
    world.close()


@pytest.mark.parametrize("task", ["push", "push_around", "pick_and_place"])
def test_exploration_makes_contact(task):
    contract = blindfolded("panda_table")
    task = make_task(task, contract)
    world, rng, moved = ArmWorld(contract, task), np.random.default_rng(0), []
    for _ in range(12):
        explorer = task.explore(rng, task.recorded_steps)
        frame = world.reset(explorer.episode)
        for _ in range(task.recorded_steps):
            after = world.step(explorer.act(frame).action)
            step = after.labels["object_position"] - frame.labels["object_position"]
            moved.append(np.linalg.norm(step) > 1e-3)
            frame = after
    world.close()
    assert np.mean(moved) > 0.15


def test_a_hand_that_is_kept_too_high_to_push_is_refused():
    contract = blindfolded("panda_push")
    lower, upper = contract.workspace
    high = dataclasses.replace(
        contract,
        home=load_contract("panda_table").home,
        workspace=(lower, (*upper[:2], 0.24)),
    )
    with pytest.raises(InvalidContract, match=r"the hand is at 0.169 m, .* expected at most 0.0"):
        make_task("push", high)


def test_some_grasps_that_are_shown_miss_and_some_let_go():
    """Who only sees grasps that hold learns that what is closed holds the block, wherever."""
    task = make_task("pick_and_place", load_contract("panda_table"))
    rng, steps, shown = np.random.default_rng(0), 50, []
    while len(shown) < 60:
        explorer = task.explore(rng, steps)
        block = explorer.episode.object_start
        grasp = np.array([*block[:2], max(block[2], task.lower[2] + 0.002)])
        labels = {HAND: grasp, OBJECT: block, GRIPPER: np.array([0.04])}
        acts = [explorer.act(SimpleNamespace(labels=labels)) for _ in range(steps)]
        if acts[0].is_scripted and acts[0].demonstrated is None:
            # Around the block: one that neither misses nor fumbles closes.
            shown.append([choice.action[-1] > 0 for choice in acts])
    opens = np.array(shown)
    misses = opens[:, :10].mean(axis=1) > 0.9
    fumbles = np.abs(np.diff(opens.astype(int), axis=1)).sum(axis=1) > 2
    assert 0.1 < misses.mean() < 0.7 and 0.2 < fumbles.mean() < 0.8
    assert (~opens.any(axis=1)).mean() > 0.1


def test_some_episodes_begin_with_the_block_on_the_shelf_and_the_hand_elsewhere():
    task, rng = make_task("pick_and_place", blindfolded("panda_table")), np.random.default_rng(0)
    begun = [task.explore(rng, task.recorded_steps).episode for _ in range(150)]
    top = task.scene.shelf.upper[2]
    shelved = [one for one in begun if one.object_start[2] > top]
    assert 0.08 < len(shelved) / len(begun) < 0.28
    place = Kinematics(task.contract).pose
    away = [np.linalg.norm(place(one.start)[0] - one.object_start) for one in shelved]
    assert np.mean(np.array(away) > 0.1) > 0.4


def test_who_shows_a_grasp_leaves_room_for_who_sees_less():
    """Without steps from one millimetre to the next, and closing well before the middle."""
    task = make_task("pick_and_place", load_contract("panda_table"))
    block = np.array([0.5, 0.0, task.scene.resting_height])
    goal, opened = np.array([0.5, 0.15, block[2] + 0.04]), np.array([0.04])

    def answers(offsets):
        known = {OBJECT: block, GRIPPER: opened}
        return np.array([task.grasper.action({**known, HAND: block + o}, goal) for o in offsets])

    over = answers([(x, 0, 0.05) for x in np.arange(0, 0.04, 0.001)])
    assert over[0, 2] < -0.5 and over[-1, 2] > -0.1
    assert np.abs(np.diff(over, axis=0)).max() < 0.3
    aside = answers([(0.01, 0, 0.005), (0, -0.01, 0.01), (0.02, 0, 0), (0, 0, 0.02)])
    assert (aside[:, -1] < 0).tolist() == [True, True, False, False]
