"""Forward kinematics and Jacobians of the contract's arm, by Pinocchio."""

from __future__ import annotations

import numpy as np
import pinocchio

from jepa_robot.robot.contract import InvalidContract, RobotContract


class Kinematics:
    """The arm of a contract: its URDF reduced to the contract's joints, in the contract's order.

    Raises:
        InvalidContract: if the URDF lacks a joint or frame, or a limit is wider than the URDF's.
    """

    def __init__(self, contract: RobotContract) -> None:
        full = pinocchio.buildModelFromUrdf(str(contract.urdf_path))
        _check_joints(contract, full)
        positions = pinocchio.neutral(full)
        for name, position in contract.fixed_joints:
            if not full.existJointName(name):
                raise contract.invalid(
                    f"fixed_joints.{name}",
                    f"fixed_joints names {name!r}, expected a joint of the URDF",
                )
            positions[full.joints[full.getJointId(name)].idx_q] = position
        keep = set(contract.joint_names)
        lock = [i for i in range(1, full.njoints) if full.names[i] not in keep]
        self.full_model, self.locked = full, (lock, positions)
        self.model = self._model = pinocchio.buildReducedModel(full, lock, positions)
        self._data = self._model.createData()
        for field in ("base_frame", "ee_frame"):
            if not self._model.existFrame(getattr(contract, field)):
                raise InvalidContract(
                    f"{contract.source}: {field} is {getattr(contract, field)!r}, "
                    "expected a link of the URDF"
                )
        self._base = self._model.getFrameId(contract.base_frame)
        self._ee = self._model.getFrameId(contract.ee_frame)
        # Pinocchio orders joints by the tree; the contract's order is ours everywhere else.
        tree = [self._model.names[i] for i in range(1, self._model.njoints)]
        self._to_tree = np.array([contract.joint_names.index(name) for name in tree])
        self._from_tree = np.argsort(self._to_tree)

    def in_tree_order(self, positions: np.ndarray) -> np.ndarray:
        """``[J]`` in the order of Pinocchio's model."""
        return np.asarray(positions, float)[self._to_tree]

    def from_tree_order(self, values: np.ndarray) -> np.ndarray:
        """``[J]`` in the contract's order."""
        return np.asarray(values)[self._from_tree]

    def base_placement(self) -> pinocchio.SE3:
        """Where the base frame is in Pinocchio's world."""
        pinocchio.framesForwardKinematics(self._model, self._data, pinocchio.neutral(self._model))
        return self._data.oMf[self._base].copy()

    def pose(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """End-effector position ``[3]`` (m) and rotation ``[3, 3]`` in the base frame."""
        pinocchio.forwardKinematics(self._model, self._data, self.in_tree_order(positions))
        base = pinocchio.updateFramePlacement(self._model, self._data, self._base)
        pose = base.actInv(pinocchio.updateFramePlacement(self._model, self._data, self._ee))
        return pose.translation.copy(), pose.rotation.copy()

    def position(self, positions: np.ndarray) -> np.ndarray:
        """End-effector positions ``[..., 3]`` (m) of joint positions ``[..., J]`` (rad)."""
        positions = np.asarray(positions)
        flat = positions.reshape(-1, positions.shape[-1])
        points = np.array([self.pose(row)[0] for row in flat])
        return points.reshape(*positions.shape[:-1], 3)

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """``[6, J]``: linear over angular, at the end effector, axes of the base frame."""
        tree = pinocchio.computeFrameJacobian(
            self._model,
            self._data,
            self.in_tree_order(positions),
            self._ee,
            pinocchio.LOCAL_WORLD_ALIGNED,
        )
        base = self._data.oMf[self._base].rotation.T
        rows = tree[:, self._from_tree]
        return np.concatenate([base @ rows[:3], base @ rows[3:]])


def _check_joints(contract: RobotContract, model: pinocchio.Model) -> None:
    for joint in contract.joints:
        if not model.existJointName(joint.name):
            known = ", ".join(model.names[1:])
            raise InvalidContract(
                f"{contract.source}: joints names {joint.name!r}, expected one of {known}"
            )
        index = model.joints[model.getJointId(joint.name)].idx_q
        lower, upper = model.lowerPositionLimit[index], model.upperPositionLimit[index]
        velocity = model.velocityLimit[index]
        wider = joint.lower < lower - 1e-4 or joint.upper > upper + 1e-4
        if wider or joint.velocity > velocity + 1e-4:
            raise InvalidContract(
                f"{contract.source}: {joint.name} has limits {joint.lower:g} to {joint.upper:g} "
                f"at {joint.velocity:g} rad/s, expected them within the URDF's "
                f"{lower:g} to {upper:g} at {velocity:g} rad/s"
            )
