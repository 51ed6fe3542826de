"""Motion to record: it covers the workspace, never too fast, and repeats under a seed."""

import numpy as np
import pytest

from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.wandering import Wanderer
from jepa_robot_sim.in_process import InProcessRobot


@pytest.mark.parametrize("robot", ["panda", "panda_table", "hobby5"])
def test_it_covers_the_workspace(robot):
    contract = load_contract(robot)
    wanderer, arm = Wanderer(contract, 0), InProcessRobot(contract, is_quick=True)
    kinematics = Kinematics(contract)
    seen, hands, actions = arm.reset(np.array(contract.home)), [], []
    for _ in range(600):
        actions.append(wanderer(seen.positions)[0])
        seen = arm.step(actions[-1])
        hands.append(kinematics.position(seen.positions))
    arm.close()
    lower, upper = (np.array(corner) for corner in contract.workspace)
    moved = [
        "xyz".index(channel.name[1])
        for channel in contract.actions.channels
        if channel.name in ("vx", "vy", "vz")
    ]
    covered = np.ptp(hands, axis=0) / (upper - lower)
    assert (covered[moved] > 0.5).all()
    assert np.abs(actions).max() <= 1 and np.abs(np.mean(actions, axis=0)).max() < 0.2


def test_a_limit_and_a_seed():
    contract = load_contract("panda")
    one, same, other = (Wanderer(contract, seed, 0.3) for seed in (0, 0, 1))
    home = np.array(contract.home)
    first = np.array([one(home) for _ in range(50)])
    assert np.abs(first).max() <= np.float32(0.3)
    assert np.array_equal(first, [same(home) for _ in range(50)])
    assert not np.array_equal(first, [other(home) for _ in range(50)])
    with pytest.raises(ValueError, match="speed is 2, expected above 0, to 1"):
        Wanderer(contract, 0, 2.0)
