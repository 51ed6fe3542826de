"""A contract's arm in PyBullet: joint commands in, joint states and camera images out."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pybullet

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.cameras import Renderer
from jepa_robot_sim.quiet import quiet

PHYSICS_RATE = 500  # Hz
STEP_NS = 1_000_000_000 // PHYSICS_RATE
GAINS = {"positionGain": 0.35, "velocityGain": 1.0}
ARM_COLOUR = (0.20, 0.22, 0.26, 1)
LINK_COLOUR = (0.85, 0.85, 0.82, 1)
HAND_COLOUR = (0.10, 0.35, 0.95, 1)
TABLE_COLOUR = (0.55, 0.50, 0.44, 1)


class SimulatedArm:
    """An arm on a table, stepped by whoever owns it. Time is a count of physics steps.

    Args:
        contract: the robot; its cameras are rendered, its joint order is used throughout.
        gui: open PyBullet's window.
        zoom: camera images this many times larger, for pictures meant for people.

    Raises:
        ValueError: if a rate of the contract does not divide the physics rate.
    """

    def __init__(self, contract: RobotContract, gui: bool = False, zoom: int = 1) -> None:
        self.contract = contract
        self.every = {name: _divide(contract, name) for name in ("image", "joint_states", "safety")}
        with quiet():
            self._client = pybullet.connect(pybullet.GUI if gui else pybullet.DIRECT)
        self._call("setGravity", 0, 0, -9.81)
        self._call("setTimeStep", 1 / PHYSICS_RATE)
        self._add_table()
        self._body = self._load()
        index = {}
        for joint in range(self._call("getNumJoints", self._body)):
            info = self._call("getJointInfo", self._body, joint)
            index[info[1].decode()] = joint
            index[info[12].decode()] = joint
        self._joints = [index[name] for name in contract.joint_names]
        self._forces = [
            self._call("getJointInfo", self._body, joint)[10] or 100.0 for joint in self._joints
        ]
        self._fixed = [(index[name], position) for name, position in contract.fixed_joints]
        self._ee = index[contract.ee_frame]
        self._paint()
        self._renderers = [Renderer(camera, self._client, zoom) for camera in contract.cameras]
        self.steps = 0
        self.reset(contract.home)

    @property
    def time_ns(self) -> int:
        return self.steps * STEP_NS

    def reset(self, positions: Sequence[float]) -> None:
        """Put the arm at joint positions ``[J]`` (rad), at rest, and hold it there."""
        for joint, position in zip(self._joints, positions, strict=True):
            self._call("resetJointState", self._body, joint, float(position), 0.0)
        for joint, position in self._fixed:
            self._call("resetJointState", self._body, joint, position, 0.0)
            self._call(
                "setJointMotorControl2",
                self._body,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=position,
                force=50,
            )
        self.command(positions)

    def command(self, positions: Sequence[float]) -> None:
        """Set the joint positions ``[J]`` (rad) to track, until the next command."""
        self._call(
            "setJointMotorControlArray",
            self._body,
            self._joints,
            pybullet.POSITION_CONTROL,
            targetPositions=[float(p) for p in positions],
            forces=self._forces,
            positionGains=[GAINS["positionGain"]] * len(self._joints),
            velocityGains=[GAINS["velocityGain"]] * len(self._joints),
        )

    def step(self) -> None:
        """Advance the physics by one step of 2 ms."""
        self._call("stepSimulation")
        self.steps += 1

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Joint positions (rad) and velocities (rad/s), each ``[J]``, in the contract's order."""
        states = self._call("getJointStates", self._body, self._joints)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def ee_position(self) -> np.ndarray:
        """The true end-effector position ``[3]`` (m) in the base frame."""
        state = self._call("getLinkState", self._body, self._ee, computeForwardKinematics=1)
        return np.array(state[4])

    def images(self) -> list[np.ndarray]:
        """One image a camera, in the contract's order: ``[H, W, 3]`` uint8."""
        return [renderer.render() for renderer in self._renderers]

    def close(self) -> None:
        """Free the physics server; the arm cannot be used afterwards."""
        if pybullet.isConnected(self._client):
            pybullet.disconnect(self._client)

    def _call(self, name: str, *args, **kwargs):
        return getattr(pybullet, name)(*args, physicsClientId=self._client, **kwargs)

    def _add_table(self) -> None:
        half = [0.6, 0.75, 0.02]
        shape = {"shapeType": pybullet.GEOM_BOX, "halfExtents": half}
        self._call(
            "createMultiBody",
            baseCollisionShapeIndex=self._call("createCollisionShape", **shape),
            baseVisualShapeIndex=self._call("createVisualShape", rgbaColor=TABLE_COLOUR, **shape),
            basePosition=[0.45, 0, -half[2] - 0.01],
        )

    def _load(self) -> int:
        path = self.contract.urdf_path
        with tempfile.TemporaryDirectory() as folder:
            light = Path(folder) / path.name
            light.write_text(_with_collision_meshes_as_visuals(path))
            with quiet():
                return self._call(
                    "loadURDF",
                    str(light),
                    useFixedBase=True,
                    flags=pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS,
                )

    def _paint(self) -> None:
        joints = sorted(self._joints)
        for link in range(-1, self._call("getNumJoints", self._body)):
            colour = ARM_COLOUR if link in joints[::2] else LINK_COLOUR
            self._call(
                "changeVisualShape",
                self._body,
                link,
                rgbaColor=HAND_COLOUR if link > joints[-1] else colour,
            )


def _divide(contract: RobotContract, name: str) -> int:
    rate = getattr(contract.rates, name)
    if PHYSICS_RATE % rate:
        raise ValueError(
            f"{contract.source}: rates.{name} is {rate:g}, "
            f"expected a divisor of the physics rate, {PHYSICS_RATE} Hz"
        )
    return int(PHYSICS_RATE / rate)


def _with_collision_meshes_as_visuals(path: Path) -> str:
    """The URDF's text with cheap visuals: the software renderer is bound by vertices."""
    text = re.sub(r"meshes/visual/([\w.-]+)", r"meshes/collision/\1", path.read_text())
    return text.replace("package://", f"{path.parent.as_posix()}/")
