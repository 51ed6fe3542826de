"""A contract's arm in PyBullet: joint commands in, joint states and camera images out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pybullet

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.profile import JointMotion
from jepa_robot.robot.tracking import tracking_velocities
from jepa_robot_sim import urdf
from jepa_robot_sim.bodies import SceneBodies
from jepa_robot_sim.cameras import Renderer
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.quiet import quiet
from jepa_robot_sim.scenes import ARM_COLOUR, AS_IS, HAND_COLOUR, TABLE_COLOUR, Scene, Variation

PHYSICS_RATE = 500  # Hz
STEP_NS = 1_000_000_000 // PHYSICS_RATE
GAINS = {"positionGain": 0.35, "velocityGain": 1.0}
LINK_COLOUR = (0.85, 0.85, 0.82)
FIXED_FORCE = 50  # N or Nm that holds a joint which is not driven


class SimulatedArm:
    """An arm among its obstacles, stepped by whoever owns it. Time is a count of physics steps.

    Args:
        contract: the robot; its cameras are rendered, its joint order is used throughout. A gripper
            starts where ``fixed_joints`` has its first joint, or where the scene says.
        gui: open PyBullet's window.
        zoom: camera images this many times larger, for pictures meant for people.
        scene: what else there is, which :meth:`arrange` puts in its place.

    Raises:
        InvalidContract: the URDF or a mesh is not there, or a rate of the contract does not divide
            the physics rate.
    """

    def __init__(
        self,
        contract: RobotContract,
        gui: bool = False,
        zoom: int = 1,
        scene: Scene | None = None,
    ) -> None:
        self.contract = contract
        self.every = {name: _divide(contract, name) for name in ("image", "joint_states", "safety")}
        with quiet():
            self._client = pybullet.connect(pybullet.GUI if gui else pybullet.DIRECT)
        self._call("setGravity", 0, 0, -9.81)
        self._call("setTimeStep", 1 / PHYSICS_RATE)
        self._add_obstacles()
        exclude = pybullet.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
        self._body = urdf.load(contract, self._client, is_light=True, flags=exclude)
        index = urdf.link_index(self._body, self._client)
        self._joints = [index[name] for name in contract.joint_names]
        self._forces = [self._force(joint, 100.0) for joint in self._joints]
        self._speeds = [float(speed) for speed in contract.limits("velocity")]
        fixed, gripper = dict(contract.fixed_joints), contract.gripper
        self._gripper = [index[name] for name in (gripper.joints if gripper else ())]
        self._gripper_start = fixed.get(gripper.joints[0], 0.0) if gripper else 0.0
        if gripper is not None and scene is not None and scene.is_gripper_open:
            self._gripper_start = gripper.upper
        self._fixed = [(index[n], p) for n, p in fixed.items() if index[n] not in self._gripper]
        self._ee = index[contract.ee_frame]
        self._scene = None if scene is None else SceneBodies(scene, self._client)
        if scene is not None and scene.block is not None:
            self._couple_fingers()
        self._painted: Variation | None = None
        self._paint(AS_IS)
        self._renderers = [Renderer(camera, self._client, zoom) for camera in contract.cameras]
        self._payload = 0.0  # kg
        self._off = np.zeros(len(self._joints))  # by how much what joints measure is (rad)
        self._takes_velocities = contract.controller.type == "forward_velocity"
        self._coasts_until = math.inf  # physics steps, to the controller's timeout
        self.steps = 0
        self.reset(contract.home)
        self._clean = None
        if self._scene is not None:
            self._scene.put_away()
            self._clean = self._call("saveState")

    @property
    def time_ns(self) -> int:
        return self.steps * STEP_NS

    def reset(self, positions: Sequence[float]) -> None:
        """Put the arm at joint positions ``[J]`` (rad), at rest, and hold it there."""
        for joint, position in zip(self._joints, positions - self._off, strict=True):
            self._call("resetJointState", self._body, joint, float(position), 0.0)
        for joint, position in self._fixed:
            self._call("resetJointState", self._body, joint, position, 0.0)
            self._call(
                "setJointMotorControl2",
                self._body,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=position,
                force=FIXED_FORCE,
            )
        for joint in self._gripper:
            self._call("resetJointState", self._body, joint, self._gripper_start, 0.0)
        self.command_gripper(self._gripper_start)
        if self._takes_velocities:
            self.command_velocities(np.zeros(len(self._joints)))
        else:
            self.command(positions)

    def arrange(self, episode: Episode, positions: Sequence[float] | None = None) -> None:
        """Put the arm and the scene where an episode begins, looking as it says.

        What comes then does not depend on what was before, to the bit.

        Args:
            episode: gives the scene, its looks, and the arm's start.
            positions: of the joints ``[J]`` (rad), where not the episode's start.
        """
        if self._clean is not None:
            self._scene.put_away()
            self._call("stepSimulation")
            self._call("restoreState", self._clean)  # contacts are forgotten
            self._scene.place(episode.object_start, episode.wall, episode.variation)
        variation = episode.variation
        self._off = np.array(variation.miscalibration or np.zeros(len(self._joints)))
        self._carry(variation.payload)
        self.reset(episode.start if positions is None else positions)
        self._paint(episode.variation)
        shifts = episode.variation.cameras
        for number, renderer in enumerate(self._renderers):
            renderer.vary(shifts[number] if shifts else None, episode.variation.light)

    def _carry(self, payload: float) -> None:
        """Add kg at the hand's joint, in the place of what was there."""
        if payload == self._payload:
            return
        known = self._call("getDynamicsInfo", self._body, self._joints[-1])
        self._call(
            "changeDynamics",
            self._body,
            self._joints[-1],
            mass=known[0] + payload - self._payload,
            localInertiaDiagonal=known[2],  # or it is made anew, of the link's shape
        )
        self._payload = payload

    def check(self, episode: Episode) -> None:
        """Refuse an episode of another scene, or of another arm.

        Raises:
            ValueError: says what does not fit.
        """
        scene = None if self._scene is None else self._scene.scene
        variation = episode.variation
        wanted = {
            "start": len(self._joints),
            "goal": 3,
            "goal_joints": len(self._joints),
            "object_start": 3 if scene is not None and scene.block is not None else None,
            "object_goal": 3 if scene is not None and scene.block is not None else None,
            "wall": 3 if scene is not None and scene.wall is not None else None,
        }
        for name, size in wanted.items():
            value = getattr(episode, name)
            if size is None and value is not None:
                raise ValueError(f"{name} is {value.tolist()}, expected none in this scene")
            if size is not None and (
                value is None or value.shape != (size,) or not np.isfinite(value).all()
            ):
                raise ValueError(f"{name} is {value}, expected {size} finite numbers")
        if len(variation.distractors) > (0 if scene is None else scene.distractors):
            raise ValueError(f"distractors are {len(variation.distractors)}, more than there are")
        if len(variation.miscalibration) not in (0, len(self._joints)):
            raise ValueError(
                f"miscalibration is of {len(variation.miscalibration)} joints, expected of all "
                f"{len(self._joints)}, or none"
            )
        if len(variation.cameras) not in (0, len(self.contract.cameras)):
            raise ValueError(f"cameras are {len(variation.cameras)}, expected as many as the arm's")

    def show_goal(self, episode: Episode) -> None:
        """Put the arm and the scene where an episode should end, looking as it says."""
        end = replace(episode, object_start=episode.object_goal)
        self.arrange(end, episode.goal_joints)

    def object_position(self) -> np.ndarray | None:
        """The true middle of the scene's object ``[3]`` (m) in the base frame, if it has one."""
        return None if self._scene is None else self._scene.block_position()

    def follow(self, motion: JointMotion, measured: np.ndarray) -> None:
        """Command a motion as the contract's controller is commanded, without ROS.

        Args:
            motion: to be reached one safety period from now.
            measured: the joint positions ``[J]`` (rad) that were last published.
        """
        if self._takes_velocities:
            self.command_velocities(tracking_velocities(self.contract, motion, measured))
        else:
            self.command(motion.positions)

    def command(self, positions: Sequence[float]) -> None:
        """Set the joint positions ``[J]`` (rad) to track, until the next command.

        No motor turns faster than the contract says, however far off its command is.
        """
        targets = (float(position) for position in positions - self._off)
        for joint, target, force, speed in zip(
            self._joints, targets, self._forces, self._speeds, strict=True
        ):
            self._call(
                "setJointMotorControl2",
                self._body,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=target,
                force=force,
                maxVelocity=speed,
                **GAINS,
            )

    def command_velocities(self, velocities: Sequence[float]) -> None:
        """Set the joint velocities ``[J]`` (rad/s), until the controller's timeout."""
        self._call(
            "setJointMotorControlArray",
            self._body,
            self._joints,
            pybullet.VELOCITY_CONTROL,
            targetVelocities=[float(v) for v in velocities],
            forces=self._forces,
        )
        timeout = self.contract.controller.timeout
        self._coasts_until = self.steps + math.ceil(timeout * PHYSICS_RATE)

    def command_gripper(self, position: float) -> None:
        """Set the gripper's position (m, or rad for a revolute one), until the next command."""
        for joint in self._gripper:
            self._call(
                "setJointMotorControl2",
                self._body,
                joint,
                pybullet.POSITION_CONTROL,
                targetPosition=position,
                force=self._force(joint, FIXED_FORCE),
            )

    def step(self) -> None:
        """Advance the physics by one step of 2 ms."""
        if self.steps >= self._coasts_until:
            self.command_velocities(np.zeros(len(self._joints)))
        self._call("stepSimulation")
        self.steps += 1

    def joint_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Joint positions (rad) and velocities (rad/s), each ``[J]``, in the contract's order."""
        states = self._call("getJointStates", self._body, self._joints)
        return np.array([s[0] for s in states]) + self._off, np.array([s[1] for s in states])

    def gripper_states(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities of the gripper's joints, each ``[G]``; empty without one."""
        if not self._gripper:
            return np.zeros(0), np.zeros(0)
        states = self._call("getJointStates", self._body, self._gripper)
        return np.array([s[0] for s in states]), np.array([s[1] for s in states])

    def ee_position(self) -> np.ndarray:
        """The true end-effector position ``[3]`` (m) in the base frame."""
        state = self._call("getLinkState", self._body, self._ee, computeForwardKinematics=1)
        return np.array(state[4])

    def hand_boxes(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Lower and upper corners ``[3]`` (m, base frame) of the bodies that make up the hand."""
        self._call("performCollisionDetection")
        shapes = {shape[1] for shape in self._call("getVisualShapeData", self._body)}
        return [
            tuple(np.array(corner) for corner in self._call("getAABB", self._body, link))
            for link in sorted(self._hand() & shapes)
        ]

    def images(self) -> list[np.ndarray]:
        """One image a camera, in the contract's order: ``[H, W, 3]`` uint8."""
        return [renderer.render() for renderer in self._renderers]

    def close(self) -> None:
        """Free the physics server; the arm cannot be used afterwards."""
        if pybullet.isConnected(self._client):
            pybullet.disconnect(self._client)

    def _call(self, name: str, *args, **kwargs):
        return getattr(pybullet, name)(*args, physicsClientId=self._client, **kwargs)

    def _force(self, joint: int, default: float) -> float:
        """The URDF's greatest force (N) or torque (Nm) of a joint."""
        return self._call("getJointInfo", self._body, joint)[10] or default

    def _add_obstacles(self) -> None:
        self._obstacles = []
        for obstacle in self.contract.safety.obstacles:
            lower, upper = np.array(obstacle.lower), np.array(obstacle.upper)
            shape = {"shapeType": pybullet.GEOM_BOX, "halfExtents": ((upper - lower) / 2).tolist()}
            visual = self._call("createVisualShape", rgbaColor=[*TABLE_COLOUR, 1], **shape)
            body = self._call(
                "createMultiBody",
                baseCollisionShapeIndex=self._call("createCollisionShape", **shape),
                baseVisualShapeIndex=visual,
                basePosition=((lower + upper) / 2).tolist(),
            )
            self._obstacles.append(body)

    def _couple_fingers(self) -> None:
        """The gripper's joints move as one, or what they hold would slide with all of them."""
        for joint in self._gripper[1:]:
            ends = {"parentFramePosition": [0, 0, 0], "childFramePosition": [0, 0, 0]}
            about = (self._body, self._gripper[0], self._body, joint, pybullet.JOINT_GEAR)
            gear = self._call("createConstraint", *about, jointAxis=[1, 0, 0], **ends)
            self._call("changeConstraint", gear, gearRatio=-1, erp=0.1, maxForce=FIXED_FORCE)

    def _paint(self, variation: Variation) -> None:
        """Links in two colours, or all dark where an object must stand out; the hand in its own."""
        if variation == self._painted:
            return
        self._painted, joints, hand = variation, sorted(self._joints), self._hand()
        colours = variation.colours or {}
        dark, blue = colours.get("arm", ARM_COLOUR), colours.get("hand", HAND_COLOUR)
        light = LINK_COLOUR if self.object_position() is None else dark
        for link in range(-1, self._call("getNumJoints", self._body)):
            colour = dark if link in joints[::2] else light
            colour = blue if link in hand else colour
            self._call("changeVisualShape", self._body, link, rgbaColor=[*colour, 1])
        for body in self._obstacles:
            colour = colours.get("table", TABLE_COLOUR)
            self._call("changeVisualShape", body, -1, rgbaColor=[*colour, 1])

    def _hand(self) -> set[int]:
        """What is fixed to the last joint's link; that link itself where nothing can be seen."""
        parents = [
            self._call("getJointInfo", self._body, joint)[16]
            for joint in range(self._call("getNumJoints", self._body))
        ]
        last, hand = self._joints[-1], set()
        for link, parent in enumerate(parents):
            if parent == last or parent in hand:
                hand.add(link)
        visible = {shape[1] for shape in self._call("getVisualShapeData", self._body)}
        return hand if hand & visible else {last}


def _divide(contract: RobotContract, name: str) -> int:
    rate = getattr(contract.rates, name)
    if PHYSICS_RATE % rate:
        raise contract.invalid(
            f"rates.{name}",
            f"rates.{name} is {rate:g}, expected a divisor of the physics rate, {PHYSICS_RATE} Hz",
        )
    return int(PHYSICS_RATE / rate)
