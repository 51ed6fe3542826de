"""Configurator: from a task and its goal to one configuration for every module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import cv2
import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.cost import InvalidConfiguration, finite
from jepa_robot.modules.guide import Guide, Levels
from jepa_robot.modules.perception import Perception
from jepa_robot.modules.tasks import LABELS, InvalidTask, Task
from jepa_robot.robot.contract import Camera, RobotContract

MISREAD = 0.05  # m that an object in a goal image is seen out of reach by mistake
TABLE_DEPTH = 0.15  # m: objects lie lower than the hand goes by no more
PREPARED = -1  # an activation: not in force until it comes again
MODULES = ("perception", "world_model", "cost", "actor", "memory")


class OutOfReach(InvalidTask):
    """A goal that lies where the arm does not go, or was read there."""


@dataclass(frozen=True)
class Configuration:
    """What the configurator hands out: sections by module, in force from ``activation`` (ns) on.

    ``PREPARED``: not yet; it comes again, with the same version, to be in force.
    ``path``: where the bundle is.
    """

    version: int
    activation: int
    bundle: str
    task: str
    sections: dict[str, dict]
    path: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Configuration:
        """Read a configuration.

        Raises:
            InvalidConfiguration: it is no JSON, or lacks a field or section of the right type.
        """
        kinds = {"version": int, "activation": int, "bundle": str, "task": str, "sections": dict}
        try:
            data = json.loads(text)
        except ValueError as error:
            raise InvalidConfiguration(f"configuration is not JSON: {error}") from error
        if not isinstance(data, dict) or not all(
            isinstance(data.get(field), kind) for field, kind in kinds.items()
        ):
            expected = ", ".join(f"{field} ({kind.__name__})" for field, kind in kinds.items())
            raise InvalidConfiguration(f"configuration is {text[:80]!r}, expected {expected}")
        for module in MODULES:
            if not isinstance(data["sections"].get(module), dict):
                raise InvalidConfiguration(f"configuration has no section {module}, expected one")
        path = data.get("path", "")
        return cls(**{field: data[field] for field in kinds}, path=str(path))


class Configurator:
    """Makes configurations for one robot and one bundle.

    Args:
        contract: gives the workspace, in which goals must lie.
        bundle: gives the encoder for goal images and the goal encoder for goal positions.
    """

    def __init__(self, contract: RobotContract, bundle: Bundle) -> None:
        self._contract, self._bundle = contract, bundle
        self._perception = Perception(bundle)
        self._goal_encoder = bundle.session("goal_encoder")
        self._readout = bundle.session("readout")

    def with_position(self, task: Task, position: Sequence[float]) -> Task:
        """The task with a goal position (m, base frame).

        Raises:
            OutOfReach: it lies outside the workspace.
            InvalidTask: the bundle reads no positions.
        """
        return self._checked(replace(task, goal_position=tuple(position), goal_latent=None))

    def with_image(self, task: Task, images: Sequence[np.ndarray]) -> Task:
        """The task with a goal image, one a camera.

        Where the goal is of an object, the image says where that is, and nothing of the hand. Seen
        a little out of reach it is taken for where reach ends, as readouts err.

        Raises:
            InvalidObservation: for images of another size.
            OutOfReach: the object is seen out of reach.
        """
        return self.with_latent(task, self._perception.encode_goal(images)[0])

    def with_latent(self, task: Task, latent: np.ndarray) -> Task:
        """The task with a latent ``[D]`` as its goal, which is read as a goal image's is.

        Raises:
            InvalidTask: it is of another size; or as `with_image` says.
        """
        if np.shape(latent) != (self._bundle.latent_size,):
            raise InvalidTask(
                f"goal.latent has {np.size(latent)} numbers, expected the "
                f"{self._bundle.latent_size} of bundle {self._bundle.id}"
            )
        latent = np.asarray(latent, np.float32)
        if task.goal_label != LABELS[0] and self._bundle.reads_positions:
            seen = self._readout(latent=latent[None])[0]
            inside = np.clip(seen, *self._reach(task))
            near = np.abs(seen - inside).max() <= MISREAD
            return self.with_position(task, (inside if near else seen).tolist())
        return replace(task, goal_position=None, goal_latent=tuple(map(float, latent)))

    def with_point(self, task: Task, name: str, pixel: Sequence[float], latent: np.ndarray) -> Task:
        """The task with what is seen at a point of a camera's picture as the place of its goal.

        Args:
            task: whose goal's label is seen at the height of that point.
            name: of the camera, or of its optical frame.
            pixel: x to the right, y down (px).
            latent: of what is seen now ``[D]``.

        Raises:
            InvalidTask: there is no such camera, the point is not in its picture, or shows no place
                at that height; or as `with_position` says.
        """
        cameras = {camera.name: camera for camera in self._contract.cameras}
        cameras |= {camera.frame: camera for camera in self._contract.cameras}
        if name not in cameras:
            known = [camera.name for camera in self._contract.cameras]
            raise InvalidTask(f"goal_point is in camera {name!r}, expected one of {known}")
        if not self._bundle.reads_positions:
            raise InvalidTask(
                f"goal_point is a position, and bundle {self._bundle.id} was trained without "
                "labels: expected a goal image"
            )
        height = float(self._readout(latent=latent[None])[0][2])
        return self.with_position(task, _place_at(cameras[name], pixel, height).tolist())

    def resolved(self, task: Task, recalled: Sequence[np.ndarray] = ()) -> Task:
        """The task with goals that are positions or latents alone, all of them checked.

        Args:
            task: with goals as they were given.
            recalled: latents ``[D]``, one for each goal that is of so many s ago.

        Raises:
            InvalidTask: names the part, and what is wrong with it.
        """
        latents = iter(recalled)

        def resolve(part: Task) -> Task:
            try:
                if part.goal_image:
                    images = _read_goal_image(part.goal_image, self._contract.cameras)
                    part = replace(self.with_image(part, images), goal_image="")
                elif part.goal_ago:
                    latent = next(latents, None)
                    if latent is None:
                        raise InvalidTask(
                            f"goal.ago is {part.goal_ago:g} s, and nothing is remembered yet: "
                            "expected a task that comes while the agent runs"
                        )
                    part = replace(self.with_latent(part, latent), goal_ago=0.0)
                elif part.goal_latent is not None:
                    part = self.with_latent(part, np.array(part.goal_latent))
                return self._checked(part)
            except ValueError as error:
                if not task.subgoals:
                    raise
                raise InvalidTask(f"subgoal {part.name}: {error}") from error

        return task.with_each(resolve(part) for part in task.each())

    def distance(self, task: Task, latent: np.ndarray) -> float | None:
        """From what is seen, a latent ``[D]``, to a task's goal; None without one.

        In m where the bundle reads positions, else a root mean square over latents.
        """
        if task.goal_position is None and task.goal_latent is None:
            return None
        if not self._bundle.reads_positions:
            goal = np.array(task.goal_latent, np.float32)
            return float(np.sqrt(np.mean((latent - goal) ** 2)))
        goal = task.goal_position
        if goal is None:
            goal = self._readout(latent=np.array([task.goal_latent], np.float32))[0]
        seen = self._readout(latent=latent[None])[0]
        return float(np.linalg.norm(seen - np.array(goal, np.float32)))

    def sections(self, task: Task) -> dict[str, dict]:
        """One section a module.

        Raises:
            InvalidTask: as :meth:`with_position` does.
        """
        self._checked(task)
        latent, position = task.goal_latent, task.goal_position
        if latent is not None and not self._bundle.reads_positions:
            features = self._readout(latent=np.array([latent], np.float32))[0]
            position = tuple(map(float, features))
        if position is not None:
            read = np.array([position], np.float32)
            latent = tuple(map(float, self._goal_encoder(position=read)[0]))
        goal = {
            "position": position,
            "latent": latent if position is None else None,
            "encoded": latent,
        }
        has_goal = latent is not None
        return {
            "perception": {},
            "world_model": {},
            "cost": {"weights": task.weights, "goal": goal},
            "actor": {
                "mode": task.mode if has_goal else 0,
                "planner": task.planner,
                "seed": task.seed,
                "replan": task.replan,
                "precision": task.precision,
                "deadline": task.deadline,
                "auto": task.auto,
                "limit": task.limit,
                "goal_latent": latent,
            },
            "memory": {},
        }

    def levels(self, task: Task) -> Levels | None:
        """What finds subgoals for a task with a goal position; None where none are to be found."""
        if task.levels == 1 or task.goal_position is None:
            return None
        step = round(1e9 * self._bundle.manifest["time_step"])
        return Levels(Guide(self._bundle, *self._reach(task), task.seed), task, step)

    def _reach(self, task: Task) -> tuple[list[float], list[float]]:
        """Corners ``[3]`` (m) of where a goal position may be."""
        lower, upper = (list(corner) for corner in self._contract.workspace)
        if task.goal_label != LABELS[0]:
            lower[2] -= TABLE_DEPTH
        return lower, upper

    def _checked(self, task: Task) -> Task:
        unknown = sorted(set(task.weights) - set(self._bundle.terms))
        if unknown:
            raise InvalidTask(
                f"weights names {unknown}, expected some of {list(self._bundle.terms)}, the terms "
                f"of bundle {self._bundle.id}"
            )
        try:
            self._contract.weigh(task.weights)
        except ValueError as error:
            raise InvalidTask(str(error)) from error
        if task.precision not in self._bundle.precisions:
            raise InvalidTask(
                f"precision is {task.precision!r}, expected one that bundle {self._bundle.id} has: "
                f"{list(self._bundle.precisions)}; export it anew for others"
            )
        if task.levels > 1 and not self._bundle.has("upper"):
            raise InvalidTask(
                f"levels is {task.levels}, expected 1: bundle {self._bundle.id} has no upper level"
            )
        if task.goal_position is None:
            return task
        if not self._bundle.reads_positions:
            raise InvalidTask(
                f"goal is a position, and bundle {self._bundle.id} was trained without labels: "
                "expected a goal image"
            )
        try:
            position = finite("goal.position", task.goal_position, 3)
        except InvalidConfiguration as error:
            raise InvalidTask(str(error)) from error
        lower, upper = self._reach(task)
        if not all(lo <= p <= hi for lo, p, hi in zip(lower, position, upper, strict=True)):
            raise OutOfReach(
                f"goal.position is {list(task.goal_position)}, out of reach: expected inside "
                f"{lower} to {upper} m in {self._contract.base_frame}"
            )
        return task


def _read_goal_image(file: str, cameras: Sequence[Camera]) -> list[np.ndarray]:
    """The pictures of a file, one a camera, side by side in it."""
    image = cv2.imread(file, cv2.IMREAD_COLOR)
    width = sum(camera.width for camera in cameras)
    shape = (cameras[0].height, width)
    if image is None or image.shape[:2] != shape:
        what = "no picture" if image is None else f"{image.shape[1]}x{image.shape[0]}"
        raise InvalidTask(f"goal.image {file} is {what}, expected {width}x{shape[0]}")
    edges = np.cumsum([camera.width for camera in cameras])[:-1]
    parts = np.split(image, edges, axis=1)
    return [
        np.ascontiguousarray(part if camera.encoding == "bgr8" else part[..., ::-1])
        for part, camera in zip(parts, cameras, strict=True)
    ]


def _place_at(camera: Camera, pixel: Sequence[float], height: float) -> np.ndarray:
    """Where the ray through a pixel is at a height: ``[3]`` (m, base frame).

    Raises:
        InvalidTask: the pixel is not in the picture, or its ray never is at that height.
    """
    x, y = pixel
    if not (0 <= x < camera.width and 0 <= y < camera.height):  # NaN is neither
        raise InvalidTask(
            f"goal_point is at ({x:g}, {y:g}), outside the picture of {camera.name}: expected x "
            f"below {camera.width} and y below {camera.height}, from 0"
        )
    ray = camera.rotation @ [(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, 1.0]
    ahead = (height - camera.position[2]) / ray[2] if ray[2] else -1.0
    if ahead <= 0:
        raise InvalidTask(
            f"goal_point ({x:g}, {y:g}) of {camera.name} shows no place at a height of "
            f"{height:.3f} m, expected a point on what is there"
        )
    return np.array(camera.position) + ahead * ray
