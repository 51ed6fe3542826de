"""World-model node: predicts what the action in force leads to, and how surprising what came is."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from sensor_msgs.msg import Image

from jepa_robot.models import Bundle
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.nodes import messages, requests
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import COMMAND, DATA
from jepa_robot.nodes.runtime import BESIDE, main

KEPT_STATES = 8


class WorldModelNode(AgentNode):
    """Predicts from each state and its action; is surprised by each state that it predicted.

    Rolls out what an actor that plans elsewhere sends.
    """

    def __init__(self) -> None:
        super().__init__("world_model")

    def setup(self) -> None:
        self._prediction = self.publisher(Image, "prediction", DATA)
        self._surprise = self.publisher(Image, "surprise", DATA)
        self._rollouts = self.publisher(Image, requests.ROLLOUTS, COMMAND)
        self._states: OrderedDict[int, np.ndarray] = OrderedDict()
        self._actions: OrderedDict[int, np.ndarray] = OrderedDict()
        self._predicted: tuple[int, np.ndarray] | None = None
        self._step = int(1e9 * self.contract.rates.time_step)

    def build(self, bundle: Bundle) -> WorldModel:
        return WorldModel(bundle)

    def adopt(self, built: WorldModel) -> None:
        self._model = built

    def connect(self) -> None:
        self.subscribe(Image, "state", self._on_state, DATA)
        self.subscribe(Image, "action", self._on_action, DATA)
        self.subscribe(Image, requests.CANDIDATES, self._on_candidates, COMMAND)

    def _on_state(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        self.configure_for(stamp)
        state = messages.read_tensor(
            message, "state", self.bundle.state_size, frame_id=self.frame_of(stamp)
        )
        if self._predicted is not None:
            since, predicted = self._predicted
            if abs(stamp - since - self._step) < self._step // 2:
                surprise = np.array([[self._model.surprise(predicted, state)]], np.float32)
                self._surprise.publish(messages.tensor_message(surprise, stamp, self.bundle.id))
        self._remember(self._states, stamp, state)

    def _on_action(self, message: Image) -> None:
        stamp = messages.from_time(message.header.stamp)
        self.configure_for(stamp)
        action = messages.read_tensor(
            message, "action", self.bundle.action_size, frame_id=self.frame_of(stamp)
        )
        self._remember(self._actions, stamp, action)

    def _on_candidates(self, message: Image) -> None:
        states, actions = requests.read_candidates(message, self.bundle)
        rollouts = self._model.rollout(states, actions)
        self._rollouts.publish(requests.rollouts_message(states, rollouts, actions, message.header))

    def _remember(self, kept: OrderedDict, stamp: int, value: np.ndarray) -> None:
        kept[stamp] = value
        while len(kept) > KEPT_STATES:
            kept.popitem(last=False)
        if stamp in self._states and stamp in self._actions:
            predicted = self._model.predict(self._states[stamp], self._actions[stamp])
            self._predicted = (stamp, predicted)
            self._prediction.publish(
                messages.tensor_message(predicted, stamp, self.frame_of(stamp))
            )


def run() -> None:
    main(WorldModelNode, niceness=BESIDE)


if __name__ == "__main__":
    run()
