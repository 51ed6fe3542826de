"""Tasks whose goals are how it was some time ago: they wait for memory to tell."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from sensor_msgs.msg import Image

from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import InvalidTask, Task
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import COMMAND

if TYPE_CHECKING:
    from jepa_robot.nodes.configurator import ConfiguratorNode

TIMEOUT = 1.0  # s, for memory to tell how it was
AWAY = 1.0  # s that what memory tells may be from when was asked for


class Recalling:
    """Asks memory how it was for the one task that waits for that.

    Args:
        node: asks on the topic ``recall_ago``.
    """

    def __init__(self, node: ConfiguratorNode) -> None:
        self._node = node
        self._publisher = node.publisher(Image, "recall_ago", COMMAND)
        self._task: Task | None = None
        self._ages: tuple[float, ...] = ()
        self._asked, self._until = 0, 0.0

    def forget(self) -> None:
        """Nothing waits any more."""
        self._task = None

    def ask(self, task: Task, ages: Sequence[float], bundle: Bundle) -> None:
        """Ask how it was so many s ago each, for the goals of a task."""
        self._asked += 1
        self._task, self._ages = task, tuple(ages)
        self._until = time.monotonic() + TIMEOUT
        rows = np.array(ages, np.float32)[:, None]
        frame = f"{bundle.id}#{self._request}"
        self._publisher.publish(messages.tensor_message(rows, self._node.now(), frame))

    def answer(self, message: Image, bundle: Bundle) -> tuple[Task, np.ndarray] | None:
        """The task that waited, and latents ``[n, D]`` for its goals; None if nothing waited.

        Raises:
            InvalidTask: what memory has is not from then.
        """
        task = self._task
        if task is None or message.header.frame_id.partition("#")[2] != self._request:
            return None
        self._task = None
        rows = messages.read_tensor(message, "recalled", message.width, len(self._ages))
        for wanted, age in zip(self._ages, rows[:, 1], strict=True):
            if abs(wanted - age) > AWAY:
                raise InvalidTask(
                    f"goal.ago is {wanted:g} s, and the nearest that memory has is {age:.1f} s ago"
                )
        return task, bundle.latent(rows[:, 3 : 3 + bundle.state_size])

    def overdue(self) -> InvalidTask | None:
        """What is wrong, where memory should have told by now."""
        if self._task is None or time.monotonic() <= self._until:
            return None
        self._task = None
        ages = ", ".join(f"{age:g}" for age in self._ages)
        return InvalidTask(
            f"memory did not tell in {TIMEOUT:g} s how it was {ages} s ago: expected something to "
            "be remembered"
        )

    @property
    def _request(self) -> str:
        return f"{self._node.get_name()}.{self._asked}"
