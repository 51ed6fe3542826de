"""What the safety node asks of an adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.profile import JointMotion, Profile


@dataclass(frozen=True)
class JointCommand:
    """What a controller is told: positions ``[J]`` (rad) or velocities ``[J]`` (rad/s)."""

    positions: np.ndarray | None = None
    velocities: np.ndarray | None = None


class Adapter:
    """Between a safe motion and a controller's messages."""

    message_type: type
    heeds_measured = False  # whether a command depends on where the joints are measured

    def __init__(self, contract: RobotContract, kinematics: Kinematics | None = None) -> None:
        self.contract, self._kinematics = contract, kinematics

    @property
    def kinematics(self) -> Kinematics:
        if self._kinematics is None:
            self._kinematics = Kinematics(self.contract)
        return self._kinematics

    def message(
        self, motion: JointMotion, stop: Profile, measured: np.ndarray | None, stamp: int
    ) -> Any:
        """A command.

        Args:
            motion: to be reached one safety period from now.
            stop: the checked way from there to rest.
            measured: joint positions ``[J]`` (rad), None where they are stale.
            stamp: of now, ns.
        """
        raise NotImplementedError

    def read(self, message: Any) -> JointCommand:
        """What a simulated controller of this kind is told.

        Raises:
            InvalidMessage: other joints, another size, or not finite.
        """
        raise ValueError(
            f"{self.contract.source}: controller.type is {self.contract.controller.type!r}, "
            "which the simulator does not play: expected forward_position, forward_velocity or "
            "joint_trajectory"
        )
