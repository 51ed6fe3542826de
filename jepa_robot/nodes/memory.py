"""Memory node: keeps the last steps and saves them on request."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from jepa_robot.modules.memory import Memory
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import DATA
from jepa_robot.nodes.runtime import BESIDE, main


class MemoryNode(AgentNode):
    """Stores what the other nodes publish, step by step; ``~/save`` writes it to a file."""

    def __init__(self) -> None:
        super().__init__("memory")
        self.declare_parameter("capacity", 20_000)
        self.declare_parameter("file", "runs/memory.npz")
        self._memory: Memory | None = None
        self.create_service(Trigger, "~/save", self._on_save)

    def setup(self) -> None:
        self._memory = Memory(self.parameter("capacity"))

    def connect(self) -> None:
        state_size = self.bundle.state_size
        sizes = {
            "state": state_size,
            "action": self.bundle.action_size,
            "cost": len(self.bundle.terms),
            "prediction": state_size,
            "surprise": 1,
        }
        for field, size in sizes.items():
            self.subscribe(Image, field, partial(self._on_field, field, size), DATA)

    def parse(self, sections: dict) -> dict:
        return sections["memory"]

    def apply(self, parsed: dict) -> None:
        self._memory.begin_episode(self.version)

    def _on_field(self, field: str, size: int, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        value = messages.read_tensor(message, field, size, frame_id=self.bundle.id)
        if field == "state":
            self.configure_for(stamp)
        self._memory.store(stamp, field, value)
        self.diagnostics.values["steps"] = len(self._memory)

    def _on_save(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        file = Path(self.parameter("file")).expanduser().resolve()
        if self._memory is None:
            response.message = "nothing is remembered yet, expected a configured node"
            return response
        try:
            count = self._memory.save(file)
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
