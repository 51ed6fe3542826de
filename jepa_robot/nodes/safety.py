"""Safety node: the only one that turns actions into joint commands. Its own process, self-started.

Not a certified safety function.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.subscription import MessageInfo
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Empty
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.nodes import messages
from jepa_robot.nodes.adapters import adapter, gripper
from jepa_robot.nodes.latch import Latch, RobotIsTaken
from jepa_robot.nodes.messages import COMMAND, DATA, LATCHED, SENSOR_IN
from jepa_robot.nodes.rogues import RogueWatch
from jepa_robot.nodes.runtime import SAFETY, STEADY, Diagnostics, main, with_info
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.safety import (
    FOLLOWING,
    HOLDING,
    ROGUE_COMMAND,
    STOP_REQUESTED,
    STOPPED,
    Instant,
    SafetyOutput,
    SafetyStage,
)

LEVELS = {
    FOLLOWING: DiagnosticStatus.OK,
    HOLDING: DiagnosticStatus.WARN,
    STOPPED: DiagnosticStatus.ERROR,
}
CLOCK_TIMEOUT = 2.0  # s on the steady clock without a tick of a simulated clock
ROGUE_PERIOD = 0.1  # s
PARTICIPANT = 12  # bytes of a DDS identifier that all publishers of one process share
KEPT_TIMES = 1000
CLOCK_READINGS, ONE_MOMENT = 5, 50_000  # ns


class SafetyNode(LifecycleNode):
    """Follows timed actions within the contract's limits at the contract's safety rate.

    ``~/stop`` latches a stop, also across a restart of this process; ``~/release`` ends it.
    ``lockstep``: tick on /clock, with a simulator that waits for us; else on the steady clock.
    ``dry_run``: do everything but send commands.
    """

    def __init__(self) -> None:
        super().__init__("safety")
        self.declare_parameter("robot", "panda")
        self.declare_parameter("latch_file", "")
        self.declare_parameter("lockstep", False)
        self.declare_parameter("dry_run", False)
        self.diagnostics = Diagnostics(self)
        self._made: list = []
        self._latch: Latch | None = None
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._is_dry_run = self.get_parameter("dry_run").value
        self._is_lockstep = self.get_parameter("lockstep").value
        try:
            contract = load_contract(self.get_parameter("robot").value)
            self._latch = Latch(
                contract.name, self.get_namespace(), self.get_parameter("latch_file").value
            )
            self._stage = SafetyStage(
                contract, self._latch.read(), self._is_dry_run, self._is_lockstep
            )
            self._adapter = adapter(contract, self._stage.limiter.kinematics)
        except (ValueError, OSError, RobotIsTaken) as error:
            self.diagnostics.failed(f"cannot be configured: {error}")
            self._let_go()
            return TransitionCallbackReturn.FAILURE
        self._contract = contract
        self._last: SafetyOutput | None = None
        self._clock_moved_at = (0, time.monotonic())
        self._compute_times: deque[float] = deque(maxlen=KEPT_TIMES)
        self._tick_times: deque[int] = deque(maxlen=KEPT_TIMES)
        self.diagnostics.ok("configured")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        contract = self._contract
        publish, subscribe = self.create_publisher, self.create_subscription
        self._echo = publish(JointTrajectory, "command_echo", DATA)
        self._state = publish(DiagnosticStatus, "safety_state", LATCHED)
        self._command = self._gripper = self._rogues = None
        if not self._is_dry_run:
            topic = contract.controller.topic
            self._command = publish(self._adapter.message_type, topic, COMMAND)
            self._rogues = RogueWatch(self, topic)
            if contract.gripper is not None:
                self._gripper = publish(gripper.message_type, contract.gripper.topic, COMMAND)
        subscriptions = [
            subscribe(JointState, "joint_states", self._on_joint_states, SENSOR_IN),
            subscribe(Image, "action", with_info(self._on_action), COMMAND),
            subscribe(Image, "plan", with_info(self._on_plan), COMMAND),
            subscribe(DiagnosticArray, "hold", self._on_hold, DATA),
            subscribe(Empty, "heartbeat", self._on_heartbeat, DATA),
        ]
        services = [
            self.create_service(Trigger, "~/stop", self._on_stop),
            self.create_service(Trigger, "~/release", self._on_release),
        ]
        clock = self.get_clock() if self._is_lockstep else STEADY
        timers = [
            self.create_timer(1 / contract.rates.safety, self._on_timer, clock=clock),
            self.create_timer(ROGUE_PERIOD, self._look_for_rogues, clock=STEADY),
            self.create_timer(1.0, self._every_second, clock=STEADY),
        ]
        publishers = [self._echo, self._state, self._command, self._gripper]
        self._made = [
            (self.destroy_timer, timers),
            (self.destroy_service, services),
            (self.destroy_subscription, subscriptions),
            (self.destroy_publisher, [p for p in publishers if p is not None]),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self.diagnostics.ok("inactive: nothing is commanded")
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._let_go()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self._let_go()
        self.diagnostics.ok("shut down: nothing is commanded")
        return TransitionCallbackReturn.SUCCESS

    def _disconnect(self) -> None:
        for destroy, made in self._made:
            for one in made:
                destroy(one)
        self._made = []

    def _let_go(self) -> None:
        """Another safety stage may take the robot."""
        if self._latch is not None:
            self._latch.close()
            self._latch = None

    # Inputs.

    def _on_joint_states(self, message: JointState) -> None:
        try:
            positions, _ = messages.read_joint_state(message, self._contract)
            opening = messages.read_gripper(message, self._contract)
            stamp = messages.from_time(message.header.stamp)
            self._stage.observe(positions, stamp, self._now(), opening)
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        if self._is_lockstep and self._adapter.heeds_measured:
            self._tick()  # the world waits for a command that heeds these

    def _on_action(self, message: Image, info: MessageInfo) -> None:
        self._follow(message, info, "action", 1)

    def _on_plan(self, message: Image, info: MessageInfo) -> None:
        self._follow(message, info, "plan", None)

    def _follow(self, message: Image, info: MessageInfo, topic: str, rows: int | None) -> None:
        gid = (info.get("publisher_gid") or {}).get("data", b"")  # ROS 2 Jazzy does not tell
        sender = bytes(gid)[:PARTICIPANT]
        try:
            actions = messages.read_tensor(message, topic, self._contract.actions.size, rows)
            stamp = messages.from_time(message.header.stamp)
            self._stage.follow(topic, actions, stamp, self._now(), sender)
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        self._tick()  # the answer to an observation goes out now, not at the next tick

    def _on_hold(self, message: DiagnosticArray) -> None:
        reason = "; ".join(status.message for status in message.status) or "no reason was given"
        now = self._now().time
        self._stage.hold(min(messages.from_time(message.header.stamp), now), reason)
        self._tick()

    def _on_heartbeat(self, message: Empty) -> None:
        self._stage.heartbeat(self._now())

    def _now(self) -> Instant:
        """Both clocks at one moment: read again if we were interrupted between them."""
        for _ in range(CLOCK_READINGS):
            before = time.monotonic_ns()
            now = self.get_clock().now().nanoseconds
            if time.monotonic_ns() - before < ONE_MOMENT:
                break
        return Instant(now, now if self._is_lockstep else before)

    # Output.

    def _on_timer(self) -> None:
        self._tick_times.append(time.monotonic_ns())
        try:
            self._tick()
        except Exception:
            if self.context.ok():  # else a signal ended it in the middle
                raise

    def _tick(self) -> None:
        begin = time.perf_counter()
        at = self._now()
        if at.time != self._clock_moved_at[0]:
            self._clock_moved_at = (at.time, time.monotonic())
        output = self._stage.tick(at)
        if output.motion is not None:
            self._send(output, at)
        last, self._last = self._last, output
        if last is None or (last.state, last.reason) != (output.state, output.reason):
            if output.state == STOPPED:
                self._save_latch()
            self._publish_state()
        self._compute_times.append(time.perf_counter() - begin)

    def _send(self, output: SafetyOutput, at: Instant) -> None:
        if self._command is not None:
            measured = self._stage.measured_now(at)
            self._command.publish(
                self._adapter.message(output.motion, output.stop, measured, at.time)
            )
        if self._gripper is not None and output.gripper is not None:
            self._gripper.publish(gripper.message(self._contract.gripper, output.gripper))
        self._echo.publish(
            messages.echo_message(
                self._contract,
                output.motion,
                output.gripper,
                output.stamp,
                at.time - output.stamp,
            )
        )

    def _look_for_rogues(self) -> None:
        if self._rogues is None or self._stage.is_stopped:
            return
        rogue = self._rogues.look(time.monotonic())
        if rogue:
            self._stage.stop(ROGUE_COMMAND, rogue)
            self._tick()

    def _every_second(self) -> None:
        is_simulated_time = self.get_parameter("use_sim_time").value
        if is_simulated_time and self._clock_moved_at[1] + CLOCK_TIMEOUT < time.monotonic():
            self.diagnostics.warn("/clock stands still, and so does the arm")
        if self._is_lockstep:
            self._tick()  # says the same again to whoever came late; no time has passed
        self._measure()
        self._publish_state()

    def _measure(self) -> None:
        """How long an output takes, and how evenly they come."""
        values = self.diagnostics.values
        if len(self._compute_times) > 1:
            times = 1000 * np.array(self._compute_times)
            values["compute_ms_p50"] = round(float(np.median(times)), 3)
            values["compute_ms_p99"] = round(float(np.percentile(times, 99)), 3)
        if len(self._tick_times) > 1 and not self._is_lockstep:
            period = 1000 / self._contract.rates.safety
            jitter = np.abs(np.diff(np.array(self._tick_times)) / 1e6 - period)
            values["jitter_ms_p50"] = round(float(np.median(jitter)), 3)
            values["jitter_ms_p99"] = round(float(np.percentile(jitter, 99)), 3)

    def _publish_state(self) -> None:
        output = self._last
        if output is None:
            return
        values = {
            "state": output.state,
            "code": output.code,
            "limited": ",".join(output.limited),
            "dry_run": str(self._is_dry_run).lower(),
        }
        text = output.reason or output.state
        name = f"{self.get_fully_qualified_name()}: command"
        self._state.publish(messages.status_message(name, LEVELS[output.state], text, values))
        self.diagnostics.ok(text if text == output.state else f"{output.state} {text}")
        self.diagnostics.values.update(values)

    # Services.

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stage.stop(STOP_REQUESTED, "by ~/stop")
        self._save_latch()
        self._tick()
        response.success, response.message = True, "stopped until ~/release"
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._stage.release(self._now())
        response.success = not response.message
        if response.success:
            self._latch.clear()
            self._tick()
        return response

    def _save_latch(self) -> None:
        try:
            self._latch.write(self._stage.stop_reason)
        except OSError as error:
            self.diagnostics.error(f"{self._latch.path}: cannot be written: {error.strerror}")


def run() -> None:
    main(SafetyNode, realtime=SAFETY)


if __name__ == "__main__":
    run()
