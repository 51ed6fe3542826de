"""Tasks as data: what is to be done, when it is done, and what helps where it does not go on."""

from __future__ import annotations

import dataclasses
import graphlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jepa_robot import resources
from jepa_robot.models import FLOAT32, PRECISIONS
from jepa_robot.modules.actor import (
    AUTO,
    LEAST_LIMIT,
    LONGEST_DEADLINE,
    MODE_2,
    MODES,
    REPLANNING,
    planner_config,
    switch_config,
)
from jepa_robot.modules.cost import InvalidConfiguration
from jepa_robot.robot.contract import MOST_WEIGHT
from jepa_robot.validation import InvalidFile, Section

SCHEMA = 1
LABELS = ("hand_position", "object_position")  # what a goal position can be of
ORDERS = ("given", "nearest")
LEVELS = (1, 2)
SAID = (
    *("name", "mode", "levels", "weights", "planner", "seed", "replan", "precision", "deadline"),
    "auto",
)
REPLAN, OTHER_PLANNER, LATER = REMEDIES = ("replan", "planner", "later")
GOALS = ("position", "latent", "image", "ago")
LONGEST = 3600.0  # s of anything that is waited for


class InvalidTask(InvalidFile):
    """A task or goal that cannot be taken up; the message names what was expected."""


@dataclass(frozen=True)
class Success:
    """When a goal is reached: within so much of it, for so many s on end.

    ``within`` is in m where the bundle reads positions, else a root mean square over latents.
    """

    within: float
    hold: float = 0.0


@dataclass(frozen=True)
class Patience:
    """What is done where the distance to the goal has not become ``least`` less for ``seconds``.

    One of the ``remedies`` after the other: ``replan`` begins the search anew from other random
    numbers, ``planner`` plans by the settings ``planner``, ``later`` goes for another subgoal
    first. When none is left the task fails.
    """

    seconds: float
    least: float = 0.005
    remedies: tuple[str, ...] = (REPLAN, LATER)
    planner: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Subgoal:
    """A part of a task, to be done after those that are named: a task without parts."""

    name: str
    after: tuple[str, ...]
    task: Task


@dataclass(frozen=True)
class Task:
    """A task as data. ``goal_position`` in m in the base frame; the goal may also be a latent.

    ``goal_label`` says what should be at the goal position: the hand, or the object.
    ``goal_image`` is a file that shows it, one picture a camera side by side; ``goal_ago`` is how
    it was so many s ago. Both become a latent or a position when the task is taken up.

    ``levels``: with 2 an upper level finds places on the way to the goal
    (`jepa_robot.modules.guide`). ``limit``: of actions, a share of the contract's. ``timeout``: s,
    0 for none.
    """

    name: str
    mode: int = MODE_2
    weights: dict[str, float] = field(default_factory=dict)
    planner: dict = field(default_factory=dict)
    seed: int = 0
    replan: str = REPLANNING[0]
    precision: str = FLOAT32
    deadline: float = 0.0
    auto: dict = field(default_factory=dict)
    levels: int = 1
    limit: float = 1.0
    success: Success | None = None
    timeout: float = 0.0
    patience: Patience | None = None
    order: str = ORDERS[0]
    subgoals: tuple[Subgoal, ...] = ()
    goal_position: tuple[float, ...] | None = None
    goal_latent: tuple[float, ...] | None = None
    goal_label: str = LABELS[0]
    goal_image: str = ""
    goal_ago: float = 0.0

    @property
    def goal(self) -> str:
        """``position``, ``image`` or ``none``; without a goal the arm holds."""
        if self.goal_position is not None:
            return "position"
        return "none" if self.goal_latent is None else "image"

    @property
    def parts(self) -> dict[str, Task]:
        """What is to be done, by name: the subgoals, or the whole."""
        return {part.name: part.task for part in self.subgoals} or {self.name: self}

    def each(self) -> Iterator[Task]:
        """Tasks with a goal of their own: the subgoals, or the whole."""
        return iter(self.parts.values())

    def with_each(self, tasks: Iterator[Task]) -> Task:
        """The same with others in the place of `each`."""
        if not self.subgoals:
            return next(tasks)
        parts = [dataclasses.replace(part, task=next(tasks)) for part in self.subgoals]
        return dataclasses.replace(self, subgoals=tuple(parts))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`from_dict` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Task:
        """The task that :meth:`to_dict` wrote."""
        known = dict(data)
        if known["success"] is not None:
            known["success"] = Success(**known["success"])
        if known["patience"] is not None:
            remedies = tuple(known["patience"]["remedies"])
            known["patience"] = Patience(**{**known["patience"], "remedies": remedies})
        known["subgoals"] = tuple(
            Subgoal(part["name"], tuple(part["after"]), cls.from_dict(part["task"]))
            for part in known["subgoals"]
        )
        return cls(**known)


def task_text(task: Task) -> str:
    """A task without subgoals, its success and its goal, as YAML, which :func:`load_task` reads."""
    plain = {name: getattr(task, name) for name in SAID}
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
        if section.value("schema", SCHEMA) != SCHEMA:
            raise section.fail("schema", f"{SCHEMA}, the task version that this release reads")
        return _read(section, Task(section.text("name")))
    except (OSError, InvalidFile, InvalidConfiguration) as error:
        raise InvalidTask(f"unknown or invalid task: {error}") from error


def _read(section: Section, base: Task, is_part: bool = False) -> Task:
    """A task; what is not said is as in another."""
    mode = section.value("mode", base.mode)
    mode = AUTO if mode == "auto" else section.integer("mode", base.mode)
    if mode not in MODES:
        raise section.fail("mode", f"one of {list(MODES)}, or auto")
    task = dataclasses.replace(
        base,
        mode=mode,
        weights=_weights(section, base),
        planner=_mapping(section, "planner", base.planner),
        seed=section.integer("seed", base.seed),
        replan=section.text("replan", base.replan, choices=REPLANNING),
        precision=section.text("precision", base.precision, choices=tuple(PRECISIONS)),
        deadline=section.number("deadline", base.deadline, low=0, high=LONGEST_DEADLINE),
        auto=_mapping(section, "auto", base.auto),
        levels=section.integer("levels", base.levels),
        limit=_limit(section, base),
        success=_success(section, base),
        timeout=section.number("timeout", base.timeout, low=0, high=LONGEST),
        patience=_patience(section, base),
    )
    if task.levels not in LEVELS:
        raise section.fail("levels", f"one of {list(LEVELS)}")
    planner_config(task.planner)
    switch_config(task.auto)
    task = _with_goal(section, task)
    if not is_part:
        order = section.text("order", base.order, choices=ORDERS)
        task = dataclasses.replace(task, order=order, subgoals=_subgoals(section, task))
    section.end()
    return task


def _mapping(section: Section, name: str, default: dict) -> dict:
    value = section.value(name, default)
    if not isinstance(value, dict):
        raise section.fail(name, "a mapping")
    return value


def _weights(section: Section, base: Task) -> dict[str, float]:
    if "weights" not in section:
        return base.weights
    weights = section.section("weights")
    read = {term: weights.number(term, low=0, high=MOST_WEIGHT) for term in weights}
    weights.end()
    return read


def _limit(section: Section, base: Task) -> float:
    limits = section.section("limits", {})
    limit = limits.number("action", base.limit, low=LEAST_LIMIT, high=1)
    limits.end()
    return limit


def _success(section: Section, base: Task) -> Success | None:
    if "success" not in section:
        return base.success
    success = section.section("success")
    within = success.number("within", low=1e-6, high=1e3)
    read = Success(within, success.number("hold", 0.0, low=0, high=LONGEST))
    success.end()
    return read


def _patience(section: Section, base: Task) -> Patience | None:
    if "patience" not in section:
        return base.patience
    patience = section.section("patience")
    remedies = patience.value("remedies", list(Patience.remedies))
    if not isinstance(remedies, list) or not set(map(str, remedies)) <= set(REMEDIES):
        raise patience.fail("remedies", f"a list of some of {', '.join(REMEDIES)}")
    planner = _mapping(patience, "planner", {})
    planner_config(planner)
    if OTHER_PLANNER in remedies and not planner:
        raise patience.fail("planner", f"the planner that the remedy {OTHER_PLANNER} takes")
    seconds = patience.number("seconds", low=0.1, high=LONGEST)
    least = patience.number("least", Patience.least, low=1e-6, high=1e3)
    patience.end()
    return Patience(seconds, least, tuple(remedies), planner)


def _with_goal(section: Section, task: Task) -> Task:
    goal = section.section("goal", {})
    said = [name for name in GOALS if name in goal]
    if len(said) > 1:
        raise goal.fail(said[1], f"it alone, or {said[0]}: a goal is given in one way")
    image = goal.text("image", "")
    if image:
        path = Path(section.source).parent / Path(image).expanduser()
        if not path.is_file():
            raise goal.fail("image", f"a file; there is none at {path}")
        image = str(path.resolve())
    task = dataclasses.replace(
        task,
        goal_position=goal.numbers("position", 3, None),
        goal_latent=goal.numbers("latent", None, None),
        goal_label=goal.text("label", task.goal_label, choices=LABELS),
        goal_image=image,
        goal_ago=goal.number("ago", 0.0, low=0, high=LONGEST),
    )
    goal.end()
    return task


def _subgoals(section: Section, whole: Task) -> tuple[Subgoal, ...]:
    """Parts of a task, in an order that is possible."""
    if "subgoals" not in section:
        return ()
    if any((whole.goal != "none", whole.goal_image, whole.goal_ago)):
        raise section.fail("goal", "no goal but for its label beside subgoals: they have theirs")
    parts: list[Subgoal] = []
    for part in section.sections("subgoals"):
        name = part.text("name")
        if name in (known.name for known in parts):
            raise part.fail("name", "a name that no other subgoal has")
        after = part.value("after", [])
        if not isinstance(after, list):
            raise part.fail("after", "a list of names of subgoals")
        task = _read(part, dataclasses.replace(whole, name=name), is_part=True)
        if not any((task.goal != "none", task.goal_image, task.goal_ago)):
            raise part.fail("goal", f"one of {', '.join(GOALS)}")
        if task.success is None:
            raise part.fail("success", "one, or the next subgoal would never come")
        parts.append(Subgoal(name, tuple(map(str, after)), task))
    names = [part.name for part in parts]
    for part, said in zip(parts, section.sections("subgoals"), strict=True):
        if not set(part.after) <= set(names):
            raise said.fail("after", f"some of {', '.join(names)}")
    try:
        graphlib.TopologicalSorter({part.name: part.after for part in parts}).prepare()
    except graphlib.CycleError as error:
        circle = " after ".join(reversed(error.args[1]))
        raise section.fail("subgoals", f"an order that is possible; {circle} is a circle") from None
    return tuple(parts)
