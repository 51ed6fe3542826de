"""Configurator node: brings the other nodes up, keeps them up, and configures them for the task."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PointStamped, PoseStamped
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODES, OFF
from jepa_robot.modules.configurator import MODULES, PREPARED, Configuration, Configurator
from jepa_robot.modules.execution import CONTROLS, FAILED, RUNNING, Execution
from jepa_robot.modules.guide import Levels
from jepa_robot.modules.tasks import InvalidTask, Task, load_task
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import DATA, KEPT_ACKNOWLEDGEMENTS, LATCHED
from jepa_robot.nodes.recalling import Recalling
from jepa_robot.nodes.resumption import Resumption
from jepa_robot.nodes.runtime import BESIDE, STEADY, main
from jepa_robot.nodes.supervision import Supervised

SUPERVISION_PERIOD = 0.05  # s
SWAP_AFTER = 5  # time steps until a bundle is in force: by then all were told
PREPARATION_TIMEOUT = 20.0  # s, for all to load a bundle
STEADILY = ("distance", "seconds")  # what changes of a report while a task goes on
PROGRESS_PERIOD = 0.2  # s between two reports of a task that goes on


@dataclass(frozen=True)
class _Swap:
    """A bundle that all modules are to load before any of them uses it."""

    bundle: Bundle
    configurator: Configurator
    configuration: Configuration
    until: float


class ConfiguratorNode(AgentNode):
    """Executive control.

    Takes tasks (``task``: a name or YAML), goals (``goal_pose``, ``goal_image``, ``goal_point``),
    bundles (``bundle``: a name or folder) and the parameter ``mode``; publishes the one
    configuration in force and, on ``task_status``, how it stands. Watches the state, goes from
    subgoal to subgoal, and tells on ``progress`` how far the task is; ``~/start``, ``~/pause``,
    ``~/resume`` and ``~/cancel`` are of the task in force.
    """

    takes_configurations = False

    def __init__(self) -> None:
        super().__init__("configurator")
        self.declare_parameter("task", "reach")
        self.declare_parameter("mode", 0)
        self.declare_parameter("managed_nodes", list(MODULES))
        self._supervised = [Supervised(self, name) for name in self.parameter("managed_nodes")]
        self._task: Task | None = None
        self._execution: Execution | None = None
        self._in_force: Task | None = None  # its part under way, or on hold
        self._levels: Levels | None = None  # of it, where an upper level finds subgoals
        self._activation = 0  # ns: what was seen before is not of what is in force
        self._latent: np.ndarray | None = None  # of what was seen last
        self._held = ""  # by the safety stage: why
        self._told, self._told_at = "", 0.0  # of progress
        self._resumption: Resumption | None = None
        self._is_active = False
        self._sent_version = self._requests = 0
        self._said = {"task": "", "subgoal": "", "mode": OFF, "goal": "none"}
        self._acknowledged: dict[str, str] = {}
        self._swap: _Swap | None = None
        self._swapped_at = 0  # ns: nothing of the new bundle is in force before
        self._status_text = self._error = ""
        self.add_on_set_parameters_callback(self._on_parameters)
        for name in CONTROLS:
            self.create_service(Trigger, f"~/{name}", partial(self._on_service, name))
        self.create_timer(SUPERVISION_PERIOD, self._supervise, clock=STEADY)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def setup(self) -> None:
        self._publisher = self.publisher(String, "configuration", LATCHED)
        self._status = self.publisher(String, "task_status", LATCHED)
        self._progress = self.publisher(String, "progress", LATCHED)
        self._recalling = Recalling(self)
        self._resumption = Resumption(self.contract.name, self.get_namespace())
        resumed = self._resumption.read(self.bundle.space)
        if resumed is not None and Path(resumed[2]) != self.bundle.path.resolve():
            try:
                self.bundle = self._learned_bundle(resumed[2])
            except (ValueError, OSError) as error:
                self.get_logger().warning(f"goes on with bundle {self.bundle.id}: {error}")

    def build(self, bundle: Bundle) -> Configurator:
        return Configurator(self.contract, bundle)

    def adopt(self, built: Configurator) -> None:
        self._configurator, self._levels = built, None

    def _learned_bundle(self, path: str) -> Bundle:
        """A bundle to use in the place of the one in use.

        Raises:
            ValueError, OSError: says what is wrong with it.
        """
        loading = (self.parameter(name) for name in ("threads", "provider"))
        bundle = Bundle(path, *loading)
        bundle.check_fits(self.contract)
        bundle.check_space(self.bundle)
        bundle.check_runs()
        return bundle

    def connect(self) -> None:
        self.subscribe(String, "configuration_ack", self._on_ack, KEPT_ACKNOWLEDGEMENTS)
        for message_type, topic, read in (
            (String, "task", lambda message: load_task(message.data)),
            (PoseStamped, "goal_pose", self._with_goal_pose),
            (Image, "goal_image", self._with_goal_image),
            (PointStamped, "goal_point", self._with_goal_point),
        ):
            self.subscribe(message_type, topic, partial(self._on_request, read), DATA)
        self.subscribe(String, "bundle", self._on_bundle, DATA)
        self.subscribe(Image, "state", self._on_state, DATA)
        self.subscribe(Image, "recalled", self._on_recalled, DATA)
        self.subscribe(DiagnosticStatus, "safety_state", self._on_safety_state, LATCHED)
        try:
            if self._execution is not None:
                self._go_on()
            elif (resumed := self._resumed_task()) is not None:
                self._begin(*resumed)
            elif (task := self._start_up_task()) is not None:
                self._begin(self._configurator.resolved(task))
        except InvalidTask as error:
            self.diagnostics.error(str(error))

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._is_active = True
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self._is_active = False
        return super().on_deactivate(state)

    def destroy_node(self) -> None:
        if self._resumption is not None:
            self._resumption.clear()
        super().destroy_node()

    def _resumed_task(self) -> tuple[Task, list[str]] | None:
        """What the configurator before us was at when it died, if one did, and what was done."""
        resumed = self._resumption.read(self.bundle.space)
        if resumed is None:
            return None
        task, self._sent_version, _, done = resumed
        self.get_logger().info(f"task {task.name} is taken up again")
        return task, done

    def _start_up_task(self) -> Task | None:
        name, mode = self.parameter("task"), self.parameter("mode")
        if not name:
            return None
        task = load_task(name)
        return replace(task, mode=mode) if mode else task

    def _on_request(self, read: Callable[[Any], Task], message: Any) -> None:
        """Take up what a user asks for; what cannot be taken up puts the arm on hold."""
        self._recalling.forget()
        try:
            task = read(message)
            ages = tuple(part.goal_ago for part in task.each() if part.goal_ago)
            if ages:
                self._recalling.ask(task, ages, self.bundle)
            else:
                self._accept(task)
        except ValueError as error:
            self._refuse(error)
            raise

    def _accept(self, task: Task, recalled: Sequence[np.ndarray] = ()) -> None:
        task = self._configurator.resolved(task, recalled)
        self._requests += 1
        self._begin(task)

    def _refuse(self, error: ValueError) -> None:
        self._requests += 1
        self._recalling.forget()
        self._error = str(error)
        if self._execution is not None:
            self._execution.pause()
            self._go_on()
        self._publish_status()

    def _on_recalled(self, message: Image) -> None:
        """What memory told: the task that waited for it can begin."""
        try:
            recalled = self._recalling.answer(message, self.bundle)
            if recalled is not None:
                self._accept(*recalled)
        except ValueError as error:
            self._refuse(error)
            raise

    def _with_goal_pose(self, message: PoseStamped) -> Task:
        position = messages.read_goal_pose(message, self.contract)
        return self._configurator.with_position(self._need_task("goal_pose"), position)

    def _with_goal_image(self, message: Image) -> Task:
        images = messages.read_goal_image(message, self.contract.cameras)
        return self._configurator.with_image(self._need_task("goal_image"), images)

    def _with_goal_point(self, message: PointStamped) -> Task:
        task = self._need_task("goal_point")
        if self._latent is None:
            raise InvalidTask("goal_point came before anything was seen, expected a state first")
        pixel = (message.point.x, message.point.y)
        return self._configurator.with_point(task, message.header.frame_id, pixel, self._latent)

    def _need_task(self, topic: str) -> Task:
        """The task in force, to be given another goal: that is then all of it."""
        if self._task is None:
            raise InvalidTask(f"{topic} came without a task, expected one on topic task first")
        return replace(self._task, subgoals=())

    def _begin(self, task: Task, done: Sequence[str] = ()) -> None:
        """Put a task in force for all modules, from the next observation on."""
        execution, self._error = Execution(task, done), ""
        self._publish_configuration(execution.in_force, task.name)
        self._task, self._execution, self._levels = task, execution, None
        self._keep_for_resumption()
        self._publish_progress()

    def _go_on(self) -> None:
        """Put in force what the task has come to."""
        execution, self._levels = self._execution, None
        self._publish_configuration(execution.in_force, self._task.name)
        self._keep_for_resumption()
        if execution.state == FAILED:
            self.diagnostics.error(execution.reason)
        elif execution.state != RUNNING:
            self.get_logger().info(f"task {self._task.name}: {execution.state}")
        self._publish_progress()

    def _on_service(
        self, name: str, request: Trigger.Request, response: Trigger.Response
    ) -> Trigger.Response:
        """Start the task anew, pause, resume or cancel it."""
        execution = self._execution
        if not self._is_active or execution is None:
            response.message = f"there is nothing to {name}, expected a task on topic task first"
            return response
        if name == "start":
            self._begin(self._task)
            response.success = True
        elif getattr(execution, name)():
            self._go_on()
            response.success = True
        response.message = f"task {self._task.name} is {self._execution.state}"
        return response

    def _on_safety_state(self, message: DiagnosticStatus) -> None:
        self._held = "" if message.level == DiagnosticStatus.OK else message.message
        self._publish_progress()

    def _on_state(self, message: Image) -> None:
        """Watch how far the task is."""
        state = messages.read_tensor(message, "state", self.bundle.state_size)
        self._latent = self.bundle.latent(state)[0]
        stamp, execution = messages.from_time(message.header.stamp), self._execution
        if execution is None or stamp < self._activation:
            return

        def distance(task: Task) -> float | None:
            return self._configurator.distance(task, self._latent)

        if execution.observe(stamp, distance, bool(self._held)):
            self._go_on()
        else:
            self._publish_progress()
        if execution.state == RUNNING and self._swap is None:
            self._ask_lower_level(stamp, state)

    def _ask_lower_level(self, stamp: int, state: np.ndarray) -> None:
        """Where an upper level is to find subgoals: the next is the lower one's goal."""
        task = self._execution.in_force
        if task.levels == 1:
            return
        if self._levels is None or self._levels.task is not task:
            self._levels = self._configurator.levels(task)
        if self._levels is None:  # there is no goal yet
            return
        asked = self._levels.observe(stamp, state)
        if asked is not None:
            self._publish_configuration(asked, self._task.name)

    def _publish_progress(self) -> None:
        """Where anything but numbers changed at once, else now and then."""
        if self._execution is None:
            return
        report = {**self._execution.report(), "held": self._held, "ahead": self._told_ahead()}
        steady = {name: report[name] for name in report if name not in STEADILY}
        text, now = json.dumps(steady), time.monotonic()
        if text == self._told and now - self._told_at < PROGRESS_PERIOD:
            return
        self._told, self._told_at = text, now
        self.diagnostics.values |= {name: report[name] for name in ("state", "subgoal", "distance")}
        self._progress.publish(String(data=json.dumps(report)))

    def _told_ahead(self) -> list[list[float]]:
        """What the upper level asks for now, and then where it expects that to lead (m)."""
        if self._levels is None or self._levels.ahead is None:
            return []
        ahead = self._levels.ahead
        return np.round([ahead.subgoal, *ahead.path], 3).tolist()

    def _keep_for_resumption(self) -> None:
        """What goes on is taken up again after a crash; what is paused or over is not."""
        execution = self._execution
        try:
            if execution.state == RUNNING:
                done = execution.done
                self._resumption.write(self._task, done, self._sent_version, self.bundle)
            else:
                self._resumption.clear()
        except OSError as error:
            self.diagnostics.error(f"{self._resumption.path}: {error.strerror}")

    def _publish_configuration(self, task: Task, name: str) -> None:
        """Put a task, a part of the one that is named, in force."""
        sections = self._configurator.sections(task)
        self._in_force = task
        subgoal = "" if task.name == name else task.name
        self._said = {"task": name, "subgoal": subgoal, "mode": task.mode, "goal": task.goal}
        self._sent_version += 1
        self._acknowledged = {}
        activation = self._activation = max(self.now(), self._swapped_at)
        configuration = self._configuration(activation, task, self.bundle, sections)
        self._publisher.publish(String(data=configuration.to_json()))
        self.get_logger().info(f"task {task.name}, mode {task.mode}: version {self._sent_version}")
        self._publish_status()
        if self._swap is not None:  # what was prepared was for the task before
            self._prepare(self._swap.bundle, self._swap.configurator)

    def _configuration(
        self, activation: int, task: Task, bundle: Bundle, sections: dict
    ) -> Configuration:
        path = str(bundle.path.resolve())
        return Configuration(self._sent_version, activation, bundle.id, task.name, sections, path)

    def _on_bundle(self, message: String) -> None:
        """Put another bundle of the same latent space in force; what cannot be stays out."""
        try:
            bundle = self._learned_bundle(message.data)
            if bundle.id != self.bundle.id:
                self._prepare(bundle, self.build(bundle))
        except (ValueError, OSError) as error:
            self._refuse_bundle(message.data, str(error))

    def _prepare(self, bundle: Bundle, configurator: Configurator) -> None:
        """Let all modules load a bundle, for the task in force."""
        self._swap = None
        task = self._in_force
        if task is None:
            self.bundle = bundle
            self.adopt(configurator)
            return
        sections = configurator.sections(task)
        self._sent_version += 1
        self._acknowledged = {}
        configuration = self._configuration(PREPARED, task, bundle, sections)
        until = time.monotonic() + PREPARATION_TIMEOUT
        self._swap = _Swap(bundle, configurator, configuration, until)
        self._publisher.publish(String(data=configuration.to_json()))

    def _look_after_swap(self) -> None:
        """Put a bundle in force that all have loaded; or give it up, and say why."""
        swap = self._swap
        if swap is None:
            return
        names = [node.name for node in self._supervised]
        refused = [f"{name}: {text}" for name, text in self._acknowledged.items() if text]
        away = [name for name in names if name not in self._acknowledged]
        if refused or (away and time.monotonic() > swap.until):
            why = "; ".join(refused) or f"not loaded by {away} in {PREPARATION_TIMEOUT:g} s"
            self._swap = None
            self._refuse_bundle(swap.bundle.id, why)
            self._publish_configuration(self._in_force, self._task.name)
        elif not away:
            self._swap = None
            ahead = int(SWAP_AFTER * 1e9 * self.contract.rates.time_step)
            self._swapped_at = self.now() + ahead
            told = replace(swap.configuration, activation=self._swapped_at)
            self._publisher.publish(String(data=told.to_json()))
            self.bundle = swap.bundle
            self.adopt(swap.configurator)
            self.diagnostics.values["bundle"] = self.bundle.id
            self.get_logger().info(f"bundle {self.bundle.id}: version {told.version}")
            self._keep_for_resumption()

    def _refuse_bundle(self, name: str, why: str) -> None:
        self._error = f"bundle {name} is refused: {why}"
        self.diagnostics.error(self._error)
        self._publish_status()

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name != "mode":
                continue
            if parameter.value not in MODES:
                reason = f"mode is {parameter.value!r}, expected one of {list(MODES)}"
                return SetParametersResult(successful=False, reason=reason)
            if self._task is not None and parameter.value:
                parts = (replace(part, mode=parameter.value) for part in self._task.each())
                self._task = self._task.with_each(parts)
                self._execution.change(self._task)
                self._go_on()
        return SetParametersResult(successful=True)

    def _on_ack(self, message: String) -> None:
        ack = json.loads(message.data)
        if not isinstance(ack, dict) or not {"node", "version", "error"} <= set(ack):
            raise ValueError(
                f"configuration_ack is {message.data[:80]!r}, expected node, version and error"
            )
        if ack["version"] == self._sent_version:
            self._acknowledged[ack["node"]] = ack["error"]
            if ack["error"]:
                self.diagnostics.error(f"{ack['node']}: {ack['error']}")
            self._publish_status()

    def _supervise(self) -> None:
        if not self._is_active:
            return
        now = time.monotonic()
        for node in self._supervised:
            node.step(now)
            if node.problem:
                self.diagnostics.error(node.problem)
        states = {node.name: node.state for node in self._supervised}
        self.diagnostics.values.update(states)
        away = [f"{name} is {state}" for name, state in states.items() if state != "active"]
        if away:
            self.diagnostics.warn("; ".join(away))
        self._look_after_swap()
        if (error := self._recalling.overdue()) is not None:
            self._refuse(error)
            self.diagnostics.error(str(error))
        self._publish_status()

    def _publish_status(self) -> None:
        awaited = [
            node.name
            for node in self._supervised
            if not node.is_active or self._acknowledged.get(node.name) != ""
        ]
        status = {
            **self._said,
            "error": self._error,
            "requests": self._requests,
            "version": self._sent_version,
            "bundle": self.bundle.id,
            "in_force": self._sent_version > 0 and not awaited,
            "awaited": awaited,
            "refused": {name: text for name, text in self._acknowledged.items() if text},
        }
        text = json.dumps(status)
        if text != self._status_text:
            self._status_text = text
            self._status.publish(String(data=text))


def run() -> None:
    main(ConfiguratorNode, niceness=BESIDE)


if __name__ == "__main__":
    run()
