"""A stop that outlives its process, and the right to be a robot's only safety stage."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from jepa_robot.files import IsLocked, lock, write_atomically


class RobotIsTaken(RuntimeError):
    """Another safety stage on this machine drives the same robot."""


class Latch:
    """One file a robot, ROS domain and namespace, below ``ROS_HOME``.

    Raises:
        RobotIsTaken: another process holds it. The lock goes with its process, however that ends.
        OSError: the folder cannot be written.
    """

    def __init__(self, robot: str, namespace: str, file: str = "") -> None:
        default = state_file(robot, namespace, "stopped")
        self.path = Path(file).expanduser() if file else default
        self.path.parent.mkdir(parents=True, exist_ok=True)
        place = self.path.with_suffix(".lock")
        try:
            self._lock = lock(place)
        except IsLocked as error:
            raise RobotIsTaken(
                f"{place}: process {error.holder} is the safety stage of {robot}, expected none"
            ) from error

    def read(self) -> str:
        """The reason of a latched stop; empty without one."""
        if not self.path.is_file():
            return ""
        return self.path.read_text(encoding="utf-8") or "stop_requested"

    def write(self, reason: str) -> None:
        write_atomically(self.path, reason)

    def clear(self) -> None:
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._lock.close()


def state_file(robot: str, namespace: str, kind: str) -> Path:
    """What outlives a process: one file a robot, ROS domain, namespace and kind."""
    home = Path(os.environ.get("ROS_HOME", "~/.ros")).expanduser()
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    name = "_".join([robot, domain, *namespace.split("/")[1:]]).rstrip("_")
    return home / "jepa_robot" / f"{name}.{kind}"
