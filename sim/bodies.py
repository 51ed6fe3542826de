"""A scene's bodies in PyBullet: built once, put in their places at the start of each episode."""

from __future__ import annotations

import numpy as np
import pybullet

from jepa_robot_sim.scenes import (
    AS_IS,
    BLOCK_COLOUR,
    DISTRACTOR_COLOURS,
    PLATE_COLOUR,
    SHELF_COLOUR,
    WALL_COLOUR,
    Scene,
    Variation,
)

FRICTION, OTHERS_FRICTION = 0.9, 0.5  # a resting block stays, a pushed one stops
DAMPING = 2.0  # 1/s
DISTRACTOR_MASS = 0.1  # kg
AWAY = (0.0, 0.0, -5.0)  # m: where bodies wait that an episode does not use


class SceneBodies:
    """The block, plate, wall, shelf and distractors of a scene, on one physics server."""

    def __init__(self, scene: Scene, client: int) -> None:
        self.scene, self._client = scene, client
        # Contacts are solved in the order of their bodies, not of how they came about.
        self._call("setPhysicsEngineParameter", deterministicOverlappingPairs=1)
        self._plate = self._fixed(scene.plate, PLATE_COLOUR)
        self._shelf = self._fixed(scene.shelf, SHELF_COLOUR)
        self._wall = None
        if scene.wall is not None:
            self._wall = self._body(_box(scene.wall), 0.0, WALL_COLOUR)
        self._block = None
        if scene.block is not None:
            block = scene.block
            shape = _cylinder(block.radius, block.height)
            if block.is_square:
                shape = _box((block.radius, block.radius, block.height / 2))
            self._block = self._body(shape, block.mass, BLOCK_COLOUR)
        self._distractors = []
        for number in range(scene.distractors):
            colour = DISTRACTOR_COLOURS[number % len(DISTRACTOR_COLOURS)]
            shape = _box(scene.distractor_size(number))
            self._distractors.append(self._body(shape, DISTRACTOR_MASS, colour))

        movable = (self._wall, self._block, *self._distractors)
        self._movable = [body for body in movable if body is not None]

    def place(
        self,
        block: np.ndarray | None,
        wall: np.ndarray | None = None,
        variation: Variation = AS_IS,
    ) -> None:
        """Put everything where an episode has it, at rest.

        Args:
            block: its middle ``[3]`` (m).
            wall: ``[3]``: x, y (m) and yaw (rad).
            variation: what differs from the nominal scene.
        """
        if self._block is not None:
            self._put(self._block, AWAY if block is None else block)
            mass = self.scene.block.mass * variation.mass
            friction = FRICTION * variation.friction
            self._call("changeDynamics", self._block, -1, mass=mass, lateralFriction=friction)
            self._paint(self._block, variation, "block", BLOCK_COLOUR)
        if self._wall is not None:
            x, y, yaw = wall if wall is not None else (*AWAY[:2], 0.0)
            height = AWAY[2] if wall is None else self.scene.surface + self.scene.wall[2]
            self._put(self._wall, (x, y, height), yaw)
        if self._plate is not None:
            self._paint(self._plate, variation, "plate", PLATE_COLOUR)
        for number, body in enumerate(self._distractors):
            if number >= len(variation.distractors):
                self._put(body, (number, *AWAY[1:]))
                continue
            x, y, yaw = variation.distractors[number]
            height = self.scene.surface + self.scene.distractor_size(number)[2]
            self._put(body, (x, y, height), yaw)
            self._call(
                "changeVisualShape",
                body,
                -1,
                rgbaColor=[*variation.distractor_colours[number], 1],
            )

    def put_away(self) -> None:
        """Move everything that moves to where it touches nothing."""
        for number, body in enumerate(self._movable):
            self._put(body, (number, *AWAY[1:]))

    def block_position(self) -> np.ndarray | None:
        """The middle of the block ``[3]`` (m, base frame), if there is one."""
        if self._block is None:
            return None
        return np.array(self._call("getBasePositionAndOrientation", self._block)[0])

    def _put(self, body: int, position, yaw: float = 0.0) -> None:
        turned = pybullet.getQuaternionFromEuler([0, 0, float(yaw)])
        position = [float(p) for p in position]
        self._call("resetBasePositionAndOrientation", body, position, turned)
        self._call("resetBaseVelocity", body, [0, 0, 0], [0, 0, 0])

    def _paint(self, body: int, variation: Variation, name: str, nominal: tuple) -> None:
        colour = (variation.colours or {}).get(name, nominal)
        self._call("changeVisualShape", body, -1, rgbaColor=[*colour, 1])

    def _fixed(self, box, colour: tuple) -> int | None:
        if box is None:
            return None
        lower, upper = np.array(box.lower), np.array(box.upper)
        body = self._body(_box((upper - lower) / 2), 0.0, colour)
        self._put(body, (lower + upper) / 2)
        return body

    def _body(self, shape: dict, mass: float, colour: tuple) -> int:
        visual = dict(shape)
        if "height" in visual:
            visual["length"] = visual.pop("height")
        body = self._call(
            "createMultiBody",
            baseMass=mass,
            baseCollisionShapeIndex=self._call("createCollisionShape", **shape),
            baseVisualShapeIndex=self._call("createVisualShape", rgbaColor=[*colour, 1], **visual),
            basePosition=AWAY,
        )
        dynamics = {"lateralFriction": FRICTION if mass else OTHERS_FRICTION}
        if mass:
            dynamics |= {"linearDamping": DAMPING, "angularDamping": DAMPING}
        self._call("changeDynamics", body, -1, **dynamics)
        return body

    def _call(self, name: str, *args, **kwargs):
        return getattr(pybullet, name)(*args, physicsClientId=self._client, **kwargs)


def _box(half: tuple) -> dict:
    return {"shapeType": pybullet.GEOM_BOX, "halfExtents": [float(side) for side in half]}


def _cylinder(radius: float, height: float) -> dict:
    return {"shapeType": pybullet.GEOM_CYLINDER, "radius": radius, "height": height}
