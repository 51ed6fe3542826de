"""Proprioception: the hand by forward kinematics, as the arm's own library has it."""

import dataclasses

import numpy as np
import pytest
import torch

from jepa_robot.learning.body import Body
from jepa_robot.learning.networks import AgentShape
from jepa_robot.robot.contract import load_contract, measured_size
from jepa_robot.robot.kinematics import Kinematics


@pytest.mark.parametrize("robot", ["panda", "iiwa", "xarm6", "hobby5", "panda_table"])
def test_place_and_velocity_of_the_hand(robot):
    contract = load_contract(robot)
    kinematics, joints = Kinematics(contract), len(contract.joints)
    measured = measured_size(contract.interface())
    body = Body(AgentShape(2, (64, 64), measured + 6, 3, 16, joints=joints))
    body.know(contract)
    rng = np.random.default_rng(0)
    positions = rng.uniform(contract.limits("lower"), contract.limits("upper"), (50, joints))
    velocities = rng.normal(0, 0.5, (50, joints))
    gripper = rng.uniform(0, 0.04, (50, int(contract.moves_gripper)))
    known = np.concatenate([positions, velocities, gripper], axis=1)
    felt = body(torch.from_numpy(known).float()).numpy()
    np.testing.assert_allclose(felt[:, :measured], known, atol=1e-6)
    places = kinematics.position(positions)
    np.testing.assert_allclose(felt[:, measured : measured + 3], places, atol=1e-5)
    for one, moving, feels in zip(positions, velocities, felt, strict=True):
        expected = kinematics.jacobian(one)[:3] @ moving
        np.testing.assert_allclose(feels[-3:], expected, atol=0.03)  # over a step of 10 ms


def test_joints_that_are_not_named_from_base_to_hand_are_refused():
    contract = load_contract("panda")
    turned = dataclasses.replace(contract, joints=contract.joints[::-1])
    body = Body(AgentShape(2, (64, 64), 20, 3, 16, joints=len(turned.joints)))
    with pytest.raises(ValueError, match="expected them from base to hand"):
        body.know(turned)
