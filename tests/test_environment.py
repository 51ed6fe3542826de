"""The scenes as Gymnasium environments."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402

from jepa_robot_sim.environment import IDS, environment_id  # noqa: E402


def make(name, **kwargs):
    return gymnasium.make(name, **kwargs).unwrapped


def test_every_arm_and_task_that_go_together_are_registered():
    for robot, task in (("panda", "reach"), ("panda_table", "pick_and_place"), ("iiwa", "push")):
        assert environment_id(robot, task) in IDS
    assert environment_id("panda_table", "pick_and_place") == "jepa_robot/PandaTablePickAndPlace-v0"
    assert environment_id("iiwa", "pick_and_place") not in IDS


@pytest.mark.parametrize("name", IDS)
def test_gymnasium_finds_nothing_wrong(name):
    environment = make(name, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Box (observation|.* space).*infinity.*")
        check_env(environment)
    environment.close()


def test_the_cameras_are_side_by_side_at_the_size_of_the_contract():
    environment = make("jepa_robot/PandaTablePush-v0", render_mode="rgb_array")
    environment.reset(seed=0)
    image, goal = environment.render(), environment.render_goal()
    assert image.shape == goal.shape == (64, 128, 3) and image.dtype == np.uint8
    assert not np.array_equal(image, goal)
    for side in (image[:, :64], image[:, 64:]):
        assert np.ptp(side.reshape(-1, 3).astype(int), axis=0).max() > 100
    environment.close()


def test_a_seed_repeats_an_episode_to_the_bit_and_another_does_not():
    def play(environment, seed):
        seen, _ = environment.reset(seed=seed)
        environment.action_space.seed(seed)
        rows = [np.concatenate([seen[key] for key in sorted(seen)])]
        for _ in range(20):
            seen, *_ = environment.step(environment.action_space.sample())
            rows.append(np.concatenate([seen[key] for key in sorted(seen)]))
        return np.array(rows)

    kwargs = {"randomisation": 1.0, "distractors": 2}
    environment = make("jepa_robot/PandaPush-v0", **kwargs)
    one, other, again = (play(environment, seed) for seed in (3, 4, 3))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    environment.close()
    # Whether frames are rendered makes no difference to what happens.
    rendered = make("jepa_robot/PandaPush-v0", render_mode="rgb_array", **kwargs)
    np.testing.assert_array_equal(play(rendered, 3), one)
    rendered.close()


def test_the_oracle_succeeds_and_the_episode_ends_by_truncation():
    environment = make("jepa_robot/PandaTablePush-v0")
    environment.reset(seed=1)
    steps, is_truncated = 0, False
    while not is_truncated:
        seen, reward, is_terminated, is_truncated, info = environment.step(environment.oracle())
        assert not is_terminated
        steps += 1
    assert steps == environment.task.steps
    assert info["is_success"] and info["distance"] < 0.05 and reward == 0
    np.testing.assert_allclose(
        info["distance"], np.linalg.norm(seen["achieved_goal"] - seen["desired_goal"])
    )
    environment.close()


def test_rewards_are_computed_for_many_goals_at_once():
    environment = make("jepa_robot/PandaReach-v0")
    achieved, desired = np.zeros((4, 3)), np.zeros((4, 3))
    desired[:, 0] = [0.0, 0.029, 0.031, 1.0]
    np.testing.assert_array_equal(environment.compute_reward(achieved, desired, {}), [0, 0, -1, -1])
    assert environment.compute_reward(achieved[0], desired[3], {}) == -1
    environment.close()


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"task": "juggle"}, "task is 'juggle', expected one of"),
        ({"robot": "iiwa", "task": "pick_and_place"}, "iiwa cannot do: it has no gripper"),
        ({"randomisation": 2.0}, "colours is 2.0, expected 0 to 1"),
        ({"randomisation": {"colour": 0.5}}, r"randomisation names \['colour'\], expected some of"),
        ({"distractors": -1}, "distractors is -1, expected 0 to 6"),
        ({"render_mode": "human"}, "render_mode is 'human', expected rgb_array"),
    ],
)
def test_what_does_not_fit_is_named(kwargs, says):
    from jepa_robot_sim.environment import ArmEnv

    with pytest.raises(ValueError, match=says):
        ArmEnv(**kwargs)


def test_an_action_that_is_no_number_is_refused():
    environment = make("jepa_robot/PandaReach-v0")
    environment.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(3,\) numbers"):
        environment.step(np.array([0.0, np.nan, 0.0]))
    with pytest.raises(ValueError, match=r"expected \(3,\) numbers"):
        environment.step(np.zeros(4))
    environment.close()


def test_nothing_else_needs_gymnasium():
    code = (
        "import sys; sys.modules['gymnasium'] = None; import jepa_robot_sim.world, "
        "jepa_robot_sim.collect, jepa_robot_sim.node, jepa_robot.evaluation"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
