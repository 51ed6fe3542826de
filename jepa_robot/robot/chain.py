"""The arm as a chain of joints in plain numbers: kinematics that any array library can follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pinocchio

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics


@dataclass(frozen=True)
class Chain:
    """A point from a joint's frame to that of the joint before it, by Rodrigues' formula.

    ``t + A p + sin(q) B p + (1 - cos(q)) C p + q d``, for joints from the base outwards, where the
    first one's frame before is ``base_frame``.

    ``turns`` ``[J, 3, 9]``: A, B, C, transposed and side by side. ``shifts`` ``[J, 2, 3]`` (m): t,
    and d of a sliding joint. ``tip`` ``[3]`` (m): the end effector in the last joint's frame.
    ``order`` ``[J]``: of each joint of the chain, which of the contract's it is.
    """

    turns: np.ndarray
    shifts: np.ndarray
    tip: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, contract: RobotContract, kinematics: Kinematics) -> Chain:
        """The chain from ``base_frame`` to ``ee_frame``."""
        model, data = kinematics.model, kinematics.model.createData()
        frame = model.frames[model.getFrameId(contract.ee_frame)]
        pinocchio.forwardKinematics(model, data, np.ones(model.nq))
        turns, shifts, order, joint = [], [], [], frame.parentJoint
        while joint:
            order.append(contract.joint_names.index(model.names[joint]))
            placement = model.jointPlacements[joint]
            moved = placement.actInv(data.liMi[joint])
            if not model.parents[joint]:
                placement = kinematics.base_placement.inverse() * placement
            axis, slide = pinocchio.log3(moved.rotation), moved.translation
            cross = pinocchio.skew(axis / max(np.linalg.norm(axis), 1e-9))
            parts = [placement.rotation @ part for part in (np.eye(3), cross, cross @ cross)]
            turns.append(np.concatenate([part.T for part in parts], axis=1))
            shifts.append(np.stack([placement.translation, placement.rotation @ slide]))
            joint = model.parents[joint]
        return cls(
            np.array(turns[::-1]),
            np.array(shifts[::-1]),
            frame.placement.translation.copy(),
            np.array(order[::-1]),
        )
