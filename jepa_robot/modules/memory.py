"""Short-term memory: the last states, actions, costs, predictions and surprises, by stamp."""

from __future__ import annotations

import io
from collections import OrderedDict
from pathlib import Path

import numpy as np

from jepa_robot.files import write_atomically

FIELDS = ("state", "action", "cost", "prediction", "surprise")
NOT_PREDICTED = np.full(1, np.nan, np.float32)


class Memory:
    """Keeps the last ``capacity`` steps. Rows arrive field by field and meet by their stamp.

    Args:
        capacity: steps kept; older ones are forgotten.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"memory.capacity is {capacity}, expected at least 1")
        self.capacity = capacity
        self._steps: OrderedDict[int, dict[str, np.ndarray | int]] = OrderedDict()
        self.episode = 0

    def __len__(self) -> int:
        return len(self._steps)

    def begin_episode(self, episode: int) -> None:
        """Steps stored from now on belong to ``episode``."""
        self.episode = episode

    def store(self, stamp: int, field: str, value: np.ndarray) -> None:
        """Store one field ``[1, n]`` of the step observed at ``stamp`` (ns)."""
        if field not in FIELDS:
            raise ValueError(f"field is {field!r}, expected one of {list(FIELDS)}")
        step = self._steps.setdefault(stamp, {"episode": self.episode})
        step[field] = np.array(value[0], np.float32)
        while len(self._steps) > self.capacity:
            self._steps.popitem(last=False)

    def steps(self) -> dict[str, np.ndarray]:
        """The complete steps, oldest first: ``stamp`` [n], ``episode`` [n], each field [n, ...].

        The first step of an episode was not predicted: its surprise is NaN.
        """
        needed = set(FIELDS) - {"surprise"}
        complete = [(s, row) for s, row in sorted(self._steps.items()) if needed <= set(row)]
        result = {"stamp": np.array([stamp for stamp, _ in complete], np.int64)}
        result["episode"] = np.array([row["episode"] for _, row in complete], np.int64)
        for field in FIELDS:
            rows = [row.get(field, NOT_PREDICTED) for _, row in complete]
            result[field] = np.stack(rows) if rows else np.zeros((0, 0), np.float32)
        return result

    def save(self, path: Path) -> int:
        """Write the complete steps as .npz, all or nothing; returns how many."""
        steps = self.steps()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return len(steps["stamp"])
