"""The upper level at work: what to ask the lower level for next, where a goal is far.

It plans over macro-actions, each of which asks for a place to which the lower level brings what the
goal is about, and takes most of a second (LeCun 2022, section 4.6). The first place that it
comes to is the subgoal that the lower level's cost then measures against; what came of that is seen
before the next is chosen, so what the lower level could not satisfy is planned around.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import Task
from jepa_robot.planning.cem import CEM, CEMConfig

UNIT = 0.1  # m from the goal that cost 1
OUTSIDE = 10.0  # what a unit costs by which a place that is asked for is out of reach
# What falls short of what was asked for by a unit costs that, squared. A network smears a wall:
# where asking seems to bring something half through it, this is told from what is really got.
SHORT = 32.0
NEAR = 0.03  # m from the goal, from where on it is asked for itself
SEARCH = {"candidates": 192, "iterations": 4, "elites": 20, "std": 0.8, "correlation": 0.5}
STRAIGHT = 16  # of the candidates, that go straight to the goal, more or less


@dataclass(frozen=True)
class Ahead:
    """``subgoal`` ``[G]`` (m), and ``path`` ``[P + 1, G]``: where it is expected to come to be."""

    subgoal: np.ndarray
    path: np.ndarray


class Guide:
    """Finds subgoals.

    Args:
        bundle: with an upper level.
        lower, upper: corners ``[3]`` (m) of where a subgoal may be.
        seed: the same seed and the same calls give the same subgoals.

    Raises:
        InvalidBundle: it has no upper level.
    """

    def __init__(
        self, bundle: Bundle, lower: Sequence[float], upper: Sequence[float], seed: int = 0
    ) -> None:
        self._session = bundle.session("upper")
        self.stride: int = bundle.manifest["upper_stride"]
        _, self._horizon, self._size = self._session.inputs["macros"]
        self._corners = np.array([lower, upper], np.float32)
        config = CEMConfig(horizon=self._horizon, seeds=STRAIGHT, answer="best", **SEARCH)
        self._planner = CEM(config, self._size, seed)

    def reset(self, seed: int) -> None:
        """Forget the last plan."""
        self._planner.reset(seed)

    def next(self, state: np.ndarray, goal: np.ndarray) -> Ahead:
        """What to ask for in a state ``[1, S]``, towards a goal ``[G]`` (m).

        Raises:
            ValueError: nothing that was imagined has a finite cost.
        """
        search = _Search(self._session, state, np.asarray(goal, np.float32), self._corners)
        best = self._planner.plan(search).actions
        places, asked = search.imagine(best[0][None])
        is_near = np.linalg.norm(places[0, 0] - goal) < NEAR
        subgoal = goal if is_near else np.clip(asked[0, 0], *self._corners)
        return Ahead(np.asarray(subgoal, np.float32), places[0])


class Levels:
    """A task whose goal is approached from subgoal to subgoal.

    Args:
        guide: finds them.
        task: with a goal position.
        step: ns between two observations.
    """

    def __init__(self, guide: Guide, task: Task, step: int) -> None:
        self._guide, self.task = guide, task
        self._period = guide.stride * step
        self._due = 0
        self.ahead: Ahead | None = None

    def observe(self, stamp: int, state: np.ndarray) -> Task | None:
        """The task for the lower level, where another subgoal is asked for; else None.

        Args:
            stamp: of the observation (ns).
            state: ``[1, S]``.
        """
        if self._due - self._period <= stamp < self._due:  # else it is due, or time was set back
            return None
        self._due = stamp + self._period
        self.ahead = self._guide.next(state, np.array(self.task.goal_position))
        return replace(self.task, goal_position=tuple(map(float, self.ahead.subgoal)))


class _Search:
    """The problem that the planner solves: macro-actions for actions."""

    starts, has_policy, has_gradients = 1, True, False

    def __init__(self, session, state: np.ndarray, goal: np.ndarray, corners: np.ndarray) -> None:
        self._session, self._state, self._goal, self._corners = session, state, goal, corners

    def imagine(self, macros: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places ``[N, P + 1, G]`` and what was asked for ``[N, P, G]`` of macros ``[N, P, G]``."""
        states = np.repeat(self._state, len(macros), axis=0)
        found = self._session.run(state=states, macros=macros)
        return found["places"], found["asked"]

    def costs(self, actions: np.ndarray) -> np.ndarray:
        places, asked = self.imagine(actions[0])
        away = np.linalg.norm(places[:, 1:] - self._goal, axis=-1) / UNIT
        outside = np.abs(asked - np.clip(asked, *self._corners)).sum(axis=-1) / UNIT
        short = np.square((places[:, 1:] - asked) / UNIT).sum(axis=-1).mean(axis=1)
        cost = away.mean(axis=1) + away[:, -1] + SHORT * short
        return (cost + OUTSIDE * outside.mean(axis=1))[None]

    def follow(self, noise: np.ndarray) -> np.ndarray:
        """Straight to the goal, with noise."""
        places, asked = self.imagine(np.ones_like(noise[0, :1]))
        reach = np.maximum(asked[0, 0] - places[0, 0], 1e-6)
        left, steps = self._goal - places[0, 0], []
        for _ in range(noise.shape[2]):
            steps.append(np.clip(left / reach, -1, 1))
            left = left - steps[-1] * reach
        return (np.array(steps, np.float32) + noise).astype(np.float32)
