"""Configurator node: brings the other nodes up, keeps them up, and configures them for the task."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from geometry_msgs.msg import PoseStamped
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import String

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODES, OFF
from jepa_robot.modules.configurator import (
    MODULES,
    PREPARED,
    Configuration,
    Configurator,
    InvalidTask,
    Task,
    load_task,
)
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import DATA, KEPT_ACKNOWLEDGEMENTS, LATCHED
from jepa_robot.nodes.resumption import Resumption
from jepa_robot.nodes.runtime import BESIDE, STEADY, main

SUPERVISION_PERIOD = 0.05  # s
POLL_PERIOD = 0.3  # s between two looks at a node that is as it should be
RETRY_PERIOD = 2.0  # s before a transition that failed is tried again
ANSWER_TIMEOUT = 0.25  # s, then it is asked again: a process that died never answers
RENEWAL_PERIOD = 1.5  # s without an answer, after which it is asked through other clients
SILENCE_TIMEOUT = 2.0  # s without an answer, after which a node counts as not answering
SWAP_AFTER = 5  # time steps until a bundle is in force: by then all were told
PREPARATION_TIMEOUT = 20.0  # s, for all to load a bundle
TRANSITION_TIMEOUT = 30.0  # s: loading a bundle for the first time takes a while
NEXT = {
    State.PRIMARY_STATE_UNCONFIGURED: Transition.TRANSITION_CONFIGURE,
    State.PRIMARY_STATE_INACTIVE: Transition.TRANSITION_ACTIVATE,
}


class Supervised:
    """One managed node: asked for its state, and led to active whenever it is not."""

    def __init__(self, node: Node, name: str) -> None:
        self.name, self._node = name, node
        self._create_clients()
        self._future = None
        self._is_changing = False
        self._deadline = self._next_look = self._answered_at = 0.0
        self._renewed_at = time.monotonic()
        self.state = "not there"
        self.problem = ""

    @property
    def is_active(self) -> bool:
        return self.state == "active"

    def _create_clients(self) -> None:
        self._get = self._node.create_client(GetState, f"{self.name}/get_state")
        self._change = self._node.create_client(ChangeState, f"{self.name}/change_state")

    def _renew_clients(self, now: float) -> None:
        """What DDS lost of its discovery is made up for when there is something new to discover.

        Else a node that is back, and heard, goes unanswered for up to ten seconds now and then.
        """
        for client in (self._get, self._change):
            self._node.destroy_client(client)
        self._create_clients()
        self._renewed_at = now

    def step(self, now: float) -> None:
        """Look after the node; never blocks."""
        if self._future is not None:
            if self._future.done():
                self._take_answer(now)
            elif now > self._deadline:
                client = self._change if self._is_changing else self._get
                client.remove_pending_request(self._future)
                self._future = None
                if now - self._answered_at > SILENCE_TIMEOUT:
                    self.state = "does not answer"
            return
        if now < self._next_look:
            return
        if now - max(self._answered_at, self._renewed_at) > RENEWAL_PERIOD:
            self._renew_clients(now)
        if not self._get.service_is_ready():
            self.state = "not there"
            return
        self._ask(self._get, GetState.Request(), now + ANSWER_TIMEOUT, False)

    def _ask(self, client, request, deadline: float, is_changing: bool) -> None:
        self._future = client.call_async(request)
        self._deadline, self._is_changing = deadline, is_changing

    def _take_answer(self, now: float) -> None:
        answer, self._future = self._future.result(), None
        self._answered_at = now
        if self._is_changing:
            self.problem = "" if answer.success else f"a transition of {self.name} failed"
            self._next_look = now if answer.success else now + RETRY_PERIOD
            return
        self.state = answer.current_state.label
        transition = NEXT.get(answer.current_state.id)
        if transition is None:
            self._next_look = now + POLL_PERIOD
            return
        request = ChangeState.Request()
        request.transition.id = transition
        self._ask(self._change, request, now + TRANSITION_TIMEOUT, True)


@dataclass(frozen=True)
class _Swap:
    """A bundle that all modules are to load before any of them uses it."""

    bundle: Bundle
    configurator: Configurator
    configuration: Configuration
    until: float


class ConfiguratorNode(AgentNode):
    """Executive control.

    Takes tasks (``task``: a name or YAML), goals (``goal_pose``, ``goal_image``), bundles
    (``bundle``: a name or folder) and the parameter ``mode``; publishes the one configuration in
    force and, on ``task_status``, how it stands.
    """

    takes_configurations = False

    def __init__(self) -> None:
        super().__init__("configurator")
        self.declare_parameter("task", "reach")
        self.declare_parameter("mode", 0)
        self.declare_parameter("managed_nodes", list(MODULES))
        self._supervised = [Supervised(self, name) for name in self.parameter("managed_nodes")]
        self._task: Task | None = None
        self._in_force: Task | None = None  # that, or on hold
        self._resumption: Resumption | None = None
        self._is_active = False
        self._sent_version = self._requests = 0
        self._said = {"task": "", "mode": OFF, "goal": "none"}
        self._acknowledged: dict[str, str] = {}
        self._swap: _Swap | None = None
        self._swapped_at = 0  # ns: nothing of the new bundle is in force before
        self._status_text = self._error = ""
        self.add_on_set_parameters_callback(self._on_parameters)
        self.create_timer(SUPERVISION_PERIOD, self._supervise, clock=STEADY)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def setup(self) -> None:
        self._publisher = self.publisher(String, "configuration", LATCHED)
        self._status = self.publisher(String, "task_status", LATCHED)
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
        self._configurator = built

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
        ):
            self.subscribe(message_type, topic, partial(self._on_request, read), DATA)
        self.subscribe(String, "bundle", self._on_bundle, DATA)
        try:
            if self._task is None:
                self._task = self._resumed_task() or self._start_up_task()
            if self._task is not None:
                self._take(self._task)
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

    def _resumed_task(self) -> Task | None:
        """What the configurator before us was at when it died, if one did."""
        resumed = self._resumption.read(self.bundle.space)
        if resumed is None:
            return None
        task, self._sent_version, _ = resumed
        self.get_logger().info(f"task {task.name} is taken up again")
        return task

    def _start_up_task(self) -> Task | None:
        name, mode = self.parameter("task"), self.parameter("mode")
        if not name:
            return None
        task = load_task(name)
        return replace(task, mode=mode) if mode else task

    def _on_request(self, read: Callable[[Any], Task], message: Any) -> None:
        """Take up what a user asks for; what cannot be taken up puts the arm on hold."""
        self._requests += 1
        try:
            self._take(read(message))
        except ValueError as error:
            self._error = str(error)
            if self._task is not None:
                self._resumption.clear()
                self._publish_configuration(replace(self._task, mode=OFF))
            self._publish_status()
            raise

    def _with_goal_pose(self, message: PoseStamped) -> Task:
        position = messages.read_goal_pose(message, self.contract)
        return self._configurator.with_position(self._need_task("goal_pose"), position)

    def _with_goal_image(self, message: Image) -> Task:
        images = messages.read_goal_image(message, self.contract.cameras)
        return self._configurator.with_image(self._need_task("goal_image"), images)

    def _need_task(self, topic: str) -> Task:
        if self._task is None:
            raise InvalidTask(f"{topic} came without a task, expected one on topic task first")
        return self._task

    def _take(self, task: Task) -> None:
        """Put a task in force for all modules, from the next observation on."""
        self._error = ""
        self._publish_configuration(task)
        self._task = task
        self._keep_for_resumption(task)

    def _keep_for_resumption(self, task: Task) -> None:
        try:
            self._resumption.write(task, self._sent_version, self.bundle)
        except OSError as error:
            self.diagnostics.error(f"{self._resumption.path}: {error.strerror}")

    def _publish_configuration(self, task: Task) -> None:
        sections = self._configurator.sections(task)
        self._in_force = task
        self._said = {"task": task.name, "mode": task.mode, "goal": task.goal}
        self._sent_version += 1
        self._acknowledged = {}
        activation = max(self.now(), self._swapped_at)
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
            self._publish_configuration(self._in_force)
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
            if self._in_force is self._task:
                self._keep_for_resumption(self._task)

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
                self._take(replace(self._task, mode=parameter.value))
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
        self._publish_status()

    def _publish_status(self) -> None:
        names = [node.name for node in self._supervised]
        status = {
            **self._said,
            "error": self._error,
            "requests": self._requests,
            "version": self._sent_version,
            "bundle": self.bundle.id,
            "in_force": self._sent_version > 0
            and all(self._acknowledged.get(name) == "" for name in names)
            and all(node.is_active for node in self._supervised),
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
