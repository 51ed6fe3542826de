"""What a robot was told and did: recorded by the fake robot, read by the judge."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ARRAYS = (
    "command_time",  # [n] s on the steady clock, when it was sent, by DDS
    "command_sender",  # [n] index into senders
    "command_number",  # [n] the sender's count of its commands: some may have been lost
    "command",  # [n, J] rad
    "echo_time",  # [k] s, when it was sent, by DDS
    "echo_stamp",  # [k] ns of the observation that it answers, 0 while the arm is held
    "echo_tick",  # [k] ns on the safety stage's ROS clock
    "echo",  # [k, 3, J] positions, velocities, accelerations
    "joints_time",  # [m] s, when they were sent
    "joints",  # [m, J] rad, as they truly are
    "image_time",  # [i] s, when images were sent
    "image_stamp",  # [i] ns
)
COUNTS = ("command_sender", "command_number", "echo_stamp", "echo_tick", "image_stamp")


@dataclass(frozen=True)
class Recording:
    """Arrays as :data:`ARRAYS` has them; ``senders`` are node names, ``events`` what was done."""

    arrays: dict[str, np.ndarray]
    senders: tuple[str, ...]
    events: tuple[dict, ...]

    def __getattr__(self, name: str) -> np.ndarray:
        try:
            return self.arrays[name]
        except KeyError as error:
            raise AttributeError(name) from error

    def event(self, kind: str) -> float | None:
        """When (s) something was first done."""
        return next((e["time"] for e in self.events if e["kind"] == kind), None)

    @classmethod
    def load(cls, path: Path) -> Recording:
        with np.load(path) as data:
            arrays = {name: data[name] for name in ARRAYS}
            about = json.loads(str(data["about"]))
        return cls(arrays, tuple(about["senders"]), tuple(about["events"]))


class Recorder:
    """Collects a recording."""

    def __init__(self, joints: int) -> None:
        self._joints = joints
        self.clear()

    def clear(self) -> None:
        self._rows: dict[str, list] = {name: [] for name in ARRAYS}
        self.senders: list[str] = []
        self.events: list[dict] = []

    def add(self, **values: object) -> None:
        for name, value in values.items():
            self._rows[name].append(value)

    def sender(self, name: str) -> int:
        """The index of a node's name."""
        if name not in self.senders:
            self.senders.append(name)
        return self.senders.index(name)

    def recording(self) -> Recording:
        shapes = {"command": (self._joints,), "echo": (3, self._joints), "joints": (self._joints,)}
        arrays = {}
        for name, rows in self._rows.items():
            is_count = name in COUNTS
            dtype = np.int64 if is_count else float
            arrays[name] = np.array(rows, dtype).reshape(len(rows), *shapes.get(name, ()))
        return Recording(arrays, tuple(self.senders), tuple(self.events))

    def save(self, path: Path) -> None:
        recording = self.recording()
        about = json.dumps({"senders": recording.senders, "events": recording.events})
        with path.open("wb") as stream:
            np.savez(stream, about=np.array(about), **recording.arrays)
