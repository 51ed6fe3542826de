"""What an arm feels: its joints, and by its kinematics where its hand is and how fast it moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from jepa_robot.robot.chain import Chain
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics

if TYPE_CHECKING:
    from jepa_robot.learning.networks import AgentShape

PLACE = 3  # numbers of a place
LOOK_AHEAD = 0.01  # s, of the difference that is the hand's velocity
HAND = 2 * PLACE  # numbers that are felt of a hand


class Body(nn.Module):
    """Proprioception ``[N, P]`` of what is measured ``[N, M]``.

    That is joint positions and velocities (rad, rad/s), and the opening of a gripper that actions
    move (m). Those; and of an arm whose kinematics are known, the hand's place ``[3]`` (m, base
    frame) and velocity ``[3]`` (m/s). Contact is about the hand, and a network would take long to
    learn to the millimetre where seven joints put it.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.joints = shape.joints
        if self.joints:
            # The hand from a joint's frame to the next one inwards, by Rodrigues' formula:
            # t + A p + sin(q) B p + (1 - cos(q)) C p + q d, where d is a sliding joint's.
            self.register_buffer("turns", torch.zeros(self.joints, PLACE, 3 * PLACE))  # A, B, C
            self.register_buffer("shifts", torch.zeros(self.joints, 2, PLACE))  # t, d
            self.register_buffer("tip", torch.zeros(PLACE))

    def forward(self, felt: Tensor) -> Tensor:
        if not self.joints:
            return felt
        now, velocities = felt[:, : 2 * self.joints].chunk(2, dim=1)
        here, there = self.hand(torch.cat([now, now + LOOK_AHEAD * velocities])).chunk(2)
        return torch.cat([felt, here, (there - here) / LOOK_AHEAD], dim=1)

    def hand(self, positions: Tensor) -> Tensor:
        """Where joint positions ``[N, J]`` (rad) put the hand: ``[N, 3]`` (m), base frame."""
        place = self.tip[None]
        for joint in reversed(range(self.joints)):
            angle = positions[:, joint : joint + 1]
            kept, turned, lifted = (place @ self.turns[joint]).split(PLACE, dim=1)
            place = kept + angle.sin() * turned + (1 - angle.cos()) * lifted
            place = place + self.shifts[joint, 0] + angle * self.shifts[joint, 1]
        return place

    def know(self, contract: RobotContract) -> None:
        """Take an arm's kinematics.

        Raises:
            ValueError: the contract does not name the joints from base to hand.
        """
        chain = Chain.of(contract, Kinematics(contract))
        if (np.diff(chain.order) < 0).any():
            names = [contract.joint_names[joint] for joint in chain.order]
            raise ValueError(
                f"{contract.source}: joints are {list(contract.joint_names)}, expected them from "
                f"base to hand, for a bundle to be trained: {names}"
            )
        self.tip.copy_(torch.from_numpy(chain.tip))
        self.turns[chain.order] = torch.from_numpy(chain.turns).float()
        self.shifts[chain.order] = torch.from_numpy(chain.shifts).float()


def hand_place(proprioception: Tensor) -> Tensor:
    """Where the hand is ``[N, 3]`` (m), of what a `Body` with known kinematics felt ``[N, P]``."""
    begin = proprioception.shape[1] - HAND  # an adjoint knows no slice from the end
    return proprioception[:, begin : begin + PLACE]
