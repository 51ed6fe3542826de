"""The task in force, kept for a configurator that takes the place of one that died."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

from jepa_robot.files import write_atomically
from jepa_robot.graph import SESSION
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import Task
from jepa_robot.nodes.latch import state_file


class Resumption:
    """One file a robot, ROS domain and namespace. Without a session nothing is kept.

    A goal is only taken up again in the session in which it was given: an agent that is started
    anew does not move.
    """

    def __init__(self, robot: str, namespace: str) -> None:
        self._session = os.environ.get(SESSION, "")
        self.path = state_file(robot, namespace, "task")

    def read(self, space: str) -> tuple[Task, int, str, list[str]] | None:
        """The task, its configuration's version, the bundle's folder, and what was done of it.

        None if there is nothing to resume in a latent space.
        """
        if not self._session:
            return None
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            if (kept["session"], kept["space"]) != (self._session, space):
                return None
            done = [str(name) for name in kept["done"]]
            return Task.from_dict(kept["task"]), int(kept["version"]), str(kept["path"]), done
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, task: Task, done: Sequence[str], version: int, bundle: Bundle) -> None:
        """Keep a task, and the names of what was done of it.

        Raises:
            OSError: the folder cannot be written.
        """
        if not self._session:
            return
        kept = {
            "session": self._session,
            "space": bundle.space,
            "path": str(bundle.path.resolve()),
            "version": version,
            "done": list(done),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps({**kept, "task": task.to_dict()}))

    def clear(self) -> None:
        """An end on purpose: nothing is to be resumed."""
        if self._session:
            self.path.unlink(missing_ok=True)
