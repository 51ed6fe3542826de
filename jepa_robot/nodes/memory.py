"""Memory node: keeps the steps that were lived through, in RAM and on disk, and looks them up."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

import numpy as np
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from jepa_robot.models import Bundle
from jepa_robot.modules.memory import FIELDS, Memory
from jepa_robot.modules.memory_files import MemoryFiles, MemoryTaken, read_memory, write_memory
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.latch import state_file
from jepa_robot.nodes.messages import COMMAND, DATA
from jepa_robot.nodes.runtime import BESIDE, STEADY, main

SPILLED = 0.5  # s, between what is written to disk; who is killed loses no more than twice that
RESTORED = 10_000  # steps that are taken up from the disk at most, as that takes time
MEBI = 1 << 20


class MemoryNode(AgentNode):
    """Stores what the other nodes publish, step by step.

    ``recall`` [N, S] is answered by ``recalled`` [N k, 3 + H (S + A)]: for each state the k steps
    most like it, nearest first, each with its distance, its age (s), how many steps are known from
    it on, and H of those: state and action, zeros where there are fewer. ``recall_ago`` [N, 1] is
    answered likewise, [N, ...], by the steps that were so many s ago (distance 0). ``~/save``
    writes what is in RAM into one file.
    """

    def __init__(self) -> None:
        super().__init__("memory")
        self.declare_parameter("capacity", 100_000)
        self.declare_parameter("file", "runs/memory.h5")
        self.declare_parameter("folder", "")
        self.declare_parameter("disk_limit", 512.0)
        self.declare_parameter("neighbours", 10)
        self.declare_parameter("following", 8)
        self._memory: Memory | None = None
        self._files: MemoryFiles | None = None
        self._spilled = 0  # steps that are on disk, or that no disk takes
        self.create_service(Trigger, "~/save", self._on_save)

    def setup(self) -> None:
        bundle = self.bundle
        widths = {
            "action": bundle.action_size,
            "cost": len(bundle.terms),
            "surprise": 1,
        }
        self._sizes = {**dict.fromkeys(FIELDS, bundle.state_size), **widths}
        step = self.contract.rates.time_step
        self._memory = Memory(self.parameter("capacity"), self._sizes, step)
        self._recalled = self.publisher(Image, "recalled", DATA)
        self._open_files()
        timer = self.create_timer(SPILLED, self._spill, clock=STEADY)
        self._made.append((self.destroy_timer, timer))

    def connect(self) -> None:
        for field, size in self._sizes.items():
            self.subscribe(Image, field, partial(self._on_field, field, size), DATA)
        self.subscribe(Image, "recall", self._on_recall, COMMAND)
        self.subscribe(Image, "recall_ago", self._on_recall_ago, COMMAND)

    def _close(self, files: MemoryFiles) -> None:
        files.close()
        self._files = None

    def disconnect(self) -> None:
        if self._memory is not None:
            self._memory.flush()
            with contextlib.suppress(OSError):  # of which nobody listens any more
                self._write()

    def parse(self, sections: dict, bundle: Bundle) -> dict:
        return sections["memory"]

    def _open_files(self) -> None:
        """Go on where the disk was left; without one where there is none to be had."""
        self._files, limit = None, int(MEBI * self.parameter("disk_limit"))
        if limit <= 0:
            return
        known = self.parameter("folder")
        default = state_file(self.contract.name, self.get_namespace(), "memory")
        folder = (Path(known).expanduser() if known else default) / self.bundle.space
        try:
            self._files = MemoryFiles(folder, self.bundle, limit)
        except (MemoryTaken, OSError) as error:
            self.diagnostics.warn(f"what is remembered stays in RAM: {error}")
            return
        self._made.append((self._close, self._files))
        found = read_memory(folder, self.bundle, min(RESTORED, self._memory.capacity))
        for problem in found.problems:
            self.get_logger().warning(f"left out: {problem}")
        self.diagnostics.values |= {"folder": str(folder), "files_left_out": len(found.problems)}
        self._memory.restore(found.episodes)
        self._spilled = self._memory.came

    def _spill(self) -> None:
        try:
            self._write()
        except OSError as error:
            self.diagnostics.warn(f"{self._files.folder} could not be written: {error.strerror}")

    def _write(self) -> None:
        """Put on disk what is not there yet."""
        if self._files is None:
            return
        steps = self._memory.steps(since=self._spilled)
        if not len(steps["stamp"]) and not self._files.is_behind:
            return
        self._spilled = self._memory.came
        self._files.add(steps)

    def _on_field(self, field: str, size: int, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        version = self.version
        self.configure_for(stamp)
        if self.version != version:
            self._memory.begin_episode(stamp)
        value = messages.read_tensor(message, field, size, frame_id=self.frame_of(stamp))
        self._memory.store(stamp, field, value)
        memory = self._memory
        self.diagnostics.values |= {
            "steps": len(memory),
            "steps_incomplete": memory.incomplete,
            "gaps": memory.gaps,
        }

    def _on_recall(self, message: Image) -> None:
        states = messages.read_tensor(message, "recall", self.bundle.state_size, None)
        rows, distances = self._memory.recall(states, self.parameter("neighbours"))
        if not rows.size:
            raise messages.InvalidMessage("recall finds nothing, expected steps in memory")
        self._tell(message, rows.ravel(), distances.ravel())

    def _on_recall_ago(self, message: Image) -> None:
        ages = messages.read_tensor(message, "recall_ago", 1, None)[:, 0]
        rows = self._memory.at_ages(ages)
        if not rows.size:
            raise messages.InvalidMessage("recall_ago finds nothing, expected steps in memory")
        self._tell(message, rows, np.zeros(len(rows)))

    def _tell(self, message: Image, rows: np.ndarray, distances: np.ndarray) -> None:
        """Answer with the steps of rows ``[N]``."""
        memory = self._memory
        known = np.column_stack([rows, memory.follow(rows, self.parameter("following") - 1)])
        steps = memory.at(np.maximum(known, 0))
        seen = np.concatenate([steps["state"], steps["action"]], axis=2) * (known >= 0)[..., None]
        ages = 1e-9 * (memory.newest - steps["stamp"][:, 0])
        about = np.column_stack([distances, ages, (known >= 0).sum(axis=1)])
        answer = np.concatenate([about, seen.reshape(len(rows), -1)], axis=1)
        stamp = messages.from_time(message.header.stamp)
        self._recalled.publish(messages.tensor_message(answer, stamp, message.header.frame_id))

    def _on_save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        file = Path(self.parameter("file")).expanduser().resolve()
        if self._memory is None:
            response.message = "nothing is remembered yet, expected a configured node"
            return response
        try:
            count = write_memory(file, self.bundle, self._memory.steps())
        except OSError as error:
            response.message = f"{file} could not be written: {error.strerror}"
            self.diagnostics.error(response.message)
            return response
        response.success, response.message = True, f"{count} steps written to {file}"
        return response


def run() -> None:
    main(MemoryNode, niceness=BESIDE)


if __name__ == "__main__":
    run()
