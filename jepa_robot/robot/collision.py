"""How far an arm's links are from each other and from the contract's obstacles, by Pinocchio/coal.

Meshes count as their convex hulls, which hold them: a distance is never overestimated.
"""

from __future__ import annotations

import os
from pathlib import Path

import coal
import numpy as np
import pinocchio

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.kinematics import Kinematics


class Clearance:
    """Distances of all pairs that the contract wants kept apart.

    Pairs are links that are not neighbours, and links with obstacles. Links that touch at home (as
    hulls of next neighbours do) or that ``ignored_pairs`` names are no pair; the base, which does
    not move, is none with obstacles.

    Args:
        contract: gives obstacles, margin and home.
        kinematics: of the same contract.

    Raises:
        InvalidContract: an obstacle that the arm touches at home, or a link that is not there.
    """

    def __init__(self, contract: RobotContract, kinematics: Kinematics) -> None:
        self._contract, self._kinematics = contract, kinematics
        full = pinocchio.buildGeomFromUrdf(
            kinematics.full_model,
            str(contract.urdf_path),
            pinocchio.GeometryType.COLLISION,
            package_dirs=_package_directories(contract.urdf_path),
        )
        _, self._geometry = pinocchio.buildReducedModel(
            kinematics.full_model, full, *kinematics.locked
        )
        for shape in self._geometry.geometryObjects:
            _make_convex(shape)
        self._model = kinematics.model
        self._links = [self._link(shape) for shape in self._geometry.geometryObjects]
        self._check_names()
        self._add_link_pairs()
        first_obstacle = len(self._geometry.collisionPairs)
        self._add_obstacle_pairs()
        self._drop_touching(first_obstacle)
        self.pair_reach, self.hand_reach = self._reaches()
        self._moves = self._moved_by()

    @property
    def size(self) -> int:
        """P, the number of pairs."""
        return len(self.names)

    def distances(self, positions: np.ndarray) -> np.ndarray:
        """``[P]`` (m) at joint positions ``[J]`` (rad); below zero where bodies overlap."""
        self._place(positions)
        pinocchio.computeDistances(self._geometry, self._geometry_data)
        return np.array([result.min_distance for result in self._geometry_data.distanceResults])

    def distances_of(self, pairs: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """``[K]`` (m) of some ``pairs`` ``[K]`` at joint positions ``[J]`` (rad)."""
        self._place(positions)
        geometry, data = self._geometry, self._geometry_data
        return np.array(
            [
                pinocchio.computeDistance(geometry, data, pair).min_distance
                for pair in pairs.tolist()
            ]
        )

    def gradient(self, positions: np.ndarray, pair: int) -> np.ndarray:
        """``[J]`` (m/rad): how fast a pair's distance grows, where it was last asked for."""
        result = self._geometry_data.distanceResults[int(pair)]
        a, b, c = result.normal.ravel().tolist()
        wrenches = []  # of a unit force along the normal at either body's nearest point
        for point in (result.getNearestPoint1(), result.getNearestPoint2()):
            x, y, z = point.ravel().tolist()
            wrenches.append((a, b, c, y * c - z * b, z * a - x * c, x * b - y * a))
        rows = (np.array(wrenches) @ self._kinematics.place(positions).J) * self._moves[pair]
        return self._kinematics.from_tree_order(rows[1] - rows[0])

    def shapes_of(self, joint: int) -> list[pinocchio.GeometryObject]:
        """What a joint of Pinocchio's model moves; of 0, what stands, but for obstacles."""
        shapes = list(self._geometry.geometryObjects)[: self._first_box]
        return [shape for shape in shapes if shape.parentJoint == joint]

    def keeps_apart(self, joint: int, other: int) -> bool:
        """Whether all that one joint moves is kept apart from all that another moves."""
        joints = [shape.parentJoint for shape in self._geometry.geometryObjects]
        mine, others = (
            [i for i in range(self._first_box) if joints[i] == j] for j in (joint, other)
        )
        pairs = {frozenset((p.first, p.second)) for p in self._geometry.collisionPairs}
        return all(frozenset((one, two)) in pairs for one in mine for two in others)

    def is_obstacle(self, pair: int) -> bool:
        """Whether a pair is a link and an obstacle, not two links."""
        return pair >= self._first_obstacle

    def _place(self, positions: np.ndarray) -> None:
        data = self._kinematics.place(positions)
        pinocchio.updateGeometryPlacements(self._model, data, self._geometry, self._geometry_data)

    def _link(self, shape: pinocchio.GeometryObject) -> str:
        return self._model.frames[shape.parentFrame].name

    def _check_names(self) -> None:
        for index, pair in enumerate(self._contract.safety.ignored_pairs):
            for name in pair:
                if name not in self._links:
                    raise self._contract.invalid(
                        f"safety.ignored_pairs[{index}]",
                        f"safety.ignored_pairs names {name!r}, "
                        f"expected one of {', '.join(dict.fromkeys(self._links))}",
                    )

    def _add_link_pairs(self) -> None:
        shapes = self._geometry.geometryObjects
        ignored = {frozenset(pair) for pair in self._contract.safety.ignored_pairs}
        for one in range(len(shapes)):
            for other in range(one + 1, len(shapes)):
                joints = shapes[one].parentJoint, shapes[other].parentJoint
                is_neighbour = (
                    joints[0] == joints[1]
                    or self._model.parents[joints[0]] == joints[1]
                    or self._model.parents[joints[1]] == joints[0]
                )
                names = frozenset((self._links[one], self._links[other]))
                if not is_neighbour and names not in ignored:
                    self._geometry.addCollisionPair(pinocchio.CollisionPair(one, other))

    def _add_obstacle_pairs(self) -> None:
        base, self._first_box = self._kinematics.base_placement, len(self._links)
        moving = [i for i, s in enumerate(self._geometry.geometryObjects) if s.parentJoint > 0]
        for obstacle in self._contract.safety.obstacles:
            lower, upper = np.array(obstacle.lower), np.array(obstacle.upper)
            placement = base * pinocchio.SE3(np.eye(3), (lower + upper) / 2)
            box = pinocchio.GeometryObject(
                obstacle.name, 0, 0, placement, coal.Box(*(upper - lower))
            )
            index = self._geometry.addGeometryObject(box)
            self._links.append(obstacle.name)
            for link in moving:
                self._geometry.addCollisionPair(pinocchio.CollisionPair(link, index))

    def _drop_touching(self, first_obstacle: int) -> None:
        self._geometry_data = self._geometry.createData()
        home = self.distances(np.array(self._contract.home))
        margin = self._contract.safety.margin
        pairs = list(self._geometry.collisionPairs)
        for index, pair in enumerate(pairs):
            if home[index] >= margin:
                continue
            names = self._links[pair.first], self._links[pair.second]
            if index >= first_obstacle:
                number = [o.name for o in self._contract.safety.obstacles].index(names[1])
                raise self._contract.invalid(
                    f"safety.obstacles[{number}]",
                    f"safety.obstacles[{number}] {names[1]!r} is {home[index]:.3f} m from "
                    f"{names[0]} at home, expected at least the margin, {margin:g} m",
                )
            self._geometry.removeCollisionPair(pair)
            first_obstacle -= 1
        self._first_obstacle = first_obstacle
        self._geometry_data = self._geometry.createData()
        self.names = tuple(
            f"{self._links[pair.first]} and {self._links[pair.second]}"
            for pair in self._geometry.collisionPairs
        )

    def _reaches(self) -> tuple[np.ndarray, np.ndarray]:
        """How far from each joint's axis the bodies of a pair can be, and the end effector.

        Returns:
            ``[P, J]`` (m): a pair's distance changes at most by this times the joint's motion
            (0 for joints that move both bodies or none), and ``[J]`` the same for the hand.
        """
        joints = self._model.njoints
        offsets = [np.linalg.norm(p.translation) for p in self._model.jointPlacements]
        rows = []
        for pair in self._geometry.collisionPairs:
            shapes = [self._geometry.geometryObjects[i] for i in (pair.first, pair.second)]
            chains = [self._chain(shape.parentJoint) for shape in shapes]
            row = np.zeros(joints)
            for shape, chain, other in zip(shapes, chains, chains[::-1], strict=True):
                length = _extent(shape)
                for joint in chain:
                    if joint not in other:
                        row[joint] = length
                    length += offsets[joint]
            rows.append(self._kinematics.from_tree_order(row[1:]))
        hand = np.zeros(joints)
        frame = self._model.frames[self._model.getFrameId(self._contract.ee_frame)]
        length = np.linalg.norm(frame.placement.translation)
        for joint in self._chain(frame.parentJoint):
            hand[joint] = length
            length += offsets[joint]
        shape = (len(rows), len(self._contract.joints))
        return np.array(rows).reshape(shape), self._kinematics.from_tree_order(hand[1:])

    def _moved_by(self) -> np.ndarray:
        """``[P, 2, J]``, in the order of the tree: 1 where a joint moves a pair's body."""
        moves = np.zeros((self.size, 2, self._model.njoints - 1))
        for row, pair in zip(moves, self._geometry.collisionPairs, strict=True):
            for body, index in zip(row, (pair.first, pair.second), strict=True):
                chain = self._chain(self._geometry.geometryObjects[index].parentJoint)
                body[[joint - 1 for joint in chain]] = 1
        return moves

    def _chain(self, joint: int) -> list[int]:
        """A joint and those before it, down to the base."""
        chain = []
        while joint > 0:
            chain.append(joint)
            joint = self._model.parents[joint]
        return chain


class DistanceBounds:
    """Distances at a place that moves little from one question to the next.

    A pair is only measured where it may be near; of the others a lower bound is given, from how far
    bodies can have moved since they were measured.

    Args:
        clearance: measures.
        exact_below: m; distances below this are exact.
    """

    def __init__(self, clearance: Clearance, exact_below: float) -> None:
        self._clearance, self._exact_below = clearance, exact_below
        self._reach = clearance.pair_reach
        self.forget()

    def forget(self) -> None:
        """What was measured before does not count: the same questions get the same answers."""
        self._measured_at = np.zeros_like(self._reach)
        self._measured = np.full(self._clearance.size, -np.inf)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """``[P]`` (m) at joint positions ``[J]`` (rad)."""
        moved = np.einsum("pj,pj->p", self._reach, np.abs(positions - self._measured_at))
        bounds = self._measured - moved
        pairs = np.flatnonzero(bounds < self._exact_below)
        if len(pairs):
            bounds[pairs] = self._clearance.distances_of(pairs, positions)
            self._measured[pairs], self._measured_at[pairs] = bounds[pairs], positions
        return bounds


def _extent(shape: pinocchio.GeometryObject) -> float:
    """The greatest distance (m) of a body's points from its joint's origin."""
    shape.geometry.computeLocalAABB()
    centre = shape.placement.act(shape.geometry.aabb_center)
    return float(np.linalg.norm(centre) + shape.geometry.aabb_radius)


def _make_convex(shape: pinocchio.GeometryObject) -> None:
    if isinstance(shape.geometry, coal.BVHModelBase):
        shape.geometry.buildConvexHull(True, "Qt")
        shape.geometry = shape.geometry.convex


def _package_directories(urdf: Path) -> list[str]:
    """Where ``package://`` in a URDF may lead: beside it, and where ROS packages are."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return [*(str(p) for p in urdf.parents[:3]), *(str(Path(p) / "share") for p in prefixes)]
