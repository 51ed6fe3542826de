"""Mode-2 spread over processes: candidates go out, rollouts go on, what they cost comes back.

===============  ==============  =====================================================
topic            tensor          a row, of one candidate
===============  ==============  =====================================================
candidates       [N, S + H A]    the state it starts from, then its actions
rollouts         [N, S + H (S +  the state it starts from, then step by step the imagined state
                 A)]             after the action that led there
candidate_costs  [N, H]          what each step costs, its terms weighted
===============  ==============  =====================================================

Who answers keeps nothing: rollouts have all that the cost node needs, but for goal and weights,
which are those of the configuration that the request names. The stamp is that of the
observation planned from; ``frame_id`` is ``bundle#request``.
"""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass

import numpy as np
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from jepa_robot.models import Bundle
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import COMMAND, DATA, InvalidMessage

CANDIDATES, ROLLOUTS, COSTS = "candidates", "rollouts", "candidate_costs"
LOCKSTEP_TIMEOUT = 10.0  # s: a node that died is back by then
AGAIN = 1.0  # s: a message to a node that is only just being found may be lost
PAUSE, LONGEST_PAUSE = 0.1, 8.0  # s: how long nobody is asked after no answer came


@dataclass(frozen=True)
class Request:
    """``version.asker.number``: of the configuration, the process that asks, and its requests."""

    version: int
    asker: str
    number: int

    def __str__(self) -> str:
        return f"{self.version}.{self.asker}.{self.number}"


def read_request(message: Image, topic: str, bundle: Bundle) -> Request:
    """The request that a message belongs to.

    Raises:
        InvalidMessage: it is of another bundle, or of no request.
    """
    of, _, text = message.header.frame_id.partition("#")
    if of != bundle.id:
        raise InvalidMessage(f"{topic} is of bundle {of!r}, expected {bundle.id!r}")
    version, _, rest = text.partition(".")
    asker, _, number = rest.partition(".")
    if not (version.isdecimal() and asker and number.isdecimal()):
        raise InvalidMessage(f"{topic} is of request {text!r}, expected version.asker.number")
    return Request(int(version), asker, int(number))


def candidates_message(
    states: np.ndarray, actions: np.ndarray, stamp: int, bundle: Bundle, request: Request
) -> Image:
    """Start states ``[N, S]`` and actions ``[N, H, A]``."""
    rows = np.concatenate([states, actions.reshape(len(actions), -1)], axis=1)
    return messages.tensor_message(rows, stamp, f"{bundle.id}#{request}")


def read_candidates(message: Image, bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    """Start states ``[N, S]`` and actions ``[N, H, A]``.

    Raises:
        InvalidMessage: another bundle, no request, another size, or not finite.
    """
    read_request(message, CANDIDATES, bundle)
    states, actions = bundle.state_size, bundle.action_size
    horizon = max((message.width - states) // actions, 1)
    rows = messages.read_tensor(message, CANDIDATES, states + horizon * actions, None)
    return rows[:, :states], rows[:, states:].reshape(-1, horizon, actions)


def rollouts_message(
    starts: np.ndarray, states: np.ndarray, actions: np.ndarray, header: Header
) -> Image:
    """From ``[N, S]``, states ``[N, H, S]`` after actions ``[N, H, A]``, answering a header."""
    steps = np.concatenate([states, actions], axis=2).reshape(len(states), -1)
    rows = np.concatenate([starts, steps], axis=1)
    return messages.tensor_message(rows, messages.from_time(header.stamp), header.frame_id)


def read_rollouts(
    message: Image, bundle: Bundle
) -> tuple[Request, np.ndarray, np.ndarray, np.ndarray]:
    """The request, starts ``[N, S]``, states ``[N, H, S]`` and actions ``[N, H, A]`` to there.

    Raises:
        InvalidMessage: another bundle, no request, another size, or not finite.
    """
    request = read_request(message, ROLLOUTS, bundle)
    width = bundle.state_size + bundle.action_size
    size = bundle.state_size
    horizon = max((message.width - size) // width, 1)
    rows = messages.read_tensor(message, ROLLOUTS, size + horizon * width, None)
    steps = rows[:, size:].reshape(-1, horizon, width)
    return request, rows[:, :size], steps[..., :size], steps[..., size:]


def costs_message(costs: np.ndarray, header: Header) -> Image:
    """Costs ``[N, H]``, in answer to a message's header."""
    return messages.tensor_message(costs, messages.from_time(header.stamp), header.frame_id)


class Requests:
    """The actor's side: a `jepa_robot.modules.distributed.Ask` over topics.

    Called in the planner's thread, while answers come in the executor's. After a silence nobody is
    asked for a while, twice as long after each: what is dead shall not cost every plan its timeout.
    On simulated time an answer is waited for so long that runs repeat, and asked for again.

    Args:
        node: the actor's, with contract and bundle; ``/diagnostics`` of it counts.
        timeout: s to wait for an answer in real time.
    """

    def __init__(self, node: AgentNode, timeout: float) -> None:
        self._node = node
        self.timeout = LOCKSTEP_TIMEOUT if node.is_lockstep else timeout
        self._publisher = node.publisher(Image, CANDIDATES, COMMAND)
        self._asker, self._number = uuid.uuid4().hex[:8], 0
        self._came = threading.Condition()
        self._asked: Request | None = None
        self._shape = (0, 0)  # of the answer to it
        self._answer: np.ndarray | None = None
        self._pause, self._pause_ends = PAUSE, 0.0
        self._is_open, self._is_void, self._is_silent = False, False, False
        self._stamp = self._version = 0
        counts = ("plans_local", "requests_timed_out", "replies_late", "replies_refused")
        node.diagnostics.values |= dict.fromkeys(counts, 0)

    def connect(self) -> None:
        """Listen for answers, until the node is deactivated."""
        self._is_open = True
        self._node.subscribe(Image, COSTS, self._on_costs, DATA)

    def close(self) -> None:
        """Wait for nothing any more."""
        with self._came:
            self._is_open = False
            self._came.notify()

    def cancel(self) -> None:
        """Wait for nothing until the next plan: the configuration of this one is over."""
        with self._came:
            self._is_void = True
            self._came.notify()

    def begin(self, stamp: int, version: int) -> None:
        """A plan is begun, from the observation at ``stamp`` (ns), under a configuration."""
        self._stamp, self._version = stamp, version
        self._is_void = self._is_silent = False

    def end(self) -> None:
        """A plan is made: tell if it was made here."""
        if self._is_silent:
            self._count("plans_local")
            self._node.diagnostics.warn(
                f"{CANDIDATES} were not answered within {self.timeout:g} s, expected "
                f"{COSTS} of world_model and cost: plans are made here"
            )

    def __call__(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray | None:
        if time.monotonic() < self._pause_ends:
            self._is_silent = True
            return None
        self._number += 1
        request = Request(self._version, self._asker, self._number)
        message = candidates_message(states, actions, self._stamp, self._node.bundle, request)
        with self._came:
            self._asked, self._shape, self._answer = request, actions.shape[:2], None
            has_waited = self._wait(message)
            answer, self._asked = self._answer, None
        if answer is not None:
            self._pause = PAUSE
        elif has_waited:
            self._is_silent = True
            self._count("requests_timed_out")
            self._pause_ends = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
        return answer

    def _wait(self, message: Image) -> bool:
        """Until the answer is there, or nobody wants it any more; whether it took too long."""
        until = time.monotonic() + self.timeout
        while self._answer is None and self._is_open and not self._is_void:
            left = until - time.monotonic()
            if left <= 0:
                return True
            self._publisher.publish(message)
            self._came.wait(min(left, AGAIN))
        return False

    def _on_costs(self, message: Image) -> None:
        with self._came:
            try:
                self._take(message)
            except InvalidMessage:
                self._count("replies_refused")
                raise

    def _take(self, message: Image) -> None:
        request = read_request(message, COSTS, self._node.bundle)
        if request != self._asked and request.asker == self._asker:
            self._count("replies_late")
            return
        if request != self._asked:
            expected = f"{self._asked}" if self._asked else "none: nothing was asked"
            raise InvalidMessage(f"{COSTS} answers request {request}, expected {expected}")
        rows, steps = self._shape
        self._answer = messages.read_tensor(message, COSTS, steps, rows)
        self._came.notify()

    def _count(self, what: str) -> None:
        self._node.diagnostics.values[what] += 1
