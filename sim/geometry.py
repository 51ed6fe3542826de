"""Where a robot's links are and what they touch, by PyBullet alone: for judges."""

from __future__ import annotations

import itertools

import numpy as np
import pybullet

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim import urdf
from jepa_robot_sim.quiet import quiet


class Geometry:
    """A contract's arm and obstacles as bodies that are placed, not moved."""

    def __init__(self, contract: RobotContract) -> None:
        with quiet():
            self._client = pybullet.connect(pybullet.DIRECT)
        self._body = urdf.load(contract, self._client)
        joints = range(self._call("getNumJoints", self._body))
        about = [self._call("getJointInfo", self._body, joint) for joint in joints]
        index = urdf.link_index(self._body, self._client)
        self._links = {-1: contract.base_frame, **{j: i[12].decode() for j, i in enumerate(about)}}
        self._parents = {joint: info[16] for joint, info in enumerate(about)}
        self._joints = [index[name] for name in contract.joint_names]
        self._ee = index[contract.ee_frame]
        for name, position in contract.fixed_joints:
            self._call("resetJointState", self._body, index[name], position)
        self._obstacles = {o.name: self._box(o.lower, o.upper) for o in contract.safety.obstacles}
        self.place(np.array(contract.home))
        touching = {name for name, _ in self.contacts(self._pairs())}
        self._watched = [pair for pair in self._pairs() if self._name(pair) not in touching]

    def place(self, positions: np.ndarray) -> None:
        """Put the joints at positions ``[J]`` (rad)."""
        for joint, position in zip(self._joints, positions, strict=True):
            self._call("resetJointState", self._body, joint, float(position))

    def hand(self) -> np.ndarray:
        """The end effector's position ``[3]`` (m) in the base frame."""
        state = self._call("getLinkState", self._body, self._ee, computeForwardKinematics=1)
        return np.array(state[4])

    def contacts(self, pairs: list | None = None) -> list[tuple[str, float]]:
        """Bodies that overlap, other than at home, and by how much (m, negative)."""
        self._call("performCollisionDetection")
        found = []
        for pair in self._watched if pairs is None else pairs:
            link, other, obstacle = pair
            where = {"linkIndexA": link}
            where |= {"linkIndexB": other} if obstacle is None else {}
            body = self._body if obstacle is None else self._obstacles[obstacle]
            points = self._call("getClosestPoints", self._body, body, 0.0, **where)
            depth = min((point[8] for point in points), default=0.0)
            if depth < 0:
                found.append((self._name(pair), depth))
        return found

    def close(self) -> None:
        if pybullet.isConnected(self._client):
            pybullet.disconnect(self._client)

    def _pairs(self) -> list[tuple[int, int, str | None]]:
        """Links with obstacles, and links that are not neighbours across one joint."""
        moving = [joint for joint in self._links if self._is_moving(joint)]
        pairs = [(link, -1, name) for name in self._obstacles for link in moving]
        for one, other in itertools.combinations(self._links, 2):
            if self._drive(one) != self._drive(other) and not self._are_neighbours(one, other):
                pairs.append((one, other, None))
        return pairs

    def _drive(self, link: int) -> int:
        """The driven joint that moves a link; -1 for what is fixed to the base."""
        while link >= 0 and link not in self._joints:
            link = self._parents[link]
        return link

    def _is_moving(self, link: int) -> bool:
        return self._drive(link) >= 0

    def _are_neighbours(self, one: int, other: int) -> bool:
        drives = {self._drive(one), self._drive(other)}
        return any(self._drive(self._parents[drive]) in drives for drive in drives if drive >= 0)

    def _name(self, pair: tuple[int, int, str | None]) -> str:
        return f"{self._links[pair[0]]} and {pair[2] or self._links[pair[1]]}"

    def _call(self, name: str, *args, **kwargs):
        return getattr(pybullet, name)(*args, physicsClientId=self._client, **kwargs)

    def _box(self, lower: tuple, upper: tuple) -> int:
        half, centre = np.subtract(upper, lower) / 2, np.add(upper, lower) / 2
        shape = self._call("createCollisionShape", pybullet.GEOM_BOX, halfExtents=half.tolist())
        return self._call(
            "createMultiBody", baseCollisionShapeIndex=shape, basePosition=centre.tolist()
        )
