"""Talks to a running agent: gives tasks and goals, stops, releases and listens."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PointStamped, PoseStamped
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.modules.execution import CONTROLS
from jepa_robot.nodes import messages
from jepa_robot.nodes.messages import DATA, LATCHED
from jepa_robot.nodes.runtime import interrupts_wait
from jepa_robot.robot.contract import RobotContract

SERVICES = ("safety/stop", "safety/release", "memory/save")
PATIENCE = 2.0  # s without an answer, after which a request is sent again


class AgentTimeout(TimeoutError):
    """The agent did not do what was waited for; the message holds its last diagnostics."""


class AgentClient:
    """A user's side of the agent. A context manager; call from one thread only.

    Args:
        contract: of the robot that the agent drives.
        namespace: of the agent.
        watch: called while waiting, for example to respawn processes.
    """

    def __init__(
        self,
        contract: RobotContract,
        namespace: str = "",
        watch: Callable[[], object] = lambda: None,
    ) -> None:
        self.contract, self._watch = contract, watch
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("agent_client", namespace=namespace, context=self._context)
        # Not the events executor: it wants a standard error that is a file, which notebooks lack.
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.status: dict = {}
        self.progress: dict = {}
        self.safety_state: DiagnosticStatus | None = None
        self.diagnostics: dict[str, DiagnosticStatus] = {}
        self.commanded: np.ndarray | None = None
        self.answered_at = 0.0  # s on the steady clock, when a command last answered an observation
        self.result: dict = {}
        create = self.node.create_publisher
        self._task = create(String, "task", DATA)
        self._goal_pose = create(PoseStamped, "goal_pose", DATA)
        self._goal_image = create(Image, "goal_image", DATA)
        self._goal_point = create(PointStamped, "goal_point", DATA)
        self._episode = create(String, "simulator/episode", DATA)
        self._action = create(Image, "action", messages.COMMAND)
        self._clients = {
            name: self.node.create_client(Trigger, name)
            for name in (*SERVICES, *(f"configurator/{name}" for name in CONTROLS))
        }
        self.listen(String, "task_status", self._on_status, LATCHED)
        self.listen(String, "progress", self._on_progress, LATCHED)
        self.listen(DiagnosticStatus, "safety_state", self._on_safety_state, LATCHED)
        self.listen(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)
        self.listen(JointTrajectory, "command_echo", self._on_echo, DATA)
        self.listen(String, "simulator/result", self._on_result, LATCHED)

    def __enter__(self) -> AgentClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def listen(self, message_type: type, topic: str, callback: Callable, qos: Any) -> None:
        self.node.create_subscription(message_type, topic, callback, qos)

    def spin(self, seconds: float = 0.02) -> None:
        """Let callbacks run for a moment."""
        with interrupts_wait():
            self._executor.spin_once(timeout_sec=seconds)
        self._watch()

    def wait(self, condition: Callable[[], Any], what: str, timeout: float = 30.0) -> Any:
        """Spin until ``condition`` holds and return what it returned.

        Raises:
            AgentTimeout: names ``what`` was waited for and what the agent last said.
        """
        deadline = time.monotonic() + timeout
        while not (value := condition()):
            if time.monotonic() > deadline:
                raise AgentTimeout(f"waited {timeout:g} s for {what}; {self.complaints()}")
            self.spin()
        return value

    def complaints(self) -> str:
        """What is not well, in the agent's own words."""
        said = [
            f"{name}: {status.message}"
            for name, status in sorted(self.diagnostics.items())
            if status.level != DiagnosticStatus.OK
        ]
        if self.safety_state is None or self.safety_state.level != DiagnosticStatus.OK:
            held = self.safety_state.message if self.safety_state else "its state did not arrive"
            said.append(f"safety_state: {held}")
        if not self.status:
            said.append("task_status did not arrive")
        elif self.status["awaited"]:
            version, awaited = self.status["version"], ", ".join(self.status["awaited"])
            said.append(f"task_status: configuration {version} awaits {awaited}")
        return "; ".join(said) or "no node complains"

    def message_of(self, name: str) -> str:
        """What a node last said on /diagnostics; empty if nothing."""
        path = f"{self.node.get_namespace().rstrip('/')}/{name}"
        status = self.diagnostics.get(path)
        return status.message if status else ""

    def state_of(self, name: str) -> str:
        """The lifecycle state of a node, in words."""
        client = self.node.create_client(GetState, f"{name}/get_state")
        return self._answer(client, GetState.Request()).current_state.label

    def transition(self, name: str, label: str) -> None:
        """Ask a node for a lifecycle transition.

        Raises:
            ValueError: if it fails.
        """
        request = ChangeState.Request()
        request.transition.label = label
        client = self.node.create_client(ChangeState, f"{name}/change_state")
        if not self._answer(client, request).success:
            raise ValueError(f"{name} failed to {label}; {self.complaints()}")

    def _answer(self, client: Any, request: Any) -> Any:
        self.wait(client.service_is_ready, f"service {client.srv_name}")
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {client.srv_name}")
        return future.result()

    def _ask_again(self, client: Any) -> Trigger.Response:
        """An answer to a request that does no harm twice.

        The first answer of a process that has just come back may be lost: DDS finds the two
        directions of a service one after the other.
        """
        self.wait(client.service_is_ready, f"service {client.srv_name}")
        asked: list[tuple[float, Any]] = []

        def answered() -> Any:
            now = time.monotonic()
            if not asked or now - asked[-1][0] > PATIENCE:
                asked.append((now, client.call_async(Trigger.Request())))
            return next((future for _, future in asked if future.done()), None)

        return self.wait(answered, f"an answer of {client.srv_name}").result()

    # Tasks and goals.

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Wait until every module is active under the start-up task."""
        self.wait(lambda: self.status.get("in_force"), "the agent to be ready", timeout)

    def set_task(self, text: str) -> None:
        """A task's name or YAML, in force when this returns."""
        self._ask(self._task, String(data=text), "the task")

    def set_goal_position(self, position: Sequence[float], frame: str = "") -> None:
        """A goal in m in ``frame``, by default the base frame, in force when this returns."""
        pose = PoseStamped()
        pose.header.frame_id = frame or self.contract.base_frame
        point = pose.pose.position
        point.x, point.y, point.z = (float(v) for v in position)
        pose.pose.orientation.w = 1.0
        self._ask(self._goal_pose, pose, "the goal position")

    def set_goal_point(self, camera: str, x: float, y: float) -> None:
        """The place that a camera's picture shows at a pixel, in force when this returns."""
        point = PointStamped()
        point.header.frame_id = camera
        point.point.x, point.point.y = float(x), float(y)
        self._ask(self._goal_point, point, "the goal point")

    def set_goal_image(self, images: Sequence[np.ndarray]) -> None:
        """Goal images, one a camera, in force when this returns.

        This and the other requests raise a ValueError with the agent's words if it refuses.
        """
        message = messages.goal_image_message(images, self.contract.cameras[0], 0)
        self._ask(self._goal_image, message, "the goal image")

    def _ask(self, publisher: Any, message: Any, what: str, timeout: float = 30.0) -> None:
        self._match(publisher)
        self.wait(lambda: self.status, "the configurator's status")
        before = self.status["requests"]
        publisher.publish(message)

        def is_settled() -> bool:
            status = self.status
            is_settled = status["in_force"] or status["refused"] or status["error"]
            return status["requests"] > before and is_settled

        self.wait(is_settled, f"{what} to be in force", timeout)
        refusal = self.status["error"] or self.status["refused"]
        if refusal:
            raise ValueError(f"{what} was refused: {refusal}")

    def _match(self, publisher: Any) -> None:
        self.wait(
            lambda: publisher.get_subscription_count() > 0, f"a subscriber on {publisher.topic}"
        )

    # The safety stage, the simulator, and actions of one's own.

    def call(self, name: str) -> str:
        """Call one of `SERVICES`, or ``configurator/`` and one of `CONTROLS`.

        Returns:
            What it answered.

        Raises:
            ValueError: it refused; with its words.
        """
        answer = self._ask_again(self._clients[name])
        if not answer.success:
            raise ValueError(f"{name}: {answer.message}")
        return answer.message

    def place_arm(self, joints: np.ndarray, episode: str, scene: dict | None = None) -> None:
        """Put a simulated arm at joints ``[J]`` (rad), at rest, held by the safety stage.

        Args:
            joints: of the arm.
            episode: an id.
            scene: the simulator's episode as JSON values; None leaves the scene as it is.
        """
        self.call("safety/stop")
        self.start_episode(episode, joints, 0, scene)
        self.wait(lambda: self.result.get("id") == episode, "the simulator to place the arm")
        measured = np.array(self.result["joints"])

        def is_held() -> bool:
            with contextlib.suppress(ValueError):  # not before the joint states agree
                self.call("safety/release")
            for _ in range(10):
                self.spin()
                if self.commanded is not None and np.array_equal(self.commanded, measured):
                    return True
            return False

        self.wait(is_held, "the safety stage to hold the placed arm")

    def start_episode(
        self, episode: str, joints: np.ndarray | None, frames: int, scene: dict | None = None
    ) -> None:
        """Tell the simulator to place the arm (or not) and run ``frames`` frames in lock-step."""
        start = None if joints is None else [float(v) for v in joints]
        self._match(self._episode)
        request = {"id": episode, "start": start, "frames": frames, "episode": scene}
        self._episode.publish(String(data=json.dumps(request)))

    def act(self, action: np.ndarray, stamp: int, bundle: str) -> None:
        """Publish an action ``[1, A]`` in the actor's place."""
        with interrupts_wait():
            self._action.publish(messages.tensor_message(action, stamp, bundle))

    def _on_status(self, message: String) -> None:
        self.status = json.loads(message.data)

    def _on_progress(self, message: String) -> None:
        self.progress = json.loads(message.data)

    def _on_safety_state(self, message: DiagnosticStatus) -> None:
        self.safety_state = message

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name] = status

    def _on_echo(self, message: JointTrajectory) -> None:
        self.commanded = np.array(message.points[0].positions[: len(self.contract.joints)])
        if messages.from_time(message.header.stamp):
            self.answered_at = time.monotonic()

    def _on_result(self, message: String) -> None:
        self.result = json.loads(message.data)
