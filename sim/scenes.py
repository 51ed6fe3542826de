"""What stands before the arm: its measures, fitted to an arm, and what varies between episodes.

Nothing here needs the physics engine: :mod:`jepa_robot_sim.bodies` builds what is described here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from jepa_robot.robot.contract import RobotContract

REFERENCE = 0.34  # m: the narrower side of the workspace that lengths were chosen for
SMALLEST = 0.45  # of those lengths, however small the workspace is
BLOCK_RADIUS, BLOCK_HEIGHT, BLOCK_MASS = 0.035, 0.055, 0.3  # m, m, kg
GAP = 0.004  # m between the lowest that the hand goes and the surface
PLATE_MARGIN = 0.12  # m that the plate is larger than the workspace
MAX_DISTRACTORS = 6
ARM_COLOUR = (0.20, 0.22, 0.26)
HAND_COLOUR = (0.10, 0.35, 0.95)
BLOCK_COLOUR = (0.90, 0.10, 0.10)
SHELF_COLOUR = (0.25, 0.55, 0.35)
WALL_COLOUR = (0.95, 0.80, 0.20)
PLATE_COLOUR, TABLE_COLOUR = (0.62, 0.60, 0.56), (0.55, 0.50, 0.44)
DISTRACTOR_COLOURS = ((0.10, 0.70, 0.75), (0.10, 0.65, 0.30), (0.55, 0.25, 0.65))
PAINTED = ("block", "hand", "arm", "plate", "table")


@dataclass(frozen=True)
class Light:
    """Where the light comes from, and how much of it is everywhere and from there."""

    direction: tuple[float, float, float] = (0.6, -0.9, 1.6)
    ambient: float = 0.55
    diffuse: float = 0.5


@dataclass(frozen=True)
class Variation:
    """How one episode differs from the nominal scene.

    Attributes:
        colours: RGB in [0, 1] by what is painted (a name of ``PAINTED``).
        light: None for the nominal one.
        cameras: a camera each, the shift of its position (m, base frame) and of its orientation
            (rotation vector, rad, base frame): ``(x, y, z, rx, ry, rz)``. Empty for none.
        friction, mass: factors on the block's.
        latency: control periods by which an action comes late.
        payload: kg more at the hand.
        miscalibration: a joint each, by how much what it measures is off (rad). Empty for nothing.
        distractors: a body each, ``(x, y, yaw)`` in m, m, rad, base frame.
        distractor_colours: RGB, one each.
    """

    colours: Mapping[str, tuple[float, float, float]] | None = None
    light: Light | None = None
    cameras: tuple[tuple[float, ...], ...] = ()
    friction: float = 1.0
    mass: float = 1.0
    latency: int = 0
    payload: float = 0.0
    miscalibration: tuple[float, ...] = ()
    distractors: tuple[tuple[float, float, float], ...] = ()
    distractor_colours: tuple[tuple[float, float, float], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Variation:
        """The variation that :meth:`to_dict` wrote."""
        known = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        if known.get("light") is not None:
            light = known["light"]
            known["light"] = Light(tuple(light["direction"]), light["ambient"], light["diffuse"])
        if known.get("colours") is not None:
            known["colours"] = {name: tuple(rgb) for name, rgb in known["colours"].items()}
        known["miscalibration"] = tuple(known.get("miscalibration", ()))
        for name in ("cameras", "distractors", "distractor_colours"):
            known[name] = tuple(tuple(row) for row in known.get(name, ()))
        return cls(**known)


AS_IS = Variation()


@dataclass(frozen=True)
class Randomisation:
    """How much episodes vary, each from 0 (nominal) to 1.

    At 1: ``colours`` are a third of the way to any colour; ``light`` comes from anywhere above;
    ``camera`` stands up to 4 cm and looks up to 3 degrees elsewhere; ``friction`` and ``mass`` are
    between half and twice; ``latency`` is up to 3 control periods. ``distractors`` is how many
    bodies stand about that have nothing to do with the task.
    """

    colours: float = 0.0
    light: float = 0.0
    camera: float = 0.0
    friction: float = 0.0
    mass: float = 0.0
    latency: float = 0.0
    distractors: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "distractors":
                if isinstance(value, bool) or not isinstance(value, int | np.integer):
                    raise ValueError(f"distractors is {value!r}, expected a whole number")
                if not 0 <= value <= MAX_DISTRACTORS:
                    raise ValueError(f"distractors is {value}, expected 0 to {MAX_DISTRACTORS}")
            elif isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{field.name} is {value!r}, expected a number from 0 to 1")
            elif not 0 <= value <= 1:
                raise ValueError(f"{field.name} is {value}, expected 0 to 1")

    @classmethod
    def full(cls, strength: float = 1.0, distractors: int = 0) -> Randomisation:
        """Everything at one strength."""
        return cls(*[strength] * 6, distractors)

    @property
    def is_off(self) -> bool:
        return self == Randomisation()

    def sample(self, rng: np.random.Generator, cameras: int) -> Variation:
        """A variation without its distractors, which depend on where everything else is.

        The generator is left as it is where nothing varies.
        """
        if self.is_off:
            return AS_IS
        return Variation(
            colours=self._colours(rng) if self.colours else None,
            light=self._light(rng) if self.light else None,
            cameras=tuple(self._shift(rng) for _ in range(cameras)) if self.camera else (),
            friction=_factor(rng, self.friction),
            mass=_factor(rng, self.mass),
            latency=int(rng.integers(0, 1 + round(3 * self.latency))) if self.latency else 0,
            distractor_colours=tuple(
                self._colour(rng, DISTRACTOR_COLOURS[n % len(DISTRACTOR_COLOURS)])
                for n in range(self.distractors)
            ),
        )

    def _colours(self, rng: np.random.Generator) -> dict[str, tuple[float, ...]]:
        nominal = (BLOCK_COLOUR, HAND_COLOUR, ARM_COLOUR, PLATE_COLOUR, TABLE_COLOUR)
        return {n: self._colour(rng, rgb) for n, rgb in zip(PAINTED, nominal, strict=True)}

    def _colour(self, rng: np.random.Generator, nominal: tuple) -> tuple[float, ...]:
        share = self.colours / 3
        mixed = (1 - share) * np.array(nominal) + share * rng.uniform(size=3)
        return tuple(map(float, mixed))

    def _light(self, rng: np.random.Generator) -> Light:
        nominal, share = Light(), self.light
        around, up = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 2.0)
        anywhere = np.array([math.cos(around), math.sin(around), up])
        direction = (1 - share) * np.array(nominal.direction) + share * anywhere
        ambient = nominal.ambient + share * rng.uniform(-0.15, 0.15)
        diffuse = nominal.diffuse + share * rng.uniform(-0.2, 0.2)
        return Light(tuple(map(float, direction)), float(ambient), float(diffuse))

    def _shift(self, rng: np.random.Generator) -> tuple[float, ...]:
        shift = rng.uniform(-1, 1, 6) * np.repeat([0.04, math.radians(3)], 3)
        return tuple(map(float, self.camera * shift))


NOMINAL = Randomisation()


@dataclass(frozen=True)
class Box:
    """A fixed box by its corners (m, base frame)."""

    lower: tuple[float, float, float]
    upper: tuple[float, float, float]


@dataclass(frozen=True)
class Block:
    """What is pushed or grasped: a cylinder on its end, or as wide and long a box (m, kg)."""

    radius: float
    height: float
    mass: float
    is_square: bool = False


@dataclass(frozen=True)
class Scene:
    """What there is beside the arm and the contract's obstacles.

    Attributes:
        scale: of lengths, 1 for a workspace as wide as the Panda's.
        surface: the height (m) on which things stand.
        block: None where there is nothing to move.
        plate: raises the surface to the hand; None where the table is high enough.
        wall: half extents of a wall that episodes place; None without one.
        shelf: a place higher than the surface; None without one.
        distractors: how many.
        is_gripper_open: whether a gripper starts open as wide as it goes.
    """

    scale: float
    surface: float
    block: Block | None = None
    plate: Box | None = None
    wall: tuple[float, float, float] | None = None
    shelf: Box | None = None
    distractors: int = 0
    is_gripper_open: bool = False

    @property
    def resting_height(self) -> float:
        """Of the middle of the block, where it stands on the surface (m)."""
        return self.surface + self.block.height / 2

    def distractor_size(self, number: int) -> tuple[float, float, float]:
        """Half extents of the box (m)."""
        shapes = ((0.020, 0.020, 0.020), (0.030, 0.014, 0.016), (0.014, 0.014, 0.026))
        return tuple(self.scale * side for side in shapes[number % len(shapes)])


def scale_of(contract: RobotContract) -> float:
    """Of the lengths in a scene: 1 for a workspace as wide as the Panda's, less for a smaller."""
    lower, upper = (np.array(corner) for corner in contract.workspace)
    return float(np.clip(min((upper - lower)[:2]) / REFERENCE, SMALLEST, 1.0))


def surface_of(contract: RobotContract, depth: float) -> tuple[float, Box | None]:
    """The height (m) on which things stand for an arm, and the plate that it takes.

    The table of the contract where it is within the hand's reach, else a plate on top of it. The
    hand never touches it: the limiter keeps the hand in its workspace.

    Args:
        contract: the arm.
        depth: how far the hand goes below ``ee_frame`` (m).
    """
    lower, upper = (np.array(corner) for corner in contract.workspace)
    wanted = lower[2] - depth - GAP
    tables = [
        box.upper[2]
        for box in contract.safety.obstacles
        if (np.array(box.lower)[:2] < lower[:2]).all()
        and (np.array(box.upper)[:2] > upper[:2]).all()
        and box.upper[2] < lower[2]
    ]
    table = max(tables, default=None)
    if table is not None and wanted < table + 0.005:
        return float(table), None
    margin = PLATE_MARGIN * scale_of(contract)
    bottom = wanted - 0.02 if table is None else table
    near, far = lower[:2] - [0.8 * margin, margin], upper[:2] + margin
    return float(wanted), Box(tuple(map(float, (*near, bottom))), tuple(map(float, (*far, wanted))))


def block_at(scale: float) -> Block:
    """The block at a scale, of the same stuff at each."""
    return Block(BLOCK_RADIUS * scale, BLOCK_HEIGHT * scale, BLOCK_MASS * scale**3)


def bare_scene(contract: RobotContract, depth: float, distractors: int) -> Scene:
    """The surface before an arm whose hand goes ``depth`` (m) below ``ee_frame``."""
    surface, plate = surface_of(contract, depth)
    return Scene(scale_of(contract), surface, plate=plate, distractors=distractors)


def place_distractors(
    variation: Variation,
    scene: Scene,
    contract: RobotContract,
    rng: np.random.Generator,
    clear_of: Sequence[np.ndarray],
    room: float = 0.08,
) -> Variation:
    """The variation with its distractors placed: apart, and clear of some places.

    Args:
        variation: of the episode.
        scene: how many there are.
        contract: its workspace is where they stand.
        rng: where.
        clear_of: places ``[2]`` or ``[3]`` (m).
        room: m that they keep from those places, at the scene's scale.
    """
    lower, upper = (np.array(corner)[:2] for corner in contract.workspace)
    taken, placed = [(np.array(place)[:2], room) for place in clear_of], []
    for _ in range(scene.distractors):
        for attempt in range(200):
            spot, loosened = rng.uniform(lower, upper), 0.99**attempt
            if all(
                np.linalg.norm(spot - place) > loosened * distance * scene.scale
                for place, distance in taken
            ):
                break
        taken.append((spot, 0.07))
        placed.append((float(spot[0]), float(spot[1]), float(rng.uniform(-np.pi, np.pi))))
    return replace(variation, distractors=tuple(placed))


def _factor(rng: np.random.Generator, strength: float) -> float:
    """Between half and twice, at full strength."""
    return float(2.0 ** (strength * rng.uniform(-1, 1))) if strength else 1.0
