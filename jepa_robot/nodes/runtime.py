"""What every process of ours has, the simulator and the safety stage included."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import inspect
import math
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.subscription import MessageInfo

from jepa_robot.nodes.messages import status_message, to_time

STEADY = Clock(clock_type=ClockType.STEADY_TIME)
# On the way from image to command nobody waits for what works beside it, where the system lets us.
SAFETY, ANSWERING = 40, 20  # real-time priorities; below ros2_control's controllers, at 50
BESIDE, PLANNING = 5, 10  # niceness
RUNAWAY = 60.0  # s that a real-time thread may take without ever waiting; loading takes less
SPIN_PERIOD = 0.1  # s
STARTING = 5.0  # s
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
        values = {**self.values, "scheduling": scheduling()}
        message.status = [status_message(name, self._level, self._text, values)]
        self._publisher.publish(message)


def main(*makers: Callable[[], Node], realtime: int = 0, niceness: int = 0) -> None:
    """Run nodes in one process until it is told to end.

    What is ``realtime`` is so from the beginning, what is nice only once it has started: the agent
    waits for a node that comes back. The rest is as in :func:`schedule`.
    """
    schedule(realtime)
    with ros() as running:
        for make in makers:
            running.add_node(make())
        spin(running, STARTING)
        schedule(realtime, niceness)
        spin(running)


def schedule(realtime: int = 0, niceness: int = 0) -> None:
    """How this thread and those that it starts share the processor (on Linux).

    Args:
        realtime: priority under SCHED_FIFO, for which the user needs an ``rtprio`` limit; without
            it, or at 0, the thread takes turns with all others. One that never waits locks out
            the rest of the machine: its process is ended, with SIGXCPU, to be started again.
        niceness: that is added.
    """
    with contextlib.suppress(OSError, AttributeError, ValueError):
        policy = os.SCHED_FIFO if realtime else os.SCHED_OTHER
        os.sched_setscheduler(0, policy, os.sched_param(realtime))
        if realtime:
            microseconds = round(1e6 * RUNAWAY)
            resource.setrlimit(resource.RLIMIT_RTTIME, (microseconds, resource.RLIM_INFINITY))
    os.nice(niceness)


def scheduling() -> str:
    """How this thread is scheduled, in words."""
    with contextlib.suppress(OSError, AttributeError):
        if os.sched_getscheduler(0) == os.SCHED_FIFO:
            return f"real-time, priority {os.sched_getparam(0).sched_priority}"
    return f"niceness {os.nice(0)}"


def with_info(callback: Callable[[Any, MessageInfo], None]) -> Callable:
    """A subscription's callback that is told who sent a message and when, under any executor.

    The events executor of rclpy 9.1 passes message and info as one tuple.
    """

    def take(*arguments: Any) -> None:
        callback(*(arguments if len(arguments) == 2 else arguments[0]))

    take.__signature__ = inspect.signature(lambda message, info: None)  # what rclpy goes by
    return take


def make_executor() -> Executor:
    """One thread; driven by events where rclpy can, at half the processor time a message.

    Not where Python takes SIGINT: the events executor (rclpy 9.1) fails on it.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:  # ROS 2 Jazzy
        return SingleThreadedExecutor()
    return EventsExecutor()


def spin(executor: Executor, seconds: float = math.inf) -> None:
    """Run callbacks until shutdown. (The events executor's own ``spin`` dispatches nothing.)"""
    gc.freeze()  # what is there by now stays: the collector need not look at it again
    until = time.monotonic() + seconds
    while rclpy.ok() and time.monotonic() < until:
        executor.spin_once(timeout_sec=SPIN_PERIOD)


@contextlib.contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C takes effect at the end.

    A KeyboardInterrupt in the middle of rclpy comes out as whatever error it led to there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python raises it in the main thread alone
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def ros() -> Iterator[Executor]:
    """ROS and an executor, until SIGINT or SIGTERM ends what runs within, quietly.

    SIGUSR1 prints where each thread is, even if it hangs.

    Ctrl-C under `ros2 launch` comes twice, from the terminal and from launch, and a
    KeyboardInterrupt may strike anywhere. So Python looks away, and rclpy's own handler ends the
    context, on which the executor's spin ends.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    faulthandler.register(signal.SIGUSR1)
    faulthandler.register(signal.SIGXCPU, chain=True)
    rclpy.init()
    executor = make_executor()
    try:
        yield executor
    except ExternalShutdownException:
        return
    except Exception:
        if rclpy.ok():  # else it is only that the context ended in the middle of something
            raise
    finally:
        node = None
        for node in list(executor.get_nodes()):
            executor.remove_node(node)
            node.destroy_node()
        node = None
        executor.shutdown()
        gc.unfreeze()
        gc.collect()  # or participants that nobody ends leave shared memory behind
        rclpy.try_shutdown()
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end Python in its exit
