"""Leads a managed node through its lifecycle, whatever happens to it."""

from __future__ import annotations

import time

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.node import Node

POLL_PERIOD = 0.3  # s between two looks at a node that is as it should be
RETRY_PERIOD = 2.0  # s before a transition that failed is tried again
ANSWER_TIMEOUT = 0.25  # s, then it is asked again: a process that died never answers
RENEWAL_PERIOD = 1.5  # s without an answer, after which it is asked through other clients
SILENCE_TIMEOUT = 2.0  # s without an answer, after which a node counts as not answering
TRANSITION_TIMEOUT = 5.0  # s, then its state tells what came of the request
NEXT = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}


class Supervised:
    """One managed node: asked for its state, and led to active whenever it is not."""

    def __init__(self, node: Node, name: str) -> None:
        self.name, self._node = name, node
        self._create_clients()
        self._future = None
        self._is_changing = False
        self._deadline = self._next_look = self._answered_at = 0.0
        self._renewed_at = time.monotonic()
        self.state = "not there"
        self.problem = ""

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    def _create_clients(self) -> None:
        self._get = self._node.create_client(GetState, f"{self.name}/get_state")
        self._change = self._node.create_client(ChangeState, f"{self.name}/change_state")

    def _renew_clients(self, now: float) -> None:
        """What DDS lost of its discovery is made up for when there is something new to discover.

        Else a node that is back, and heard, goes unanswered for up to ten seconds now and then.
        """
        for client in (self._get, self._change):
            self._node.destroy_client(client)
        self._create_clients()
        self._renewed_at = now

    def step(self, now: float) -> None:
        """Look after the node; never blocks."""
        if self._future is not None:
            if self._future.done():
                self._take_answer(now)
            elif now > self._deadline:
                client = self._change if self._is_changing else self._get
                client.remove_pending_request(self._future)
                self._future = None
                if now - self._answered_at > SILENCE_TIMEOUT:
                    self.state = "does not answer"
            return
        if now < self._next_look:
            return
        if now - max(self._answered_at, self._renewed_at) > RENEWAL_PERIOD:
            self._renew_clients(now)
        if not self._get.service_is_ready():
            self.state = "not there"
            return
        self._ask(self._get, GetState.Request(), now + ANSWER_TIMEOUT, False)

    def _ask(self, client, request, deadline: float, is_changing: bool) -> None:
        self._future = client.call_async(request)
        self._deadline, self._is_changing = deadline, is_changing

    def _take_answer(self, now: float) -> None:
        answer, self._future = self._future.result(), None
        self._answered_at = now
        if self._is_changing:
            self.problem = "" if answer.success else f"a transition of {self.name} failed"
            self._next_look = now if answer.success else now + RETRY_PERIOD
            return
        self.state = answer.current_state.label
        transition = NEXT.get(answer.current_state.id)
        if transition is None:
            self._next_look = now + POLL_PERIOD
            return
        request = ChangeState.Request()
        request.transition.id = transition
        self._ask(self._change, request, now + TRANSITION_TIMEOUT, True)
