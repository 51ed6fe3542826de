"""Supervision of a node through its lifecycle services, where DDS loses one of them."""

import threading
import time

import pytest
import rclpy
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from jepa_robot.nodes import supervision
from jepa_robot.nodes.supervision import Supervised


class Managed(Node):
    """Goes through its lifecycle; the first answer to a transition does not get out."""

    def __init__(self, context, done: threading.Event) -> None:
        super().__init__("managed", context=context)
        self._states = [State.PRIMARY_STATE_UNCONFIGURED, State.PRIMARY_STATE_INACTIVE]
        self._states.append(State.PRIMARY_STATE_ACTIVE)
        self._done, self.asked = done, 0
        group = ReentrantCallbackGroup()
        for kind, name in ((GetState, "get_state"), (ChangeState, "change_state")):
            answer = getattr(self, f"_{name}")
            self.create_service(kind, f"~/{name}", answer, callback_group=group)

    def _get_state(self, request, response):
        labels = {1: "unconfigured", 2: "inactive", 3: "active"}
        response.current_state.id = self._states[0]
        response.current_state.label = labels[self._states[0]]
        return response

    def _change_state(self, request, response):
        self.asked += 1
        if len(self._states) > 1:
            self._states.pop(0)
        if self.asked == 1:
            self._done.wait(60)
        response.success = True
        return response


@pytest.fixture
def context(domain):
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    rclpy.try_shutdown(context=context)


def test_a_lost_answer_to_a_transition_is_made_up_for(context, monkeypatch):
    monkeypatch.setattr(supervision, "TRANSITION_TIMEOUT", 0.5)
    done = threading.Event()
    managed, node = Managed(context, done), Node("supervisor", context=context)
    theirs, ours = (
        MultiThreadedExecutor(4, context=context),
        SingleThreadedExecutor(context=context),
    )
    theirs.add_node(managed)
    ours.add_node(node)
    thread = threading.Thread(target=theirs.spin, daemon=True)
    thread.start()
    supervised = Supervised(node, "managed")
    deadline = time.monotonic() + 20
    while not supervised.is_active and time.monotonic() < deadline:
        supervised.step(time.monotonic())
        ours.spin_once(timeout_sec=0.02)
    done.set()
    theirs.shutdown()
    thread.join()
    assert supervised.is_active and not supervised.problem
    assert managed.asked == 2  # the first was done, as its state told
