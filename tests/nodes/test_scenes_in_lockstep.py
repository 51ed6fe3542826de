"""Scenes with objects in lock-step: ROS and in-process runs are the same."""

import pytest

from jepa_robot.cli.evaluate import run_evaluation
from jepa_robot.robot.contract import load_contract
from tests.tiny_bundle import build


@pytest.mark.parametrize(
    ("robot", "task", "mode", "goal"),
    [
        ("panda_push", "push", "oracle", "image"),
        ("hobby5", "pick_and_place", "oracle", "image"),
        ("xarm6", "push_around", "2", "position"),
    ],
)
def test_ros_and_in_process_move_an_object_the_same_to_the_bit(
    domain, robot, task, mode, goal, tmp_path
):
    bundle = build(tmp_path / "tiny", load_contract(robot))

    def evaluate(through_ros):
        return run_evaluation(
            *(robot, str(bundle), task, mode, goal, 2, 3, through_ros, "single"),
            progress=lambda done, total: None,
        )

    ros, here = evaluate(True), evaluate(False)
    for what in ("distances", "actions_sha256", "any_time_success_rate"):
        assert ros[what] == here[what], what
    assert (here["success_rate"] == 1) == (mode == "oracle")
