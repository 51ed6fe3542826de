"""Forward kinematics and Jacobians of the contract's arm, by Pinocchio."""

from __future__ import annotations

import numpy as np
import pinocchio

from jepa_robot.robot.contract import Joint, RobotContract
from jepa_robot.robot.geometry import in_radians
from jepa_robot.robot.urdf import (
    DRIVEN_TYPES,
    InvalidUrdf,
    Urdf,
    read_urdf,
    with_turns_as_angles,
)

ROUNDING = 1e-4  # rad, rad/s: limits are written with few digits


class Kinematics:
    """The arm of a contract: its URDF reduced to the contract's joints, in the contract's order.

    Raises:
        InvalidContract: names file, line and what is wrong: a joint or frame that the URDF lacks
            or that is of no use, a limit wider than the URDF's, a joint that nobody answers for.
    """

    def __init__(self, contract: RobotContract) -> None:
        full = _read_model(contract)
        positions = pinocchio.neutral(full)
        for name, position in contract.fixed_joints:
            positions[full.joints[full.getJointId(name)].idx_q] = position
        keep = set(contract.joint_names)
        lock = [i for i in range(1, full.njoints) if full.names[i] not in keep]
        self.full_model, self.locked = full, (lock, positions)
        self.model = self._model = pinocchio.buildReducedModel(full, lock, positions)
        self._data, self._placed = self._model.createData(), b""
        self._ee = self._model.getFrameId(contract.ee_frame)
        # Pinocchio orders joints by the tree; the contract's order is ours everywhere else.
        tree = [self._model.names[i] for i in range(1, self._model.njoints)]
        self._to_tree = np.array([contract.joint_names.index(name) for name in tree])
        self._from_tree = np.argsort(self._to_tree)
        # Nothing that is driven comes before the base.
        pinocchio.framesForwardKinematics(self._model, self._data, pinocchio.neutral(self._model))
        self.base_placement = self._data.oMf[self._model.getFrameId(contract.base_frame)].copy()
        self._to_base = self.base_placement.rotation.T.copy()

    def from_tree_order(self, values: np.ndarray) -> np.ndarray:
        """``[J]`` in the contract's order, from the order of Pinocchio's model."""
        return np.asarray(values)[self._from_tree]

    def place(self, positions: np.ndarray) -> pinocchio.Data:
        """Pinocchio's data with joint placements and Jacobians at joint positions ``[J]`` (rad).

        Free of cost at the positions that were asked for last.
        """
        positions = np.asarray(positions, float)
        key = positions.tobytes()
        if key != self._placed:
            pinocchio.computeJointJacobians(self._model, self._data, positions[self._to_tree])
            self._placed = key
        return self._data

    def pose(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """End-effector position ``[3]`` (m) and rotation ``[3, 3]`` in the base frame."""
        data = self.place(positions)
        frame = pinocchio.updateFramePlacement(self._model, data, self._ee)
        pose = self.base_placement.actInv(frame)
        return pose.translation.copy(), pose.rotation.copy()

    def position(self, positions: np.ndarray) -> np.ndarray:
        """End-effector positions ``[..., 3]`` (m) of joint positions ``[..., J]`` (rad)."""
        positions = np.asarray(positions)
        flat = positions.reshape(-1, positions.shape[-1])
        points = np.array([self.pose(row)[0] for row in flat])
        return points.reshape(*positions.shape[:-1], 3)

    def jacobian(self, positions: np.ndarray) -> np.ndarray:
        """``[6, J]``: linear over angular, at the end effector, axes of the base frame."""
        tree = pinocchio.getFrameJacobian(
            self._model, self.place(positions), self._ee, pinocchio.LOCAL_WORLD_ALIGNED
        )
        rows = tree[:, self._from_tree]
        return np.concatenate([self._to_base @ rows[:3], self._to_base @ rows[3:]])


def _read_model(contract: RobotContract) -> pinocchio.Model:
    """The URDF's whole arm, after everything that the contract says of it was checked."""
    path = contract.urdf_path
    text = path.read_bytes()
    try:
        urdf = read_urdf(text)
    except InvalidUrdf as error:
        raise contract.invalid(
            "urdf", f"urdf is {contract.urdf!r}, which {error} ({path})"
        ) from None
    for field in ("base_frame", "ee_frame"):
        if (frame := getattr(contract, field)) not in urdf.links:
            raise contract.invalid(field, f"{field} is {frame!r}, expected a link of the URDF")
    for index, joint in enumerate(contract.joints):
        _check_joint(contract, urdf, f"joints[{index}]", joint)
    _check_others(contract, urdf)
    try:
        return pinocchio.buildModelFromXML(with_turns_as_angles(text))
    except ValueError as error:
        raise contract.invalid(
            "urdf", f"urdf is {contract.urdf!r}, expected one that Pinocchio reads: {error}"
        ) from error


def _check_joint(contract: RobotContract, urdf: Urdf, where: str, joint: Joint) -> None:
    """A joint that is driven: there, of a kind that can be driven, with limits the URDF allows."""
    found = urdf.joints.get(joint.name)
    if found is None or not found.moves:
        movable = ", ".join(name for name, other in urdf.joints.items() if other.moves)
        raise contract.invalid(
            f"{where}.name",
            f"joints names {joint.name!r}, "
            + (f"expected one of {movable}" if found is None else "expected a joint that moves"),
        )
    if found.type not in DRIVEN_TYPES:
        raise contract.invalid(
            f"{where}.name",
            f"{where}.name is {joint.name!r}, of type {found.type} in the URDF, "
            f"expected one of {', '.join(DRIVEN_TYPES)}",
        )
    if found.mimic:
        raise contract.invalid(
            f"{where}.name",
            f"{where}.name is {joint.name!r}, which mimics {found.mimic} in the URDF and cannot be "
            "driven, expected it in fixed_joints",
        )
    for field, urdfs in (
        ("lower", found.lower),
        ("upper", found.upper),
        ("velocity", found.velocity),
    ):
        value, sign = getattr(joint, field), -1 if field == "lower" else 1
        if sign * value > sign * urdfs + ROUNDING:
            raise contract.invalid(
                f"{where}.{field}",
                f"{where}.{field} is {value:g}, expected at {'least' if sign < 0 else 'most'} "
                f"{urdfs:g}, the URDF's for {joint.name}{_is_it_degrees(value, urdfs)}",
            )


def _check_others(contract: RobotContract, urdf: Urdf) -> None:
    """The joints that are not driven: each that matters must be answered for."""
    fixed = {name for name, _ in contract.fixed_joints}
    for name in fixed - set(urdf.joints):
        raise contract.invalid(
            f"fixed_joints.{name}", f"fixed_joints names {name!r}, expected a joint of the URDF"
        )
    gripper = contract.gripper.joints if contract.gripper else ()
    driven, named = set(contract.joint_names), fixed | set(gripper)
    place = "fixed_joints" if "fixed_joints" in contract.lines else "urdf"
    for joint in urdf.between(contract.base_frame, contract.ee_frame):
        if joint.mimic in driven:
            raise contract.invalid(
                "ee_frame",
                f"{joint.name} mimics {joint.mimic} between base_frame and ee_frame, "
                "expected every joint between them to move by itself or to be fixed",
            )
        if joint.moves and joint.name not in driven | named:
            raise contract.invalid(
                "joints",
                f"joints lacks {joint.name!r}, which moves {contract.ee_frame} against "
                f"{contract.base_frame}: expected it in joints, or in fixed_joints if it stands",
            )
    mimics = [joint for joint in urdf.joints.values() if joint.mimic and joint.name not in named]
    if mimics:
        raise contract.invalid(
            place,
            f"{', '.join(f'{joint.name} (mimics {joint.mimic})' for joint in mimics)} of the URDF "
            "is neither in fixed_joints nor in gripper.joints, expected each there with its place",
        )
    moving = {joint.name for joint in urdf.between(contract.base_frame, contract.ee_frame)}
    for index, name in enumerate(contract.joint_names):
        if name not in moving:
            raise contract.invalid(
                f"joints[{index}].name",
                f"joints[{index}].name is {name!r}, which does not move {contract.ee_frame} "
                f"against {contract.base_frame}, expected a joint between them",
            )


def _is_it_degrees(value: float, limit: float) -> str:
    """A value that fits its limit as degrees was most likely meant so."""
    fits = abs(value) > 2 * abs(limit) >= 2 * abs(np.radians(value))
    return f" ({in_radians(value)})" if fits else ""
