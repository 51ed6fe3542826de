"""Runs fault cases on one running agent with a fake robot, and judges what the robot was told."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from _fault_cases import RELAYED, Case
from diagnostic_msgs.msg import DiagnosticStatus
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from jepa_robot import graph
from jepa_robot.graph import Settings
from jepa_robot.modules.tasks import load_task, task_text
from jepa_robot.nodes import messages
from jepa_robot.nodes.adapters import adapter
from jepa_robot.nodes.client import AgentClient, AgentTimeout
from jepa_robot.nodes.messages import COMMAND, DATA
from jepa_robot.nodes.runtime import ANSWERING, SAFETY, schedule
from jepa_robot.processes import ProcessGroup, prepare_child
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.geometry import project
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.profile import JointMotion, ProfileGenerator
from jepa_robot_sim.judge import Judge, Violation
from jepa_robot_sim.recording import Recording

RECOVERY_TIMEOUT = 15.0  # s
FROZEN_PIXELS = 2.0  # that the hand must have moved before a frozen picture can be told
ROGUE_PERIOD = 0.02  # s
MANAGED = graph.AGENT[:-1]  # all but the configurator, whose status says how it stands
REST = 1e-6  # rad between commands of an arm at rest


@dataclass
class Verdict:
    """What came of a case: times in s, None where they do not apply; ``problems`` in words."""

    case: Case
    violations: list[Violation] = field(default_factory=list)
    hold: float | None = None
    recovery: float | None = None
    codes: tuple[str, ...] = ()
    commands: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def is_failure(self) -> bool:
        return bool(self.violations or self.problems)


class FaultBench:
    """An agent in its processes, driven through a fake robot. A context manager.

    Args:
        contract: the robot's.
        robot: its name or file.
        bundle: the agent's.
        folder: for logs and recordings.
        is_clocked: everything on the fake robot's /clock.
    """

    def __init__(
        self,
        contract: RobotContract,
        robot: str,
        bundle: str,
        folder: Path,
        is_clocked: bool = False,
    ) -> None:
        self.contract, self._folder = contract, folder
        self._judge, self._kinematics = Judge(contract), Kinematics(contract)
        folder.mkdir(parents=True, exist_ok=True)
        relays = {name: f"{name}_relayed" for name in RELAYED}
        settings = Settings(
            robot=robot,
            model=bundle,
            use_sim_time=is_clocked,
            remappings={
                "actor": {"state": relays["state"]},
                "safety": {name: relays[name] for name in ("action", "plan")},
            },
        )
        self._parameters = {
            "robot": robot,
            "publishes_clock": is_clocked,
            "relayed_topics": list(RELAYED),
            "file": str(folder / "recording.npz"),
        }
        self._group = ProcessGroup(settings, folder / "logs")
        self._mode = 0
        self._goals = itertools.cycle(self._corners())
        self._codes: list[tuple[float, str]] = []

    def __enter__(self) -> FaultBench:
        self._start_robot()
        self._group.__enter__()
        self.client = AgentClient(self.contract, watch=self._group.watch)
        node = self.client.node
        self._fault = node.create_publisher(String, "fake_robot/fault", DATA)
        self._services = {
            name: node.create_client(Trigger, f"fake_robot/{name}") for name in ("begin", "end")
        }
        self.client.listen(
            DiagnosticStatus, "safety_state", self._on_safety_state, messages.LATCHED
        )
        self.client.wait_until_ready()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.__exit__()
        self._group.close()
        self._robot.terminate()
        self._robot.wait()
        self._judge.close()

    def run(self, case: Case) -> Verdict:
        """One case, from a moving arm to a moving arm."""
        verdict = Verdict(case)
        rng = np.random.default_rng(case.seed)
        try:
            self._get_moving(case.mode)
            self._call("begin")
            self._spin(rng.uniform(0.05, 0.5))
            begin = time.monotonic()
            self._codes.clear()
            self._apply(case, begin, rng)
            self._wait_for_recovery(case, verdict, begin)
        except (AgentTimeout, ValueError) as error:
            verdict.problems.append(str(error))
        try:
            self._call("end")
            recording = Recording.load(self._folder / "recording.npz")
        except (AgentTimeout, ValueError, OSError) as error:
            verdict.problems.append(f"no recording: {error}")
            return verdict
        verdict.commands = len(recording.command_time)
        verdict.violations = self._judge.judge(recording, not case.is_clocked)
        verdict.codes = tuple(dict.fromkeys(code for _, code in self._codes if code))
        self._check_hold(case, verdict, recording)
        if verdict.is_failure:
            name = f"{case.name} {case.mode} {case.seed}".replace(" ", "_")
            (self._folder / "recording.npz").replace(self._folder / f"{name}.npz")
        return verdict

    # The steps of a case.

    def _get_moving(self, mode: int) -> None:
        """The agent healthy, in its mode, on its way to the next goal."""
        client = self.client
        client.wait(lambda: client.status.get("in_force"), "the agent to be in force")
        goal = next(self._goals)
        if mode != self._mode:
            task = load_task("reach")
            planner = {**task.planner, "iterations": 3}
            text = task_text(type(task)(task.name, mode, task.weights, planner))
            client.set_task(text)
            self._mode = mode
        client.set_goal_position(goal)
        client.wait(self._is_following, "the arm to follow")

    def _apply(self, case: Case, begin: float, rng: np.random.Generator) -> None:
        """Do what the case is about, for as long as it says."""
        if case.fault:
            fault = {**case.fault, "for": case.duration}
            self._fault.publish(String(data=json.dumps(fault)))
        kind, *rest = case.act.split()[:3] if case.act else ("",)
        if kind == "kill":
            self._kill(*rest, case.duration)
        elif kind == "rogue":
            self._be_rogue(rest[0], begin + case.duration, rng)
        elif kind == "stop":
            self._stop(rest[0], case.duration)
        self._spin(max(begin + case.duration - time.monotonic(), 0))

    def _kill(self, name: str, node: str, duration: float) -> None:
        process = self._group.processes[node]
        process.send_signal(getattr(signal, name))
        if name == "SIGSTOP":
            self._spin(duration)
            process.send_signal(signal.SIGCONT)
            return
        process.wait()
        self._spin(0.0)
        self.client.diagnostics.pop(f"/{node}", None)
        if node == "configurator":
            self.client.status = {}

    def _stop(self, phase: str, duration: float) -> None:
        if phase == "ramping":
            self.client.call("safety/stop")
            self._release()
            self.client.wait(lambda: self._safety_level() == DiagnosticStatus.OK, "a new start")
        elif phase == "held":
            self._spin(0.75 * duration)
        self.client.call("safety/stop")
        if phase == "restarted":
            self._kill("SIGKILL", "safety", 0.0)
            self.client.safety_state = None
            self.client.wait(lambda: self.client.safety_state, "the safety stage to be back")
            if self._safety_level() != DiagnosticStatus.ERROR:
                raise ValueError("a stop did not outlive the safety stage")

    def _be_rogue(self, topic: str, until: float, rng: np.random.Generator) -> None:
        """Publish where only one node may."""
        node = self.client.node
        if topic == "command":
            made = adapter(self.contract, self._kinematics)
            motion = JointMotion.at_rest(np.array(self.contract.home))
            command = made.message(motion, ProfileGenerator(self.contract).stop(motion), None, 0)
            publisher = node.create_publisher(
                made.message_type, self.contract.controller.topic, COMMAND
            )
        else:
            publisher = node.create_publisher(Image, f"{topic}_relayed", COMMAND)
        try:
            while time.monotonic() < until:
                if topic == "command":
                    publisher.publish(command)
                else:
                    rows = 1 if topic == "action" else 5
                    action = rng.uniform(-1, 1, (rows, self.contract.actions.size))
                    stamp = node.get_clock().now().nanoseconds
                    publisher.publish(messages.tensor_message(action, stamp, "rogue"))
                self._spin(ROGUE_PERIOD)
        finally:
            node.destroy_publisher(publisher)

    def _wait_for_recovery(self, case: Case, verdict: Verdict, begin: float) -> None:
        """Until the task goes on; a latched stop must have lasted, and is released."""
        client, stopped = self.client, False
        if case.act.startswith("stop"):
            client.wait(lambda: self._safety_level() == DiagnosticStatus.ERROR, "a latched stop")
        if self._safety_level() == DiagnosticStatus.ERROR:
            stopped = True
            if case.act.startswith("stop"):
                self._check_rest(verdict)
            self._release()
        since = time.monotonic()
        if case.is_kill:
            since = begin
            name = case.act.split()[2]
            client.wait(lambda: self._is_back(name), f"{name} to be back", RECOVERY_TIMEOUT)
        client.wait(
            lambda: client.status.get("in_force") and self._follows_freshly(),
            "the task to go on",
            RECOVERY_TIMEOUT,
        )
        if not stopped:
            verdict.recovery = max(time.monotonic() - since, 0.0)

    def _check_rest(self, verdict: Verdict) -> None:
        """After a stop the commands come to rest and stay there."""
        self._spin(1.0)
        at_rest = self.client.commanded
        self._spin(0.5)
        moved = float(np.abs(self.client.commanded - at_rest).max())
        if moved > REST:
            verdict.problems.append(f"a stopped arm moved by {moved:.4f} rad")

    def _check_hold(self, case: Case, verdict: Verdict, recording: Recording) -> None:
        """The expected code came, and soon enough."""
        if not case.codes:
            return
        if not set(case.codes) & set(verdict.codes):
            verdict.problems.append(
                f"{' or '.join(case.codes)} was expected, {', '.join(verdict.codes) or 'none'} came"
            )
        since = self._since(case, recording)
        if since is None:
            return
        held = (recording.echo_time >= since) & (recording.echo_stamp == 0)
        if not held.any():
            verdict.problems.append("no hold was commanded")
            return
        verdict.hold = float(recording.echo_time[np.argmax(held)] - since)

    def _since(self, case: Case, recording: Recording) -> float | None:
        """From when on a hold is timed, on the recording's clock."""
        begin = recording.event("fault")
        if begin is None or not case.since:
            return None
        what, _, which = case.since.partition(" ")
        if what == "told":
            return self._told_frozen(recording, begin)
        times = recording.image_time if which == "image" else recording.joints_time
        if what == "last":
            return float(times[times <= begin][-1])
        return float(times[times > begin][0])

    def _told_frozen(self, recording: Recording, begin: float) -> float | None:
        """When a frozen picture can be told: the hand has visibly moved since the last good one."""
        frames = recording.image_time
        last_good = frames[frames <= begin][-1]
        end = next((e["time"] for e in recording.events if e["kind"] == "end"), np.inf)
        for frame in frames[(frames > begin) & (frames < end)]:
            hands = [self._hand_at(recording, t) for t in (last_good, frame)]
            for camera in self.contract.cameras:
                pixels = [project(camera, hand) for hand in hands]
                if np.linalg.norm(pixels[1] - pixels[0]) > FROZEN_PIXELS:
                    return float(frame)
        return None

    def _hand_at(self, recording: Recording, when: float) -> np.ndarray:
        index = min(np.searchsorted(recording.joints_time, when), len(recording.joints) - 1)
        return self._kinematics.pose(recording.joints[index])[0]

    # Helpers.

    def _corners(self) -> list[np.ndarray]:
        """Goals at the workspace's corners, a little inside, each far from the one before."""
        lower, upper = (np.array(corner) for corner in self.contract.workspace)
        lower, upper = lower + 0.2 * (upper - lower), upper - 0.2 * (upper - lower)
        signs = [(0, 0, 0), (1, 1, 1), (1, 0, 0), (0, 1, 1), (0, 0, 1), (1, 1, 0), (0, 1, 0)]
        return [np.where(sign, upper, lower) for sign in signs]

    def _start_robot(self) -> None:
        arguments = ["--ros-args"]
        for name, value in self._parameters.items():
            arguments += ["-p", f"{name}:={json.dumps(value)}"]
        command = [sys.executable, "-m", "jepa_robot_sim.fake_robot", *arguments]
        log = (self._folder / "fake_robot.log").open("wb")
        environment = {**os.environ, **graph.environment()}
        self._robot = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, preexec_fn=_come_first
        )
        log.close()

    def _on_safety_state(self, message: DiagnosticStatus) -> None:
        values = {pair.key: pair.value for pair in message.values}
        self._codes.append((time.monotonic(), values.get("code", "")))

    def _safety_level(self) -> bytes | None:
        state = self.client.safety_state
        return state.level if state else None

    def _release(self) -> None:
        def is_released() -> bool:
            try:
                self.client.call("safety/release")
            except ValueError:
                return False
            self._spin(0.25)
            return self._safety_level() != DiagnosticStatus.ERROR

        self.client.wait(is_released, "the stop to be released")

    def _is_following(self) -> bool:
        if self._safety_level() == DiagnosticStatus.ERROR:
            self._release()
        return self._safety_level() == DiagnosticStatus.OK

    def _follows_freshly(self) -> bool:
        if not self._is_following():
            return False
        return bool(self.client.answered_at and time.monotonic() - self.client.answered_at < 0.2)

    def _is_back(self, name: str) -> bool:
        """A node that was killed says that it is at work; what it had said is forgotten."""
        said = self.client.message_of(name)
        return said == "active" if name in MANAGED else bool(said or self.client.status)

    def _call(self, name: str) -> None:
        future = self._services[name].call_async(Trigger.Request())
        self.client.wait(future.done, f"fake_robot/{name}")
        if not future.result().success:
            raise ValueError(f"fake_robot/{name}: {future.result().message}")

    def _spin(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.client.spin(min(0.02, max(until - time.monotonic(), 0.0)))


def _come_first() -> None:
    """A robot's controller is another computer, which has its processor to itself."""
    prepare_child()
    schedule(realtime=(SAFETY + ANSWERING) // 2)
