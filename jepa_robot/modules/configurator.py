"""Configurator: from a task and its goal to one configuration for every module."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import yaml

from jepa_robot import resources
from jepa_robot.models import FLOAT32, PRECISIONS, Bundle
from jepa_robot.modules.actor import (
    AUTO,
    LONGEST_DEADLINE,
    MODE_2,
    MODES,
    REPLANNING,
    planner_config,
    switch_config,
)
from jepa_robot.modules.cost import InvalidConfiguration, finite
from jepa_robot.modules.perception import Perception
from jepa_robot.robot.contract import MOST_WEIGHT, RobotContract
from jepa_robot.validation import InvalidFile, Section

SCHEMA = 1
LABELS = ("hand_position", "object_position")  # what a goal position can be of
MISREAD = 0.05  # m that an object in a goal image is seen out of reach by mistake
TABLE_DEPTH = 0.15  # m: objects lie lower than the hand goes by no more
PREPARED = -1  # an activation: not in force until it comes again
MODULES = ("perception", "world_model", "cost", "actor", "memory")


class InvalidTask(InvalidFile):
    """A task or goal that cannot be taken up; the message names what was expected."""


class OutOfReach(InvalidTask):
    """A goal that lies where the arm does not go, or was read there."""


@dataclass(frozen=True)
class Task:
    """A task as data. ``goal_position`` in m in the base frame; the goal may also be a latent.

    ``goal_label`` says what should be at the goal position: the hand, or the object.
    """

    name: str
    mode: int
    weights: dict[str, float]
    planner: dict
    seed: int = 0
    replan: str = REPLANNING[0]
    precision: str = FLOAT32
    deadline: float = 0.0
    auto: dict = field(default_factory=dict)
    goal_position: tuple[float, ...] | None = None
    goal_latent: tuple[float, ...] | None = None
    goal_label: str = LABELS[0]

    @property
    def goal(self) -> str:
        """``position``, ``image`` or ``none``; without a goal the arm holds."""
        if self.goal_position is not None:
            return "position"
        return "none" if self.goal_latent is None else "image"


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


def task_text(task: Task) -> str:
    """A task without its goal as YAML, which :func:`load_task` reads."""
    plain = {f.name: getattr(task, f.name) for f in fields(task) if not f.name.startswith("goal_")}
    return yaml.safe_dump({**plain, "goal": {"label": task.goal_label}})


def load_task(text: str) -> Task:
    """A task from its name (``config/tasks``), the path of a YAML file, or YAML itself.

    Raises:
        InvalidTask: no such task, or names the field, its value and what was expected.
    """
    try:
        if "\n" in text or ":" in text:
            section = Section.from_text(text, "task")
        else:
            section = Section.from_file(Path(resources.find("config/tasks", text, ".yaml")))
        return _read(section)
    except (OSError, InvalidFile, InvalidConfiguration) as error:
        raise InvalidTask(f"unknown or invalid task: {error}") from error


def _read(section: Section) -> Task:
    if section.value("schema", SCHEMA) != SCHEMA:
        raise section.fail("schema", f"{SCHEMA}, the task version that this release reads")
    mode = AUTO if section.value("mode", MODE_2) == "auto" else section.integer("mode", MODE_2)
    if mode not in MODES:
        raise section.fail("mode", f"one of {list(MODES)}, or auto")
    planner, auto = section.value("planner", {}), section.value("auto", {})
    for name, value in (("planner", planner), ("auto", auto)):
        if not isinstance(value, dict):
            raise section.fail(name, "a mapping")
    planner_config(planner)
    switch_config(auto)
    weights = section.section("weights", {})
    goal = section.section("goal", {})
    task = Task(
        name=section.text("name"),
        mode=mode,
        weights={term: weights.number(term, low=0, high=MOST_WEIGHT) for term in weights},
        planner=planner,
        seed=section.integer("seed", 0),
        replan=section.text("replan", REPLANNING[0], choices=REPLANNING),
        precision=section.text("precision", FLOAT32, choices=tuple(PRECISIONS)),
        deadline=section.number("deadline", 0.0, low=0, high=LONGEST_DEADLINE),
        auto=auto,
        goal_position=goal.numbers("position", 3, None),
        goal_label=goal.text("label", LABELS[0], choices=LABELS),
    )
    for part in (goal, weights, section):
        part.end()
    return task


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
        latent = self._perception.encode_goal(images)[0]
        if task.goal_label != LABELS[0] and self._bundle.reads_positions:
            seen = self._readout(latent=latent[None])[0]
            inside = np.clip(seen, *self._reach(task))
            near = np.abs(seen - inside).max() <= MISREAD
            return self.with_position(task, (inside if near else seen).tolist())
        return replace(task, goal_position=None, goal_latent=tuple(map(float, latent)))

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
                "goal_latent": latent,
            },
            "memory": {},
        }

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
