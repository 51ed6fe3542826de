"""Tasks as data: what they say, and what is refused by name and line."""

import dataclasses
import json

import cv2
import numpy as np
import pytest

from jepa_robot import resources
from jepa_robot.models import Bundle
from jepa_robot.modules.configurator import Configurator, OutOfReach
from jepa_robot.modules.tasks import InvalidTask, Task, load_task
from jepa_robot.robot.contract import load_contract
from tests import tiny_bundle

SEQUENCE = """
name: sequence
weights: {goal_position: 1.0}
success: {within: 0.03}
subgoals:
  - {name: a, goal: {position: [0.5, 0.1, 0.3]}}
  - {name: b, goal: {position: [0.5, -0.1, 0.3]}, after: [a], mode: 1, success: {within: 0.01}}
"""
FITTING = {"push": "panda_push", "pick": "panda_table"}  # the robot, by what a task's name has


@pytest.fixture(scope="module")
def bundle(tiny):
    return Bundle(tiny)


@pytest.fixture(scope="module")
def configurator(bundle, contract):
    return Configurator(contract, bundle)


def shipped():
    return sorted(
        path.stem for path in (resources.share_directory() / "config/tasks").glob("*.yaml")
    )


def test_ten_examples_are_shipped():
    assert len(shipped()) >= 10


@pytest.mark.parametrize("name", shipped())
def test_shipped_tasks_can_be_taken_up_by_their_robot(name, tmp_path):
    robot = next((robot for part, robot in FITTING.items() if part in name), "panda")
    contract = load_contract(robot)
    configurator = Configurator(contract, Bundle(tiny_bundle.build(tmp_path / "tiny", contract)))
    task = load_task(name)
    if task.goal_ago:
        task = configurator.resolved(task, [np.zeros(6, np.float32)])
    else:
        task = configurator.resolved(task)
    for part in task.each():
        assert configurator.sections(part)["actor"]["mode"] in (0, part.mode)


def test_a_subgoal_is_as_the_whole_but_for_what_it_says():
    task = load_task(SEQUENCE)
    first, second = task.each()
    assert [part.name for part in task.subgoals] == ["a", "b"]
    assert (first.mode, second.mode) == (2, 1)
    assert (first.success.within, second.success.within) == (0.03, 0.01)
    assert second.weights == {"goal_position": 1.0} and not second.subgoals
    assert task.subgoals[1].after == ("a",)


def test_a_task_survives_json():
    text = SEQUENCE + "patience: {seconds: 3, remedies: [replan]}\nlimits: {action: 0.5}\n"
    task = load_task(text)
    assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == dataclasses.replace(
        task,
        subgoals=tuple(
            dataclasses.replace(
                part,
                task=dataclasses.replace(part.task, goal_position=list(part.task.goal_position)),
            )
            for part in task.subgoals
        ),
    )


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("after: [a]", "after: [c]"), r"task:7: subgoals\[1\].after is \['c'\].*some of a, b"),
        (("{name: a,", "{name: a, after: [b],"), "order that is possible; . after . after . is a"),
        (("{name: b", "{name: a"), r"task:7: subgoals\[1\].name is 'a'.*no other"),
        (("success: {within: 0.03}\n", ""), r"task:5: subgoals\[0\].success is missing"),
        (("within: 0.03", "within: 0"), "task:4: success.within is 0, expected a number from"),
        (("goal: {position: [0.5, 0.1, 0.3]}", "mode: 2"), r"subgoals\[0\].goal is missing"),
        (("mode: 1", "mode: 9"), r"task:7: subgoals\[1\].mode is 9"),
        (("mode: 1", "subgoals: []"), r"subgoals\[1\].subgoals is not a known field"),
        (("subgoals:", "goal: {ago: 3}\nsubgoals:"), "no goal but for its label beside subgoals"),
        (("weights:", "limits: {action: 2}\nweights:"), "task:3: limits.action is 2.*0.01 to 1"),
        (("weights:", "levels: 3\nweights:"), r"task:3: levels is 3.*one of \[1, 2\]"),
        (("weights:", "timeout: -1\nweights:"), "task:3: timeout is -1"),
        (("weights:", "order: random\nweights:"), "task:3: order is 'random'.*given, nearest"),
        (
            ("weights:", "patience: {seconds: 2, remedies: [pray]}\nweights:"),
            "task:3: patience.remedies is .*replan, planner, later",
        ),
        (
            ("weights:", "patience: {seconds: 2, remedies: [planner]}\nweights:"),
            "patience.planner is .*the planner that the remedy planner takes",
        ),
        (
            ("position: [0.5, 0.1, 0.3]", "position: [0.5, 0.1, 0.3], ago: 3"),
            r"subgoals\[0\].goal.ago is 3.*in one way",
        ),
        (("position: [0.5, 0.1, 0.3]", "image: none.png"), "goal.image is 'none.png'.*there is no"),
    ],
)
def test_a_bad_task_is_refused_by_line(change, complaint):
    assert change[0] in SEQUENCE
    with pytest.raises(InvalidTask, match=complaint):
        load_task(SEQUENCE.replace(*change))


def test_a_subgoal_out_of_reach_is_named_before_anything_moves(configurator):
    with pytest.raises(InvalidTask, match=r"subgoal b: goal.position is \[9.0.*out of reach"):
        configurator.resolved(load_task(SEQUENCE.replace("[0.5, -0.1", "[9.0, -0.1")))


def test_two_levels_need_an_upper_one(configurator, bundle):
    with pytest.raises(InvalidTask, match=f"levels is 2, expected 1: bundle {bundle.id} has no"):
        configurator.resolved(load_task("name: far\nlevels: 2\ngoal: {position: [0.5, 0.1, 0.3]}"))


def test_a_goal_can_be_a_picture_in_a_file(tmp_path, configurator, contract):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (64, 128, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "goal.png"), picture[..., ::-1])
    (tmp_path / "task.yaml").write_text("name: there\ngoal: {image: goal.png}")
    task = configurator.resolved(load_task(str(tmp_path / "task.yaml")))
    images = [np.ascontiguousarray(part) for part in np.split(picture, 2, axis=1)]
    assert task.goal_latent == configurator.with_image(load_task("reach"), images).goal_latent
    cv2.imwrite(str(tmp_path / "goal.png"), picture[:32])
    with pytest.raises(InvalidTask, match=r"goal\.png is 128x32, expected 128x64"):
        configurator.resolved(load_task(str(tmp_path / "task.yaml")))


def test_a_goal_can_be_a_latent_of_the_bundles_size(configurator, bundle):
    latent = [0.5] * bundle.latent_size
    task = configurator.resolved(load_task(f"name: there\ngoal: {{latent: {latent}}}"))
    assert list(task.goal_latent) == latent
    with pytest.raises(InvalidTask, match=f"has 2 numbers, expected the {bundle.latent_size}"):
        configurator.resolved(load_task("name: there\ngoal: {latent: [1, 2]}"))


def test_what_was_before_there_is_memory_is_refused(configurator):
    with pytest.raises(InvalidTask, match=r"goal\.ago is 10.*nothing is remembered"):
        configurator.resolved(load_task("go_back"))


def test_a_point_in_a_picture_is_the_place_that_projects_there(configurator, contract, bundle):
    latent = np.zeros(bundle.latent_size, np.float32)
    height = float(bundle.session("readout")(latent=latent[None])[0][2])
    camera = contract.cameras[0]
    task = load_task("reach")
    place = np.array([0.5, 0.05, height])
    inside = contract.workspace[0][2] <= height <= contract.workspace[1][2]
    seen = camera.rotation.T @ (place - np.array(camera.position))
    pixel = seen[:2] / seen[2] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
    if inside:
        goal = configurator.with_point(task, camera.name, pixel, latent).goal_position
        assert np.allclose(goal, place, atol=1e-6)
    else:
        with pytest.raises(OutOfReach, match=r"goal.position is \[0.5\d*, 0.0[45]"):
            configurator.with_point(task, camera.name, pixel, latent)


@pytest.mark.parametrize(
    ("camera", "pixel", "complaint"),
    [
        ("camera_behind", (1, 1), "goal_point is in camera 'camera_behind', expected one of"),
        ("camera_side", (64, 1), r"goal_point is at \(64, 1\), outside the picture"),
        ("camera_side", (float("nan"), 1), "outside the picture"),
    ],
)
def test_a_point_that_is_none_is_refused(configurator, bundle, camera, pixel, complaint):
    latent = np.zeros(bundle.latent_size, np.float32)
    with pytest.raises(InvalidTask, match=complaint):
        configurator.with_point(load_task("reach"), camera, pixel, latent)


def test_a_limit_holds_for_policy_and_plans(bundle, contract):
    from jepa_robot.modules.agent import InProcessAgent
    from jepa_robot.modules.perception import Observation

    agent = InProcessAgent(contract, bundle)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in contract.cameras]
    seen = Observation(1, images, np.array(contract.home), np.zeros(7))
    for mode in (1, 2):
        free, bound = (
            load_task(
                f"name: it\nmode: {mode}\nweights: {{goal_position: 1.0}}\n"
                f"limits: {{action: {limit}}}\ngoal: {{position: [0.6, 0.2, 0.4]}}"
            )
            for limit in (1.0, 0.02)
        )
        agent.begin(free)
        assert np.abs(agent.act(seen)).max() > 0.02
        agent.begin(bound)
        assert np.abs(agent.act(seen)).max() <= np.float32(0.02)


def test_with_two_levels_the_lower_one_is_asked_for_another_place_now_and_then(
    contract, tmp_path, monkeypatch
):
    from jepa_robot.modules.agent import InProcessAgent
    from jepa_robot.modules.perception import Observation

    bundle = Bundle(tiny_bundle.build(tmp_path / "tiny", contract, has_upper=True))
    agent, goal = InProcessAgent(contract, bundle), [0.55, 0.1, 0.3]
    images = [np.zeros((c.height, c.width, 3), np.uint8) for c in contract.cameras]
    seen = Observation(0, images, np.array(contract.home), np.zeros(len(contract.joints)))
    asked, configure = [], agent.configure

    def note(task):
        asked.append(task.goal_position)
        configure(task)

    monkeypatch.setattr(agent, "configure", note)
    task = load_task("name: far\nmode: 1\nlevels: 2")
    for levels, times in ((2, 4), (1, 1)):
        asked.clear()
        agent.begin(
            agent.configurator.with_position(dataclasses.replace(task, levels=levels), goal)
        )
        for _ in range(9):  # a place every 4 steps, from the first on
            agent.act(seen)
        assert len(asked) == times and asked[0] == tuple(goal)
    agent.begin(agent.configurator.with_position(task, goal))
    asked.clear()
    agent.act(seen)
    # What is asked for comes, from anywhere: so the goal is.
    assert np.linalg.norm(np.array(asked[0]) - goal) < 0.05 and asked[0] != tuple(goal)
