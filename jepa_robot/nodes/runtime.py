"""What every process of ours has, the simulator and the safety stage included."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from jepa_robot.nodes.messages import status_message, to_time

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
BESIDE = 5  # niceness of what works beside the way from image to command
SPIN_PERIOD = 0.1  # s
ERROR_SHOWN_FOR = 3.0  # s: how long diagnostics go on showing an error that came once


class Diagnostics:
    """A node's entry on /diagnostics: at once when it says something new, and every second."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._level, self._text, self._since = DiagnosticStatus.OK, "starting", 0.0
        self._standing = (DiagnosticStatus.OK, "starting")
        self.values: dict[str, Any] = {}
        node.create_timer(1.0, self._every_second, clock=STEADY)

    def ok(self, text: str) -> None:
        """What to say while nothing is wrong."""
        self._standing = (DiagnosticStatus.OK, text)
        if self._level == DiagnosticStatus.OK and text != self._text:
            self._text = text
            self._publish()

    def failed(self, text: str) -> None:
        """What is wrong, and stays so until :meth:`ok` says otherwise."""
        self._standing = (DiagnosticStatus.ERROR, text)
        self.error(text)

    def error(self, text: str) -> None:
        """Something was wrong; it is logged, throttled, and published now."""
        if self._tell(DiagnosticStatus.ERROR, text):
            self._node.get_logger().error(text)

    def warn(self, text: str) -> None:
        if self._tell(DiagnosticStatus.WARN, text):
            self._node.get_logger().warning(text)

    def _tell(self, level: bytes, text: str) -> bool:
        """Publish what is new; whether to log it, too.

        The caller logs: rclpy takes one line of code to log at one severity only.
        """
        is_new = (level, text) != (self._level, self._text)
        now = time.monotonic()
        is_due = is_new or now - self._since > ERROR_SHOWN_FOR
        self._level, self._text, self._since = level, text, now
        if is_new:
            self._publish()
        return is_due

    def _every_second(self) -> None:
        if time.monotonic() - self._since > ERROR_SHOWN_FOR:
            self._level, self._text = self._standing
        self._publish()

    def _publish(self) -> None:
        message = DiagnosticArray()
        message.header.stamp = to_time(time.time_ns())
        name = self._node.get_fully_qualified_name()
        message.status = [status_message(name, self._level, self._text, self.values)]
        self._publisher.publish(message)


def main(
    *makers: Callable[[], Node],
    executor: Callable[..., Executor] | None = None,
    niceness: int = 0,
) -> None:
    """Run nodes in one process until it is told to end."""
    os.nice(niceness)
    with ros(executor or make_executor) as running:
        for make in makers:
            running.add_node(make())
        spin(running)


def make_executor() -> Executor:
    """One thread; driven by events where rclpy can, at half the processor time a message.

    Not for nodes that ask who sent a message, nor where Python takes SIGINT: the events executor
    (rclpy 9.1) fails on both.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # ROS 2 Jazzy
        return SingleThreadedExecutor()
    return EventsExecutor()


def spin(executor: Executor) -> None:
    """Run callbacks until shutdown. (The events executor's own ``spin`` dispatches nothing.)"""
    gc.freeze()  # what is there by now stays: the collector need not look at it again
    while rclpy.ok():
        executor.spin_once(timeout_sec=SPIN_PERIOD)


@contextmanager
def ros(make: Callable[..., Executor] = make_executor) -> Iterator[Executor]:
    """ROS and an executor, until SIGINT or SIGTERM ends what runs within, quietly.

    Ctrl-C under `ros2 launch` comes twice, from the terminal and from launch, and a
    KeyboardInterrupt may strike anywhere. So Python looks away, and rclpy's own handler ends the
    context, on which the executor's spin ends.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    rclpy.init()
    executor = make()
    try:
        yield executor
    except ExternalShutdownException:
        return
    except Exception:
        if rclpy.ok():  # else it is only that the context ended in the middle of something
            raise
    finally:
        for node in executor.get_nodes():
            node.destroy_node()  # or its participant leaves shared memory behind
        executor.shutdown()
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end Python in its exit
