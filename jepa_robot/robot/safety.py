"""The safety stage: decides at every tick whether the arm follows, holds or is stopped. No ROS.

It trusts nobody upstream. This is not a certified safety function: a robot needs its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.limiter import SafetyLimiter

FOLLOWING, HOLDING, STOPPED = "following", "holding", "stopped"
LATE_TICK = 5  # periods: a stage that was itself held up does not catch up on more than this


@dataclass(frozen=True)
class SafetyOutput:
    """What one tick commands, and why.

    ``positions`` are the joint positions ``[J]`` (rad) to command, None while nothing is known of
    the robot; ``stamp`` (ns) is that of the observation which the action in force descends from,
    0 for none; ``state`` is following, holding or stopped; ``reason`` says why it does not follow;
    ``limited`` names the limits that acted.
    """

    positions: np.ndarray | None
    stamp: int
    state: str
    reason: str
    limited: tuple[str, ...]


class SafetyStage:
    """Turns timed actions into joint positions that are safe to send.

    Args:
        contract: limits, watchdog times, rates.
        stopped: begin with the stop latched, as it was before a restart.
    """

    def __init__(self, contract: RobotContract, stopped: str = "") -> None:
        self.contract = contract
        self.limiter = SafetyLimiter(contract)
        self.stop_reason = stopped
        self._time_step = round(contract.rates.time_step * 1e9)
        self._max_period = LATE_TICK / contract.rates.safety
        self._joint_timeout = int(contract.watchdogs.joint_states * 1e9)
        self._action_timeout = int(contract.watchdogs.action * 1e9)
        self._measured: np.ndarray | None = None
        self._measured_stamp = 0
        self._actions: np.ndarray | None = None
        self._actions_stamp = 0

    @property
    def is_stopped(self) -> bool:
        return bool(self.stop_reason)

    def observe(self, positions: np.ndarray, stamp: int) -> None:
        """Take measured joint positions ``[J]`` (rad) at ``stamp`` (ns).

        Until the first action since the start or a release, the arm holds where it is measured.
        """
        self._measured, self._measured_stamp = positions, stamp
        is_cold = self._actions is None and not self.is_stopped
        if self.limiter.positions is None or is_cold:
            self.limiter.reset(positions)

    def follow(self, actions: np.ndarray, stamp: int) -> None:
        """Take actions ``[R, A]``: row r is in force from ``stamp`` + r time steps.

        Of two with the same stamp the longer, a plan, counts.
        """
        is_older = stamp < self._actions_stamp - self._action_timeout
        if self._actions is None or stamp > self._actions_stamp or is_older:
            self._actions, self._actions_stamp = actions, stamp
        elif stamp == self._actions_stamp and len(actions) >= len(self._actions):
            self._actions = actions

    def stop(self, reason: str) -> None:
        """Latch a stop: the arm slows down and holds until it is released on purpose."""
        self.stop_reason = reason or "stopped"
        self._actions = None

    def release(self) -> str:
        """End a latched stop; the arm then holds where it is measured until a new action comes.

        Returns:
            An empty text, or why it cannot be released.
        """
        if self._measured is None:
            return "no joint_states yet, expected them before the stop is released"
        self.stop_reason = ""
        self._actions = None
        self.limiter.reset(self._measured)
        return ""

    def tick(self, now: int, period: float) -> SafetyOutput:
        """Command for ``now`` (ns), ``period`` s after the last tick."""
        if self._measured is None:
            return SafetyOutput(None, 0, HOLDING, "no_joint_states", ())
        lag = np.max(np.abs(self.limiter.positions - self._measured))
        if lag > self.contract.safety.tracking_tolerance and not self.is_stopped:
            self.stop(f"tracking: the joints are {lag:.3f} rad from where they were commanded")
            self.limiter.reset(self._measured)
        action, reason = self._action_at(now)
        positions, limited = self.limiter.step(min(period, self._max_period), action)
        state = STOPPED if self.is_stopped else HOLDING if reason else FOLLOWING
        stamp = 0 if reason else self._actions_stamp
        return SafetyOutput(positions, stamp, state, self.stop_reason or reason, tuple(limited))

    def _action_at(self, now: int) -> tuple[np.ndarray | None, str]:
        if self.is_stopped:
            return None, self.stop_reason
        if now - self._measured_stamp > self._joint_timeout:
            return None, "joint_states_stale"
        if self._actions is None:
            return None, "no_action"
        age = now - self._actions_stamp
        row = max(age // self._time_step, 0)
        if age > self._action_timeout or (row >= len(self._actions) > 1):
            return None, "action_stale"
        return self._actions[min(row, len(self._actions) - 1)], ""
