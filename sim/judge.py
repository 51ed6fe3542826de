"""Judges what a robot was commanded against its contract. Shares no code with our limiter.

Positions, steps and speeds are judged by when DDS sent a command; accelerations and jerks by the
time that the safety stage claims for each (``command_echo``), since sending jitters by as much as a
period. Where the robot's links are is PyBullet's word, not Pinocchio's.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.geometry import Geometry
from jepa_robot_sim.recording import Recording

SILENCE = 5  # periods without a command, after which a new stream of commands begins
JITTER = 0.02  # s that sending may be off, beside two periods
TOLERANCE = 0.01  # of velocity, acceleration and jerk
ANCHOR = 0.03  # rad: a stream that is no continuation begins where the joints truly are
WORKSPACE_TOLERANCE = 0.005  # m
GEOMETRY_PERIOD = 0.04  # s between commands whose geometry is judged
SAME = 1e-9  # rad
CLOCK_NOISE = 1e-4  # s between the two clocks that a tick is timed by


@dataclass(frozen=True)
class Violation:
    """A command that must not have been sent: when (s), by which rule, and the figures."""

    time: float
    rule: str
    what: str
    value: float
    limit: float


class Judge:
    """Judges recordings of one robot.

    Args:
        contract: whose limits count.
    """

    def __init__(self, contract: RobotContract) -> None:
        self._contract = contract
        self._period = 1 / contract.rates.safety
        self._geometry = Geometry(contract)

    def close(self) -> None:
        self._geometry.close()

    def judge(self, recording: Recording, is_clock_sound: bool = True) -> list[Violation]:
        """All violations in the commands of our own safety stage.

        Args:
            recording: what came and how the joints moved.
            is_clock_sound: False where the clock was tampered with; what is judged by claimed
                times is then left out.
        """
        ours = np.array([name == "safety" for name in recording.senders] or [False])
        mine = ours[recording.command_sender] if len(recording.command_sender) else []
        times, commands = recording.command_time[mine], recording.command[mine]
        numbers = recording.command_number[mine]
        violations = self._judge_positions(times, commands)
        for begin, end in self._streams(times):
            part = slice(begin, end)
            violations += self._judge_steps(times[part], commands[part], recording)
            violations += self._judge_speeds(times[part], commands[part], recording)
            if begin and numbers[begin] <= numbers[begin - 1] + 1:  # else some were lost
                violations += self._judge_begin(times, commands, begin, recording)
        violations += self._judge_echo(recording, is_clock_sound)
        violations += self._judge_geometry(times, commands)
        return sorted(violations, key=lambda violation: violation.time)

    def _streams(self, times: np.ndarray) -> list[tuple[int, int]]:
        """Where silence divides the commands."""
        breaks = np.flatnonzero(np.diff(times) > SILENCE * self._period) + 1
        edges = [0, *breaks.tolist(), len(times)]
        return [(a, b) for a, b in itertools.pairwise(edges) if b > a]

    def _judge_positions(self, times: np.ndarray, commands: np.ndarray) -> list[Violation]:
        lower, upper = self._contract.limits("lower"), self._contract.limits("upper")
        found = []
        for k, j in np.argwhere(~np.isfinite(commands)):
            found.append(Violation(times[k], "finite", self._joint(j), commands[k, j], 0.0))
        beyond = np.maximum(lower - commands, commands - upper)
        for k, j in np.argwhere(beyond > 1e-6):
            limit = lower[j] if commands[k, j] < lower[j] else upper[j]
            found.append(Violation(times[k], "position", self._joint(j), commands[k, j], limit))
        return found

    def _is_anchor(self, time: float, command: np.ndarray, recording: Recording) -> bool:
        """Whether a command is where the joints truly are: the arm was moved by other means."""
        if not len(recording.joints_time):
            return False
        k = np.searchsorted(recording.joints_time, time) - 1
        near = recording.joints[max(k - 3, 0) : k + 3]
        return bool(len(near)) and np.abs(near - command).max(axis=1).min() <= ANCHOR

    def _judge_steps(
        self, times: np.ndarray, commands: np.ndarray, recording: Recording
    ) -> list[Violation]:
        """No command is further from the one before than a late tick may go."""
        most = SILENCE * self._period * self._contract.limits("velocity") * (1 + TOLERANCE)
        steps = np.abs(np.diff(commands, axis=0))
        return [
            Violation(times[k + 1], "step", self._joint(j), steps[k, j], most[j])
            for k, j in np.argwhere(steps > most)
            if not self._is_anchor(times[k + 1], commands[k + 1], recording)
        ]

    def _judge_speeds(
        self, times: np.ndarray, commands: np.ndarray, recording: Recording
    ) -> list[Violation]:
        """Over any window of time, no joint goes further than its speed allows."""
        limit = self._contract.limits("velocity")
        found = []
        for gap in (5, 25, 50):
            moved = np.abs(commands[gap:] - commands[:-gap])
            passed = times[gap:] - times[:-gap]
            most = limit * (passed + 2 * self._period + JITTER)[:, None] * (1 + TOLERANCE)
            for k, j in np.argwhere(moved > most)[:5]:
                if not self._has_anchor(times[k : k + gap + 1], commands[k : k + gap + 1]):
                    speed = moved[k, j] / max(passed[k], 1e-9)
                    found.append(Violation(times[k], "speed", self._joint(j), speed, limit[j]))
        return found

    def _has_anchor(self, times: np.ndarray, commands: np.ndarray) -> bool:
        """A step that is itself too large is judged as a step."""
        most = SILENCE * self._period * self._contract.limits("velocity")
        return bool((np.abs(np.diff(commands, axis=0)) > most).any())

    def _judge_begin(
        self, times: np.ndarray, commands: np.ndarray, begin: int, recording: Recording
    ) -> list[Violation]:
        """A stream begins at the last command of the one before, or where the joints are.

        A tick that was late by almost the silence may still make up for it.
        """
        off = np.abs(commands[begin] - commands[begin - 1])
        is_short = times[begin] - times[begin - 1] <= SILENCE * self._period + 2 * JITTER
        periods = SILENCE if is_short else 2
        most = periods * self._period * self._contract.limits("velocity") * (1 + TOLERANCE)
        if (off <= most).all() or self._is_anchor(times[begin], commands[begin], recording):
            return []
        j = int(np.argmax(off - most))
        return [Violation(times[begin], "begin", self._joint(j), off[j], most[j])]

    def _judge_echo(self, recording: Recording, is_clock_sound: bool) -> list[Violation]:
        """Speed, acceleration and jerk: as claimed, and by differences in claimed time."""
        found = []
        names = ("velocity", "acceleration")
        for row, name in enumerate(names, start=1):
            limit = self._contract.limits(name)
            for k, j in np.argwhere(np.abs(recording.echo[:, row]) > limit * (1 + TOLERANCE)):
                value = recording.echo[k, row, j]
                found.append(
                    Violation(recording.echo_time[k], name, self._joint(j), value, limit[j])
                )
        if not is_clock_sound or len(recording.echo) < 2:
            return found
        passed = np.diff(recording.echo_tick) / 1e9
        in_stream = (passed > 1e-6) & (passed <= SILENCE * self._period)
        for row, name in enumerate((*names, "jerk")):
            limit = self._contract.limits(name)
            change = np.abs(np.diff(recording.echo[:, row], axis=0))
            most = limit * (passed + CLOCK_NOISE)[:, None] * (1 + TOLERANCE) + SAME
            for k, j in np.argwhere((change > most) & in_stream[:, None]):
                if self._is_at_rest(recording.echo[k + 1]) and self._is_anchor(
                    recording.echo_time[k + 1], recording.echo[k + 1, 0], recording
                ):
                    continue
                value = change[k, j] / passed[k]
                found.append(
                    Violation(recording.echo_time[k + 1], name, self._joint(j), value, limit[j])
                )
        return found

    @staticmethod
    def _is_at_rest(echo: np.ndarray) -> bool:
        return not echo[1:].any()

    def _judge_geometry(self, times: np.ndarray, commands: np.ndarray) -> list[Violation]:
        """The hand in the workspace, links apart from each other and from obstacles."""
        found, last = [], -np.inf
        lower, upper = (np.array(corner) for corner in self._contract.workspace)
        outside_before = None
        for time, command in zip(times, commands, strict=True):
            if time - last < GEOMETRY_PERIOD or not np.isfinite(command).all():
                continue
            last = time
            self._geometry.place(command)
            hand = self._geometry.hand()
            outside = float(np.max(np.maximum(lower - hand, hand - upper)))
            allowed = max(0.0, outside_before or 0.0) + WORKSPACE_TOLERANCE
            if outside_before is not None and outside > allowed:
                found.append(Violation(time, "workspace", "hand", outside, 0.0))
            outside_before = outside
            for name, distance in self._geometry.contacts():
                found.append(Violation(time, "collision", name, distance, 0.0))
        return found

    def _joint(self, index: int) -> str:
        return self._contract.joint_names[int(index)]
