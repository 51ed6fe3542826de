"""Every shipped arm in lock-step: whatever its controller, ROS and in-process runs are the same."""

import pytest

from jepa_robot.cli.evaluate import run_evaluation
from jepa_robot.robot.contract import load_contract
from tests.tiny_bundle import build


@pytest.mark.parametrize("robot", ["hobby5", "iiwa", "xarm6"])
def test_ros_and_in_process_move_an_arm_the_same_to_the_bit(domain, robot, tmp_path):
    bundle = build(tmp_path / "tiny", load_contract(robot))

    def evaluate(through_ros):
        return run_evaluation(
            *(robot, str(bundle), "reach", "random", "image", 1, 3, through_ros, "single"),
            progress=lambda done, total: None,
        )

    assert evaluate(True)["distances"] == evaluate(False)["distances"]
