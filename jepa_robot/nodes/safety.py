"""Safety node: the only one that turns actions into joint commands. Its own process, self-started.

Not a certified safety function.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.files import write_atomically
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import COMMAND, DATA, LATCHED, SENSOR_IN
from jepa_robot.nodes.runtime import STEADY, Diagnostics, main
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.safety import FOLLOWING, HOLDING, STOPPED, SafetyOutput, SafetyStage

LEVELS = {
    FOLLOWING: DiagnosticStatus.OK,
    HOLDING: DiagnosticStatus.WARN,
    STOPPED: DiagnosticStatus.ERROR,
}
FUTURE = 1_000_000_000  # ns: a stamp this far ahead of our clock is rubbish
CLOCK_TIMEOUT = 2.0  # s on the steady clock without a tick of a simulated clock


class SafetyNode(LifecycleNode):
    """Follows timed actions within the contract's limits at the contract's safety rate.

    ``~/stop`` latches a stop, also across a restart of this process; ``~/release`` ends it.
    """

    def __init__(self) -> None:
        super().__init__("safety")
        self.declare_parameter("robot", "panda")
        self.declare_parameter("latch_file", "")
        self.diagnostics = Diagnostics(self)
        self._made: list = []
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            contract = load_contract(self.get_parameter("robot").value)
            self._latch = self._latch_path(contract.name)
            stopped = self._latch.read_text() if self._latch.is_file() else ""
            self._stage = SafetyStage(contract, stopped)
        except (ValueError, OSError) as error:
            self.diagnostics.failed(f"cannot be configured: {error}")
            return TransitionCallbackReturn.FAILURE
        self._contract = contract
        self._last: SafetyOutput | None = None
        self._last_tick: int | None = None
        self._clock_moved_at = time.monotonic()
        self.diagnostics.ok("configured")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        contract = self._contract
        command_type = messages.command_type(contract)
        self._command = self.create_publisher(command_type, contract.controller.topic, COMMAND)
        self._echo = self.create_publisher(JointTrajectory, "command_echo", DATA)
        self._state = self.create_publisher(DiagnosticStatus, "safety_state", LATCHED)
        size = contract.actions.size
        subscribe = self.create_subscription
        subscriptions = [
            subscribe(JointState, "joint_states", self._on_joint_states, SENSOR_IN),
            subscribe(Image, "action", lambda m: self._on_actions(m, "action", size, 1), COMMAND),
            subscribe(Image, "plan", lambda m: self._on_actions(m, "plan", size, None), COMMAND),
        ]
        services = [
            self.create_service(Trigger, "~/stop", self._on_stop),
            self.create_service(Trigger, "~/release", self._on_release),
        ]
        self._is_simulated_time = self.get_parameter("use_sim_time").value
        clock = self.get_clock() if self._is_simulated_time else STEADY
        timers = [
            self.create_timer(1 / contract.rates.safety, self._tick, clock=clock),
            self.create_timer(1.0, self._every_second, clock=STEADY),
        ]
        self._made = [
            (self.destroy_timer, timers),
            (self.destroy_service, services),
            (self.destroy_subscription, subscriptions),
            (self.destroy_publisher, [self._command, self._echo, self._state]),
        ]
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self.diagnostics.ok("inactive: nothing is commanded")
        return super().on_deactivate(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._disconnect()
        self.diagnostics.ok("shut down: nothing is commanded")
        return TransitionCallbackReturn.SUCCESS

    def _disconnect(self) -> None:
        for destroy, made in self._made:
            for one in made:
                destroy(one)
        self._made = []

    def _on_joint_states(self, message: JointState) -> None:
        try:
            positions, _ = messages.read_joint_state(message, self._contract)
            stamp = self._checked_stamp(message, "joint_states")
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        self._stage.observe(positions, stamp)

    def _on_actions(self, message: Image, topic: str, size: int, rows: int | None) -> None:
        try:
            actions = messages.read_tensor(message, topic, size, rows)
            stamp = self._checked_stamp(message, topic)
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        self._stage.follow(actions, stamp)
        self._tick()  # the answer to an observation goes out now, not at the next tick

    def _checked_stamp(self, message: Image | JointState, topic: str) -> int:
        stamp = messages.from_time(message.header.stamp)
        ahead = stamp - self._now()
        if ahead > FUTURE:
            raise messages.InvalidMessage(
                f"{topic} is stamped {ahead / 1e9:.3f} s in the future, expected the past"
            )
        return stamp

    def _now(self) -> int:
        return self.get_clock().now().nanoseconds

    def _tick(self) -> None:
        now = self._now()
        tick = now if self._is_simulated_time else time.monotonic_ns()
        period = 0.0 if self._last_tick is None else (tick - self._last_tick) / 1e9
        if tick != self._last_tick:
            self._clock_moved_at = time.monotonic()
        self._last_tick = tick
        output = self._stage.tick(now, period)
        if output.positions is not None:
            self._command.publish(messages.command_message(self._contract, output.positions))
            self._echo.publish(
                messages.trajectory_message(
                    self._contract.joint_names,
                    output.positions,
                    output.stamp,
                    now - output.stamp if output.stamp else now,
                )
            )
        last, self._last = self._last, output
        if last is None or (last.state, last.reason) != (output.state, output.reason):
            if output.state == STOPPED:
                self._save_latch()
            self._publish_state()

    def _every_second(self) -> None:
        if self._is_simulated_time:
            if self._clock_moved_at + CLOCK_TIMEOUT < time.monotonic():
                self.diagnostics.warn("/clock stands still, and so does the arm")
            self._tick()  # says the same again to whoever came late; no time has passed
        self._publish_state()

    def _publish_state(self) -> None:
        output = self._last
        if output is None:
            return
        values = {"state": output.state, "reason": output.reason}
        values["limited"] = ",".join(output.limited)
        text = output.reason or output.state
        name = f"{self.get_fully_qualified_name()}: command"
        self._state.publish(messages.status_message(name, LEVELS[output.state], text, values))
        self.diagnostics.ok(f"{output.state} {output.reason}".strip())
        self.diagnostics.values.update(values)

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stage.stop("stopped: by ~/stop")
        self._save_latch()
        self._tick()
        response.success, response.message = True, "stopped until ~/release"
        return response

    def _on_release(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = self._stage.release()
        response.success = not response.message
        if response.success:
            self._latch.unlink(missing_ok=True)
            self._tick()
        return response

    def _save_latch(self) -> None:
        try:
            self._latch.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._latch, self._stage.stop_reason)
        except OSError as error:
            self.diagnostics.error(f"{self._latch}: cannot be written: {error.strerror}")

    def _latch_path(self, robot: str) -> Path:
        """Where a stop outlives this process: one file a robot, namespace and ROS domain."""
        given = self.get_parameter("latch_file").value
        if given:
            return Path(given).expanduser()
        home = Path(os.environ.get("ROS_HOME", "~/.ros")).expanduser()
        domain = os.environ.get("ROS_DOMAIN_ID", "0")
        name = "_".join([robot, domain, *self.get_namespace().split("/")[1:]]).rstrip("_")
        return home / "jepa_robot" / f"{name}.stopped"


def run() -> None:
    main(SafetyNode)


if __name__ == "__main__":
    run()
