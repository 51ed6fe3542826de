"""What can be wrong with a robot: faults by name, and what they do to its messages."""

from __future__ import annotations

import array
import copy
import json
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState

from jepa_robot.nodes.messages import from_time, to_time

# Of images, of joint states, of the clock, of the command, and of messages in general.
KINDS = (
    *("camera_stopped", "camera_frozen", "camera_black", "camera_half", "camera_cut"),
    *("camera_size", "camera_swapped", "camera_late"),
    *("joints_stopped", "joints_late", "joints_missing", "joints_nan", "joints_jump"),
    *("joints_jumped", "joints_permuted"),
    *("clock_stopped", "clock_jump"),
    "controller_inactive",
    *("lost", "duplicated", "reordered", "delayed"),
)


class InvalidFault(ValueError):
    """A fault that cannot be injected; the message says what was expected."""


class Faults:
    """The faults in force. One is a dict with ``kind``, ``for`` (s), and what the kind needs.

    ``lost``, ``duplicated``, ``reordered`` and ``delayed`` name a ``topic`` and a ``share`` or a
    ``delay`` (s); ``clock_jump`` a ``jump`` (s); ``joints_jump`` and ``joints_jumped`` a ``joint``
    and a ``jump`` (rad).
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._until: list[tuple[float, dict]] = []
        self._late: dict[str, deque] = {}

    def begin(self, text: str, now: float) -> dict:
        """Put a fault (JSON) in force.

        Raises:
            InvalidFault: unknown kind, or no JSON.
        """
        try:
            fault = json.loads(text)
            until = now + float(fault["for"])
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidFault(f"fault is {text[:80]!r}, expected JSON with kind, for") from error
        if fault.get("kind") not in KINDS:
            raise InvalidFault(f"fault is {text[:80]!r}, expected a kind of {', '.join(KINDS)}")
        self._until.append((until, fault))
        return fault

    def expire(self, now: float) -> list[dict]:
        """End what is over; what that was."""
        over = [fault for until, fault in self._until if until <= now]
        self._until = [entry for entry in self._until if entry[0] > now]
        return over

    def get(self, kind: str, topic: str = "") -> dict | None:
        """The fault of a kind in force, if there is one."""
        for _, fault in self._until:
            if fault["kind"] == kind and fault.get("topic", "") == topic:
                return fault
        return None

    def deliver(self, topic: str, message: Any, now: float) -> Iterator[Any]:
        """What comes out of a bad network for a message that goes in, and what is due by now."""
        late = self._late.setdefault(topic, deque())
        lost, doubled = self.get("lost", topic), self.get("duplicated", topic)
        swapped, delayed = self.get("reordered", topic), self.get("delayed", topic)
        if not (lost and self._rng.uniform() < lost["share"]):
            delay = delayed["delay"] if delayed else 0.0
            if swapped and self._rng.uniform() < swapped["share"]:
                delay += swapped.get("delay", 0.06)
            if delay:
                late.append((now + delay, message))
            else:
                yield message
                if doubled and self._rng.uniform() < doubled["share"]:
                    yield message
        while late and late[0][0] <= now:
            yield late.popleft()[1]

    def spoil_joints(self, message: JointState) -> JointState | None:
        """Joint states as a broken driver sends them; None for nothing."""
        if self.get("joints_stopped"):
            return None
        if self.get("joints_late"):
            message.header.stamp = to_time(from_time(message.header.stamp) - 2_000_000_000)
        if self.get("joints_missing"):
            for field in ("name", "position", "velocity"):
                setattr(message, field, getattr(message, field)[:-1])
        if self.get("joints_nan"):
            message.position[2] = float("nan")
        if fault := self.get("joints_jumped"):
            message.position[fault["joint"]] += fault["jump"]
        if (fault := self.get("joints_jump")) and self._rng.uniform() < 0.1:
            message.position[fault["joint"]] += fault["jump"]
        if self.get("joints_permuted"):
            order = self._rng.permutation(len(message.name))
            message.name = [message.name[i] for i in order]
            for field in ("position", "velocity"):
                values = np.array(getattr(message, field))[order]
                setattr(message, field, array.array("d", values.tobytes()))
        return message

    def spoil_images(self, images: list[Image]) -> list[Image]:
        """The cameras' images as broken ones send them."""
        if self.get("camera_stopped"):
            return []
        if frozen := self.get("camera_frozen"):
            kept = frozen.setdefault("kept", [copy.copy(image.data) for image in images])
            for image, data in zip(images, kept, strict=True):
                image.data = data
        if self.get("camera_swapped"):
            datas = [image.data for image in images]
            for image, data in zip(images, datas[1:] + datas[:1], strict=True):
                image.data = data
        for image in images:
            self._spoil_image(image)
        return images

    def _spoil_image(self, image: Image) -> None:
        size = len(image.data)
        if self.get("camera_black"):
            image.data = array.array("B", bytes(size))
        if self.get("camera_half"):
            image.data = image.data[: size // 2] + array.array("B", bytes(size - size // 2))
        if self.get("camera_cut"):
            image.data = image.data[: size // 2]
        if self.get("camera_size"):
            image.height //= 2
            image.data = image.data[: image.step * image.height]
        if self.get("camera_late"):
            image.header.stamp = to_time(from_time(image.header.stamp) - 2_000_000_000)
