"""One trial of a task, with everything that is random about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jepa_robot_sim.scenes import AS_IS, Variation

HAND, OBJECT, GRIPPER = "hand_position", "object_position", "gripper_opening"  # labels
ARRAYS = ("start", "goal", "goal_joints", "object_start", "object_goal", "wall")


@dataclass(frozen=True)
class Episode:
    """One trial.

    Attributes:
        start: joint positions ``[J]`` (rad).
        goal: ``[3]`` (m), where what the task names should be: the hand for reach, else the object.
        goal_joints: ``[J]`` (rad): the arm in the goal picture.
        object_start: the middle of the object ``[3]`` (m); None where there is none.
        object_goal: the middle of the object in the goal picture ``[3]`` (m).
        wall: ``[3]``: x, y (m) and yaw (rad) of the wall; None without one.
        variation: what differs from the nominal scene.
    """

    start: np.ndarray
    goal: np.ndarray
    goal_joints: np.ndarray
    object_start: np.ndarray | None = None
    object_goal: np.ndarray | None = None
    wall: np.ndarray | None = None
    variation: Variation = AS_IS

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which :meth:`from_dict` reads to the bit."""
        values = {name: getattr(self, name) for name in ARRAYS}
        plain = {name: None if v is None else np.asarray(v).tolist() for name, v in values.items()}
        return {**plain, "variation": self.variation.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Episode:
        """The episode that :meth:`to_dict` wrote."""
        arrays = {
            name: None if data.get(name) is None else np.array(data[name], float) for name in ARRAYS
        }
        return cls(**arrays, variation=Variation.from_dict(data.get("variation") or {}))
