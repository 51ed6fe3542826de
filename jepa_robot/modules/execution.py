"""Carries a task out: one subgoal after the other, progress watched, and an end with a reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from jepa_robot.modules.actor import MODE_2, OFF
from jepa_robot.modules.tasks import LATER, ORDERS, OTHER_PLANNER, REPLAN, Task

RUNNING, PAUSED, SUCCEEDED, FAILED, CANCELLED = STATES = (
    "running",
    "paused",
    "succeeded",
    "failed",
    "cancelled",
)
CONTROLS = ("start", "pause", "resume", "cancel")  # of a task, by who gave it
LONGEST_STEP = int(1e9)  # ns between two observations, beyond which time is not counted
Distance = Callable[[Task], float | None]  # from where things are to a goal; None without one


class Execution:
    """A task under way.

    ``in_force`` is what the modules are to be configured for. Time is that of the observations
    that it is told of: while the arm is held, or nothing is seen, no time passes.

    Args:
        task: with goals that are positions or latents.
        done: names of subgoals that were done before.
    """

    def __init__(self, task: Task, done: Iterable[str] = ()) -> None:
        self.task, self._parts = task, task.parts
        self.done = [name for name in done if name in self._parts]
        self.state, self.reason = RUNNING, ""
        self._later: list[str] = []
        self._stamp = 0  # ns, of the last observation
        self._begin(self._possible()[0])

    @property
    def in_force(self) -> Task:
        """The part that is under way, with what its remedies changed; off where it is not."""
        task = self._changed
        return task if self.state == RUNNING else replace(task, mode=OFF)

    @property
    def subgoal(self) -> str:
        return self._name

    def report(self) -> Mapping[str, Any]:
        """How it stands: plain values."""
        return {
            "task": self.task.name,
            "state": self.state,
            "subgoal": self._name if self.task.subgoals else "",
            "done": list(self.done),
            "left": [name for name in self._parts if name not in self.done],
            "distance": None if self._distance is None else round(self._distance, 3),
            "seconds": round(self._clock, 1),
            "tried": list(self._tried),
            "reason": self.reason,
        }

    def change(self, task: Task) -> None:
        """Go on with the same parts, changed; what is paused or over stays so."""
        self.task, self._parts = task, task.parts
        self._changed = self._parts[self._name]

    def pause(self) -> bool:
        """Hold; whether that changed anything."""
        return self._go_over(RUNNING, PAUSED)

    def resume(self) -> bool:
        """Go on after a pause; whether that changed anything."""
        self._stamp = 0
        return self._go_over(PAUSED, RUNNING)

    def cancel(self) -> bool:
        """Give up because somebody wants it; whether that changed anything."""
        return self._go_over(RUNNING, CANCELLED) or self._go_over(PAUSED, CANCELLED)

    def observe(self, stamp: int, distance: Distance, is_held: bool = False) -> bool:
        """Take note of an observation at ``stamp`` (ns); whether ``in_force`` is another now.

        Args:
            stamp: of the observation.
            distance: from what was observed to the goal of a part.
            is_held: whether the arm is kept from moving: no time passes.
        """
        if self.state != RUNNING:
            return False
        passed = stamp - self._stamp if self._stamp else 0
        self._stamp = stamp
        if self._distance is None and self._choose(distance):
            return True
        task = self._changed
        self._distance = distance(task)
        if self._distance is None:
            return False
        if 0 < passed <= LONGEST_STEP and not is_held:
            self._clock += 1e-9 * passed
        if self._distance < self._best - (task.patience.least if task.patience else 0):
            self._best, self._improved = self._distance, self._clock
        if task.success is not None and self._distance <= task.success.within:
            self._improved = self._clock
            if self._near_since is None:
                self._near_since = self._clock
            return self._clock - self._near_since >= task.success.hold and self._succeed(distance)
        self._near_since = None
        if task.timeout and self._clock >= task.timeout:
            return self._fail(f"was not done within {task.timeout:g} s")
        if task.patience and self._clock - self._improved >= task.patience.seconds:
            return self._help(task, distance)
        return False

    def _begin(self, name: str) -> None:
        self._name = name
        self._changed = self._parts[name]
        self._clock = self._improved = 0.0  # s of this part
        self._distance: float | None = None
        self._best = float("inf")
        self._near_since: float | None = None
        self._tried: list[str] = []

    def _possible(self) -> list[str]:
        """Parts that can be next, those that were put off last."""
        after = {part.name: set(part.after) for part in self.task.subgoals}
        names = [
            name
            for name in self._parts
            if name not in self.done and after.get(name, set()) <= set(self.done)
        ]
        return sorted(names, key=lambda name: name in self._later) or [next(iter(self._parts))]

    def _choose(self, distance: Distance) -> bool:
        """Where that is asked for, go for the nearest that can be next; whether it is another."""
        if self.task.order != ORDERS[1]:
            return False
        possible = self._possible()
        fresh = [name for name in possible if name not in self._later] or possible
        nearest = min(fresh, key=lambda name: distance(self._parts[name]) or 0.0)
        if nearest == self._name:
            return False
        self._begin(nearest)
        return True

    def _succeed(self, distance: Distance) -> bool:
        self.done.append(self._name)
        if len(self.done) == len(self._parts):
            self.state = SUCCEEDED
        else:
            self._begin(self._possible()[0])
            self._choose(distance)
        return True

    def _help(self, task: Task, distance: Distance) -> bool:
        """The next remedy that there is; else it has failed."""
        self._improved, self._best = self._clock, self._distance
        others = [name for name in self._possible() if name not in (*self._later, self._name)]
        for remedy in task.patience.remedies:
            if remedy in self._tried or (remedy == LATER and not others):
                continue
            self._tried.append(remedy)
            if remedy == REPLAN:
                self._changed = replace(self._changed, seed=self._changed.seed + 1)
            elif remedy == OTHER_PLANNER:
                self._changed = replace(self._changed, planner=task.patience.planner, mode=MODE_2)
            else:
                self._later.append(self._name)
                self._begin(others[0])
                self._choose(distance)
            return True
        return self._fail(f"made no progress for {task.patience.seconds:g} s")

    def _fail(self, why: str) -> bool:
        tried = f", after {', '.join(self._tried)}" if self._tried else ""
        self.state = FAILED
        self.reason = f"{self._name} {why}, at a distance of {self._distance:.3g}{tried}"
        return True

    def _go_over(self, before: str, after: str) -> bool:
        if self.state != before:
            return False
        self.state = after
        return True
