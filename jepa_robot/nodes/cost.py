"""Cost node: each state's cost, term by term."""

from __future__ import annotations

import numpy as np
from sensor_msgs.msg import Image

from jepa_robot.models import Bundle
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.world_model import surprise_of
from jepa_robot.nodes import messages, requests
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import COMMAND, DATA, InvalidMessage
from jepa_robot.nodes.runtime import BESIDE, main


class CostNode(AgentNode):
    """Publishes the weighted terms ``[1, terms]``, in the order of `Bundle.terms`.

    Costs what the world model rolled out for an actor that plans elsewhere.
    """

    def __init__(self) -> None:
        super().__init__("cost")

    def setup(self) -> None:
        self._publisher = self.publisher(Image, "cost", DATA)
        self._answers = self.publisher(Image, requests.COSTS, COMMAND)
        self._step = int(1e9 * self.contract.rates.time_step)

    def build(self, bundle: Bundle) -> tuple[Cost, Cost]:
        """Of what is; and of plans, each under its configuration."""
        return Cost(bundle, self.contract), Cost(bundle, self.contract)

    def adopt(self, built: tuple[Cost, Cost]) -> None:
        self._cost, self._imagined = built
        self._last: tuple[int, np.ndarray] | None = None
        self._predicted = self._acted = (0, None)

    def connect(self) -> None:
        self.subscribe(Image, "state", self._on_state, DATA)
        self.subscribe(Image, "prediction", self._on_prediction, DATA)
        self.subscribe(Image, "action", self._on_action, DATA)
        self.subscribe(Image, requests.ROLLOUTS, self._on_rollouts, COMMAND)

    def parse(self, sections: dict, bundle: Bundle) -> CostConfig:
        return CostConfig.for_bundle(sections["cost"], bundle, self.contract)

    def apply(self, parsed: CostConfig) -> None:
        self._cost.configure(parsed)

    def _on_state(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        self.configure_for(stamp)
        state = messages.read_tensor(
            message, "state", self.bundle.state_size, frame_id=self.frame_of(stamp)
        )
        terms = self._cost.terms(state, **self._led_to(stamp, state))
        terms *= self._cost.config.weights
        self._last = (stamp, state)
        self._publisher.publish(messages.tensor_message(terms, stamp, self.frame_of(stamp)))

    def _on_prediction(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        predicted = messages.read_tensor(
            message, "prediction", self.bundle.state_size, frame_id=self.frame_of(stamp)
        )
        self._predicted = (stamp, predicted)

    def _on_action(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        action = messages.read_tensor(
            message, "action", self.bundle.action_size, frame_id=self.frame_of(stamp)
        )
        self._acted = (stamp, action)

    def _led_to(self, stamp: int, state: np.ndarray) -> dict:
        """What is known of how a state came: the one a step before, the action, the surprise."""
        if self._last is None or abs(stamp - self._last[0] - self._step) >= self._step // 2:
            return {}
        since, before = self._last
        known = {"before": before[0]}
        if self._acted[0] == since:
            known["actions"] = self._acted[1]
        if self._predicted[0] == since:
            known["surprise"] = surprise_of(self.bundle, self._predicted[1], state)
        return known

    def _on_rollouts(self, message: Image) -> None:
        request, starts, states, actions = requests.read_rollouts(message, self.bundle)
        if request.version not in self.parsed:
            raise InvalidMessage(
                f"rollouts are for configuration {request.version}, expected one of "
                f"{list(self.parsed)}"
            )
        self._imagined.configure(self.parsed[request.version])
        costs = self._imagined.steps(states, actions, starts)
        self._answers.publish(requests.costs_message(costs, message.header))


def run() -> None:
    main(CostNode, niceness=BESIDE)


if __name__ == "__main__":
    run()
