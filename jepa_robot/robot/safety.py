"""The safety stage: decides at every tick whether the arm follows, holds or is stopped. No ROS.

It trusts nobody upstream. This is not a certified safety function: a robot needs its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.limiter import SafetyLimiter
from jepa_robot.robot.profile import JointMotion, Profile

FOLLOWING, HOLDING, STOPPED = "following", "holding", "stopped"

# Why the arm does not follow. The first eight hold it; the others latch a stop.
NO_JOINT_STATES = "no_joint_states"
JOINT_STATES_STALE = "joint_states_stale"
NO_ACTION = "no_action"
ACTION_STALE = "action_stale"
HOLD_REQUESTED = "hold_requested"
HEARTBEAT_MISSING = "heartbeat_missing"
TWO_SOURCES = "two_sources"
OUTSIDE_LIMITS = "outside_limits"
STOP_REQUESTED = "stop_requested"
TRACKING = "tracking"
JOINT_JUMP = "joint_jump"
ROGUE_COMMAND = "rogue_command"

SECOND = 1_000_000_000  # ns
FUTURE = SECOND // 5  # ns: a stamp this far ahead of our clock is rubbish
GAP = 5  # periods without a tick, after which the arm has come to rest by itself
DEADBAND = 0.01  # rad: from cold, the held joints follow measured ones that move by more
OUTSIDE = 0.02  # rad beyond a limit from which on nothing is followed
JUMP_FACTOR, JUMP_FLOOR = 1.2, 0.05  # of the velocity limit, and rad: a plausible joint state
JUMPS = 3  # joint states in a row that are elsewhere, after which the arm is stopped
MEMORY = 0.5  # s of commands that measured joints are compared with
STEADY = 2  # joint states in a row without a jump, after which they are believed
REST = 0.005  # rad that joints may have moved within their watchdog's time, to count as at rest


class StaleInput(ValueError):
    """An input that is too old, or from the future; it must be dropped."""


@dataclass(frozen=True)
class Instant:
    """A moment on two clocks, in ns: ROS time, and a steady clock that nobody can set or stop."""

    time: int
    steady: int


@dataclass(frozen=True)
class SafetyOutput:
    """What one tick commands, and why.

    ``motion`` is the joint motion to command, None while nothing is known of the robot, and
    ``stop`` the checked way from there to rest; ``gripper`` its position (m), None without one.
    ``stamp`` (ns) is that of the observation which the action in force descends from, 0 for none.
    ``state`` is following, holding or stopped; ``code`` says why it does not follow, ``details``
    in words; ``limited`` names the limits that acted.
    """

    motion: JointMotion | None
    stop: Profile | None
    gripper: float | None
    stamp: int
    state: str
    code: str
    details: str
    limited: tuple[str, ...]

    @property
    def reason(self) -> str:
        """Code and details in one text."""
        return f"{self.code}: {self.details}" if self.details else self.code


@dataclass
class _Actions:
    """Actions ``[R, A]``: row r is in force from ``stamp`` + r time steps."""

    rows: np.ndarray
    stamp: int
    arrived: int  # on the steady clock


class SafetyStage:
    """Turns timed actions into joint motion that is safe to send.

    Args:
        contract: limits, watchdog times, rates.
        stopped: begin with a stop latched, as it was before a restart: its reason.
        is_dry_run: nothing is sent, so the joints are not expected to follow.
        is_lockstep: the world waits for us, so ages are judged by stamps alone.
    """

    def __init__(
        self,
        contract: RobotContract,
        stopped: str = "",
        is_dry_run: bool = False,
        is_lockstep: bool = False,
    ) -> None:
        self.contract = contract
        self.limiter = SafetyLimiter(contract)
        code, _, details = stopped.partition(": ")
        self._stop = (code, details) if stopped else None
        self._is_dry_run, self._is_lockstep = is_dry_run, is_lockstep
        self._lower, self._upper = contract.limits("lower"), contract.limits("upper")
        self._fastest_jump = JUMP_FACTOR * contract.limits("velocity")  # rad/s
        self._time_step = round(contract.rates.time_step * SECOND)
        self._period = 1 / contract.rates.safety
        watchdogs = contract.watchdogs
        self._joint_timeout = int(watchdogs.joint_states * SECOND)
        self._action_timeout = int(watchdogs.action * SECOND)
        self._heartbeat_timeout = int(watchdogs.heartbeat * SECOND)
        self._is_servo = contract.controller.type.startswith("servo")
        self._measured: np.ndarray | None = None
        self._gripper: float | None = None
        self._measured_at = Instant(0, 0)  # stamp, arrival
        kept = round(watchdogs.joint_states * contract.rates.joint_states)
        self._recent: deque[np.ndarray] = deque(maxlen=max(kept, STEADY) + 1)
        self._jumps = self._steady = 0
        self._actions: _Actions | None = None
        self._held = (0, "")  # observations up to this stamp are not followed, and why
        self._heartbeat_at: int | None = None
        self._sources: dict[bytes, int] = {}  # last arrival of each sender of actions and plans
        kept = round(max(watchdogs.joint_states, MEMORY) * contract.rates.safety)
        self._sent: deque[tuple[int, np.ndarray]] = deque(maxlen=kept)  # time, positions
        self._last_tick: int | None = None

    @property
    def stop_reason(self) -> str:
        """Code and details of a latched stop; empty without one."""
        if self._stop is None:
            return ""
        code, details = self._stop
        return f"{code}: {details}" if details else code

    @property
    def is_stopped(self) -> bool:
        return self._stop is not None

    def measured_now(self, at: Instant) -> np.ndarray | None:
        """The last joint positions ``[J]`` (rad) that were taken, None where they are stale."""
        return None if self._are_joints_stale(at) else self._measured

    # Inputs.

    def observe(
        self, positions: np.ndarray, stamp: int, at: Instant, gripper: float | None = None
    ) -> None:
        """Take measured joint positions ``[J]`` (rad) and the gripper's (m), if it is measured.

        Until the first action since the start or a release, the arm holds where it is measured:
        where three joint states in a row agree, since a single one may be a glitch.

        Raises:
            StaleInput: too old, or from the future.
            ValueError: an implausible jump; such joint states are dropped, and the third in a row
                stops the arm.
        """
        self._check_age("joint_states", stamp, at, self._joint_timeout)
        if self._measured is not None and stamp <= self._measured_at.time <= at.time + FUTURE:
            return  # seen before, or overtaken
        self._check_jump(positions, stamp)
        self._measured, self._measured_at = positions, Instant(stamp, at.steady)
        self._recent.append(positions)
        self._gripper = gripper
        limiter = self.limiter
        if limiter.positions is None or (
            self._is_cold and np.max(np.abs(positions - limiter.positions)) > DEADBAND
        ):
            if self._are_joints_steady:
                self._hold_measured()
            return
        if self._is_servo:
            limiter.follow_null_space(positions)
        self._check_tracking()

    def follow(
        self, topic: str, actions: np.ndarray, stamp: int, at: Instant, source: bytes = b""
    ) -> None:
        """Take actions ``[R, A]``: row r is in force from ``stamp`` + r time steps.

        Of two with the same stamp the longer, a plan, counts. ``source`` tells senders apart: more
        than one of actions and plans together hold the arm.

        Raises:
            StaleInput: too old, or from the future.
        """
        self._sources[source] = at.steady
        self._check_age(topic, stamp, at, self._action_timeout)
        if stamp <= self._held[0] <= at.time + FUTURE:
            return
        last = self._actions
        if last is None or stamp > last.stamp or last.stamp > at.time + FUTURE:
            self._actions = _Actions(actions, stamp, at.steady)
        elif stamp == last.stamp and len(actions) >= len(last.rows):
            last.rows = actions

    def hold(self, stamp: int, reason: str) -> None:
        """Follow nothing that descends from observations up to ``stamp`` (ns)."""
        self._held = (stamp, reason)

    def heartbeat(self, at: Instant) -> None:
        """The deadman is held."""
        self._heartbeat_at = at.steady

    def stop(self, code: str, details: str = "") -> None:
        """Latch a stop: the arm slows down and holds until it is released on purpose."""
        self._stop = (code, details)
        self._actions = None

    def release(self, at: Instant) -> str:
        """End a latched stop; the arm then holds where it is measured until a new action comes.

        Returns:
            An empty text, or why it cannot be released.
        """
        if self._are_joints_stale(at):
            return "no joint_states, expected them before the stop is released"
        if not self._are_joints_steady:
            return "joint_states jump, expected them steady before the stop is released"
        if not self._is_at_rest:
            return "the arm still moves, expected it at rest before the stop is released"
        jumped = self._stop and self._stop[0] == JOINT_JUMP and self.limiter.positions is not None
        if jumped and np.max(np.abs(self._measured - self.limiter.positions)) > JUMP_FLOOR:
            return (
                "the joints still are where they jumped to, expected them where the arm was "
                "stopped; if that is where they are, restart the safety stage"
            )
        self._stop = None
        self._actions = None
        self._jumps = 0
        self._last_tick = None
        self._hold_measured()
        return ""

    # Output.

    def tick(self, at: Instant) -> SafetyOutput:
        """What to command now."""
        passed = 0.0 if self._last_tick is None else (at.steady - self._last_tick) / SECOND
        self._last_tick = at.steady
        if self.limiter.positions is None:
            return self._output(0, NO_JOINT_STATES, "", [])
        if passed > GAP * self._period:
            self.limiter.come_to_rest()
            passed = self._period
        action, code, details = self._action_at(at)
        positions, limited = self.limiter.step(passed, action)
        self._sent.append((at.time, positions))
        stamp = 0 if code else self._actions.stamp
        return self._output(stamp, code, details, limited)

    def _output(self, stamp: int, code: str, details: str, limited: list[str]) -> SafetyOutput:
        state = STOPPED if self._stop else HOLDING if code else FOLLOWING
        motion, stop = self.limiter.motion, self.limiter.way_to_rest
        gripper = self.limiter.gripper
        return SafetyOutput(motion, stop, gripper, stamp, state, code, details, tuple(limited))

    def _action_at(self, at: Instant) -> tuple[np.ndarray | None, str, str]:
        """The action in force, or a code and details why there is none."""
        if self._stop is not None:
            return None, *self._stop
        if self._are_joints_stale(at):
            return None, JOINT_STATES_STALE, ""
        outside = self._outside_limits()
        if outside:
            return None, OUTSIDE_LIMITS, outside
        timeout = self._heartbeat_timeout
        if timeout and (self._heartbeat_at is None or at.steady - self._heartbeat_at > timeout):
            return None, HEARTBEAT_MISSING, ""
        if self._has_two_sources(at):
            return None, TWO_SOURCES, "more than one sender of actions and plans"
        actions = self._actions
        if actions is None:
            return None, NO_ACTION, ""
        if actions.stamp <= self._held[0] <= at.time + FUTURE:
            return None, HOLD_REQUESTED, self._held[1]
        age = at.time - actions.stamp
        row = max(age // self._time_step, 0)
        is_stale = (
            max(age, self._silence(actions.arrived, at)) > self._action_timeout
            or age < -FUTURE
            or (row >= len(actions.rows) > 1)
        )
        if is_stale:
            return None, ACTION_STALE, ""
        return actions.rows[min(row, len(actions.rows) - 1)], "", ""

    # Judging inputs.

    @property
    def _is_cold(self) -> bool:
        is_new = self._actions is None or self.limiter.positions is None
        return is_new and not self.is_stopped

    @property
    def _are_joints_steady(self) -> bool:
        """In lock-step the world stands still until the first is answered."""
        return self._is_lockstep or self._steady >= STEADY

    @property
    def _is_at_rest(self) -> bool:
        return self._is_lockstep or bool(np.ptp(self._recent, axis=0).max() <= REST)

    def _check_age(self, topic: str, stamp: int, at: Instant, timeout: int) -> None:
        age = at.time - stamp
        if age > timeout:
            raise StaleInput(
                f"{topic} is {age / SECOND:.3f} s old, expected at most {timeout / SECOND:g} s"
            )
        if age < -FUTURE:
            raise StaleInput(
                f"{topic} is stamped {-age / SECOND:.3f} s in the future, expected the past"
            )

    def _check_jump(self, positions: np.ndarray, stamp: int) -> None:
        """Count what agrees with the joint state before; while the arm is driven, drop the rest."""
        if self._measured is None:
            return
        passed = max(stamp - self._measured_at.time, 0) / SECOND
        most = self._fastest_jump * passed + JUMP_FLOOR
        excess = np.abs(positions - self._measured) - most
        joint = int(np.argmax(excess))
        if excess[joint] <= 0:
            self._jumps = 0
            self._steady += 1
            return
        self._steady = 0
        if self.is_stopped or self._is_cold:
            return
        self._jumps += 1
        text = (
            f"{self.contract.joint_names[joint]} jumped by "
            f"{positions[joint] - self._measured[joint]:.3f} rad in {passed:.3f} s"
        )
        if self._jumps >= JUMPS:
            self.stop(JOINT_JUMP, text)
        raise ValueError(f"joint_states: {text}, expected at most {most[joint]:.3f} rad")

    def _check_tracking(self) -> None:
        """Measured joints are compared with what was commanded when they were measured."""
        if self.is_stopped or self._is_cold or not self._sent:
            return
        stamp = self._measured_at.time
        earlier = (positions for time, positions in reversed(self._sent) if time <= stamp)
        lag = np.max(np.abs(next(earlier, self._sent[0][1]) - self._measured))
        if lag <= self.contract.safety.tracking_tolerance:
            return
        if not self._is_dry_run:
            self.stop(TRACKING, f"the joints are {lag:.3f} rad from where they were commanded")
        elif self._are_joints_steady:
            self._hold_measured()

    def _hold_measured(self) -> None:
        self.limiter.reset(self._measured, self._gripper)
        self._sent.clear()

    def _silence(self, arrived: int, at: Instant) -> int:
        """How long nothing new has come, in ns."""
        return 0 if self._is_lockstep else at.steady - arrived

    def _are_joints_stale(self, at: Instant) -> bool:
        if self._measured is None:
            return True
        age = at.time - self._measured_at.time
        return (
            max(age, self._silence(self._measured_at.steady, at)) > self._joint_timeout
            or age < -FUTURE
        )

    def _outside_limits(self) -> str:
        positions = self.limiter.positions
        beyond = np.maximum(self._lower - positions, positions - self._upper)
        joint = int(np.argmax(beyond))
        if beyond[joint] <= OUTSIDE:
            return ""
        limits = self.contract.joints[joint]
        return (
            f"{limits.name} is at {positions[joint]:.3f} rad, "
            f"expected {limits.lower:g} to {limits.upper:g}"
        )

    def _has_two_sources(self, at: Instant) -> bool:
        """Whether more than one sender was heard within the action's timeout."""
        heard = {s: t for s, t in self._sources.items() if at.steady - t <= self._action_timeout}
        self._sources = heard
        return len(heard) > 1
