"""The simulated-robot node: speaks exactly what an arm and cameras under ros2_control speak.

Two clocks. ``realtime``: physics follows the wall clock. ``lockstep``: the node ticks /clock in
safety periods and holds the world until the command_echo that answers its last image has come, so
runs repeat to the bit on any machine. /clock is global: one lock-step world a ROS domain.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Float64MultiArray, String
from trajectory_msgs.msg import JointTrajectory

from jepa_robot.nodes import messages
from jepa_robot.nodes.adapters import adapter, gripper
from jepa_robot.nodes.adapters.base import JointCommand
from jepa_robot.nodes.messages import COMMAND, DATA, LATCHED, SENSOR_OUT
from jepa_robot.nodes.runtime import STEADY, Diagnostics, ros, spin
from jepa_robot.robot.contract import load_contract
from jepa_robot.robot.profile import JointMotion
from jepa_robot.robot.tracking import tracking_velocities
from jepa_robot_sim.arm import PHYSICS_RATE, STEP_NS, SimulatedArm
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.in_process import begin_episode
from jepa_robot_sim.scenes import Randomisation
from jepa_robot_sim.tasks import TASKS, Reach, make_task
from jepa_robot_sim.world import labels_of

CLOCKS = ("realtime", "lockstep")
AT_ONCE = 1e-4  # s in which two clocks are read
MAX_BEHIND = 50  # physics steps that real time may catch up on; beyond that it lets them go
RESEND_AFTER = 2.0  # s: a held world shows its last observation again to whoever came late
REALTIME_PERIOD = 0.004  # s


@dataclass(frozen=True)
class _Echo:
    """What the safety stage says it commanded: for which observation, at which tick (both ns)."""

    observation: int
    tick: int
    motion: JointMotion
    gripper: float | None


class SimulatorNode(Node):
    """A simulated arm. Commands are joint commands only, and the last one is kept for ever.

    ``~/episode`` (JSON: id, start [J] or null, frames, episode or null) puts the arm at rest at
    ``start``, the scene as the episode has it and, in lock-step, runs that many frames;
    ``~/result`` answers it. ``~/ground_truth`` is for judges.
    """

    def __init__(self) -> None:
        super().__init__("simulator")
        self.declare_parameter("robot", "panda")
        self.declare_parameter("clock", CLOCKS[0])
        self.declare_parameter("gui", False)
        self.declare_parameter("paused", False)
        self.declare_parameter("scene", "")
        self.declare_parameter("distractors", 0)
        self.contract = load_contract(self.get_parameter("robot").value)
        clock = self.get_parameter("clock").value
        if clock not in CLOCKS:
            raise ValueError(f"clock is {clock!r}, expected one of {list(CLOCKS)}")
        self.is_lockstep = clock == "lockstep"
        self.arm = self._set_up()
        self.diagnostics = Diagnostics(self)
        self.diagnostics.ok(clock)
        self._joint_states = self.create_publisher(JointState, "joint_states", SENSOR_OUT)
        self._images = [
            (
                self.create_publisher(Image, camera.topic, SENSOR_OUT),
                self.create_publisher(CameraInfo, camera.info_topic, SENSOR_OUT),
            )
            for camera in self.contract.cameras
        ]
        self._truth = self.create_publisher(String, "~/ground_truth", DATA)
        self._result = self.create_publisher(String, "~/result", LATCHED)
        self._adapter = adapter(self.contract)
        self.create_subscription(
            self._adapter.message_type, self.contract.controller.topic, self._on_command, COMMAND
        )
        if self.contract.gripper is not None:
            self.create_subscription(
                gripper.message_type, self.contract.gripper.topic, self._on_gripper, COMMAND
            )
        self.create_subscription(String, "~/episode", self._on_episode, DATA)
        if self.is_lockstep:
            self._clock = self.create_publisher(Clock, "/clock", 10)
            self.create_subscription(JointTrajectory, "command_echo", self._on_echo, DATA)
        self._command: JointCommand | None = None
        self._gripper: float | None = None
        self._shown = JointState()  # what was last published
        self._echo: _Echo | None = None
        self._request: dict | None = None
        self._frames_left = 0 if self.get_parameter("paused").value else None
        self._ticked = -1

    def _set_up(self) -> SimulatedArm:
        """The arm, in the first episode of the scene's task; alone for a task that is not ours."""
        name, gui = self.get_parameter("scene").value, self.get_parameter("gui").value
        self._last: Episode | None = None
        randomisation = Randomisation(distractors=self.get_parameter("distractors").value)
        task = make_task(name if name in TASKS else Reach.name, self.contract, randomisation)
        arm = SimulatedArm(self.contract, gui=gui, scene=task.scene)
        if task.scene is not None:
            self._last = task.sample(np.random.default_rng(0))
            arm.arrange(self._last)
        return arm

    def _on_command(self, message) -> None:
        try:
            self._command = self._adapter.read(message)
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        if not self.is_lockstep:
            self._apply_command()

    def _on_gripper(self, message: Float64MultiArray) -> None:
        try:
            self._gripper = gripper.read(message, self.contract.gripper)
        except ValueError as error:
            self.diagnostics.error(str(error))
            return
        if not self.is_lockstep:
            self.arm.command_gripper(self._gripper)

    def _apply_command(self) -> None:
        if self._command.velocities is not None:
            self.arm.command_velocities(self._command.velocities)
        else:
            self.arm.command(self._command.positions)

    def _on_echo(self, message: JointTrajectory) -> None:
        observation = messages.from_time(message.header.stamp)
        point, joints = message.points[0], len(self.contract.joints)
        tick = observation + messages.from_time(point.time_from_start)
        rows = (point.positions, point.velocities, point.accelerations)
        motion = JointMotion(*(np.array(row[:joints]) for row in rows))
        opening = point.positions[joints] if len(point.positions) > joints else None
        self._echo = _Echo(observation, tick, motion, opening)

    def _on_episode(self, message: String) -> None:
        try:
            request = json.loads(message.data)
            start, frames = request["start"], int(request["frames"])
            if start is not None:
                start = np.array(start, float)
                if start.shape != (len(self.contract.joints),) or not np.isfinite(start).all():
                    raise ValueError(f"start is {start.tolist()}")
            if frames < 0:
                raise ValueError(f"frames is {frames}")
            episode = request.get("episode")
            if episode is not None:
                episode = Episode.from_dict(episode)
                self.arm.check(episode)
                if episode.variation.latency:
                    raise ValueError(f"latency is {episode.variation.latency}, expected 0 in ROS")
            self._request = {
                "id": request["id"],
                "start": start,
                "frames": frames,
                "episode": episode or self._last,
            }
        except (ValueError, KeyError, TypeError) as error:
            self.diagnostics.error(
                f"episode is {message.data!r} ({error}), expected JSON with id, start, frames and "
                "episode"
            )

    # What it publishes.

    def _publish_joint_states(self, stamp: int) -> None:
        arm, fingers = self.arm.joint_states(), self.arm.gripper_states()
        names = self.contract.joint_names
        if self.contract.gripper is not None:
            names = (*names, *self.contract.gripper.joints)
        values = (np.concatenate(pair) for pair in zip(arm, fingers, strict=True))
        self._shown = messages.joint_state_message(names, *values, stamp)
        self._joint_states.publish(self._shown)

    def _publish_images(self, stamp: int) -> None:
        images = self.arm.images()
        for camera, image, (publisher, _) in zip(
            self.contract.cameras, images, self._images, strict=True
        ):
            publisher.publish(messages.image_message(image, camera, stamp))
        for camera, (_, publisher) in zip(self.contract.cameras, self._images, strict=True):
            publisher.publish(messages.camera_info_message(camera, stamp))
        truth = {"stamp": stamp, "ee_position": self.arm.ee_position().tolist()}
        truth["labels"] = self._labels()
        self._truth.publish(String(data=json.dumps(truth)))

    def _publish_result(self) -> None:
        result = {"id": self._episode, "ee_position": self.arm.ee_position().tolist()}
        result["labels"] = self._labels()
        result["joints"] = self.arm.joint_states()[0].tolist()
        self._result.publish(String(data=json.dumps(result)))

    def _labels(self) -> dict[str, list[float]]:
        return {name: value.tolist() for name, value in labels_of(self.arm).items()}

    # Real time.

    def run_realtime(self, executor: SingleThreadedExecutor) -> None:
        """Follow the wall clock until shutdown."""
        self._begin = time.monotonic()
        self._offset = self.get_clock().now().nanoseconds - round(1e9 * self._begin)
        self.create_timer(REALTIME_PERIOD, self._catch_up, clock=STEADY)
        spin(executor)

    def _catch_up(self) -> None:
        if self._request is not None:
            self._episode = self._request["id"]
            start, self._last = self._request["start"], self._request["episode"]
            if start is not None and self._last is not None:
                self.arm.arrange(self._last, start)
            elif start is not None:
                self.arm.reset(start)
            self._request = None
            self._publish_result()
        due = int((time.monotonic() - self._begin) * PHYSICS_RATE) - self.arm.steps
        if due > MAX_BEHIND:
            self._begin += (due - MAX_BEHIND) / PHYSICS_RATE
            self.diagnostics.warn(f"{due * 2} ms behind the wall clock, expected to keep up")
            due = MAX_BEHIND
        self._follow_clock()
        for _ in range(due):
            self.arm.step()
            if self.arm.steps % self.arm.every["joint_states"] == 0:
                # When it was, not when we got there: who is held up here must not seem to jump.
                stamp = self._offset + round(1e9 * self._begin) + self.arm.steps * STEP_NS
                self._publish_joint_states(stamp)
                if self.arm.steps % self.arm.every["image"] == 0:
                    self._publish_images(stamp)

    def _follow_clock(self) -> None:
        """Learn how far the node's clock is from the steady one; not when held up in between."""
        before = time.monotonic()
        now = self.get_clock().now().nanoseconds
        after = time.monotonic()
        if after - before < AT_ONCE:
            self._offset = now - round(1e9 * after)

    # Lock-step.

    def run_lockstep(self, executor: SingleThreadedExecutor) -> None:
        """Step the world as its commands come, until shutdown."""
        while rclpy.ok():
            if self._request is not None:
                self._start_episode(executor)
            if self._frames_left == 0:
                self._tick()
                executor.spin_once(timeout_sec=0.05)
                continue
            self._lockstep_once(executor)

    def _start_episode(self, executor: SingleThreadedExecutor) -> None:
        request, self._request = self._request, None
        self._episode, self._frames_left = request["id"], request["frames"]
        positions = self.arm.joint_states()[0] if request["start"] is None else request["start"]
        self._last = request["episode"]
        begin_episode(self.arm, positions, self._last)
        now = self.arm.time_ns

        def show() -> None:
            self._publish_joint_states(now)
            self._tick()

        show()
        self._wait(executor, lambda: self._echo and self._echo.tick == now, show)
        if self._frames_left == 0:
            self._publish_result()

    def _lockstep_once(self, executor: SingleThreadedExecutor) -> None:
        arm, now = self.arm, self.arm.time_ns
        is_joint_states, is_image, is_tick = (
            arm.steps % arm.every[name] == 0 for name in ("joint_states", "image", "safety")
        )
        if is_joint_states:
            self._publish_joint_states(now)
        if is_image:
            self._publish_images(now)

            def show_again() -> None:
                self._publish_joint_states(now)
                self._publish_images(now)

            self._wait(executor, lambda: self._echo and self._echo.observation == now, show_again)
        if is_tick and self._ticked < now:
            self._tick()

            def remind() -> None:
                self._joint_states.publish(self._shown)  # they are subscribed to best effort
                self._tick()

            self._wait(executor, lambda: self._is_answered(now), remind)
            if self._request is not None or not rclpy.ok():
                return
            self._apply_command()
            if self._gripper is not None:
                arm.command_gripper(self._gripper)
        if self._request is not None:
            return
        arm.step()
        if self._frames_left is not None and arm.steps % arm.every["image"] == 0:
            self._frames_left -= 1
            if self._frames_left == 0:
                self._publish_result()

    def _tick(self) -> None:
        self._ticked = self.arm.time_ns
        self._clock.publish(Clock(clock=messages.to_time(self.arm.time_ns)))

    def _is_answered(self, tick: int) -> bool:
        """The safety stage has commanded for this tick, and that command has come."""
        echo, command = self._echo, self._command
        if echo is None or echo.tick != tick or command is None:
            return False
        if command.velocities is not None:
            measured = np.array(self._shown.position[: len(self.contract.joints)])
            wanted = tracking_velocities(self.contract, echo.motion, measured)
            is_arm = np.array_equal(wanted, command.velocities)
        else:
            is_arm = np.array_equal(echo.motion.positions, command.positions)
        return is_arm and (echo.gripper is None or echo.gripper == self._gripper)

    def _wait(
        self,
        executor: SingleThreadedExecutor,
        condition: Callable[[], bool],
        remind: Callable[[], None],
    ) -> None:
        """Hold the world until the condition is met, or an episode is asked for."""
        since = time.monotonic()
        while rclpy.ok() and self._request is None and not condition():
            executor.spin_once(timeout_sec=0.05)
            if time.monotonic() - since > RESEND_AFTER:
                self.diagnostics.warn("the world is held until the agent answers")
                since = time.monotonic()
                remind()


def run() -> None:
    with ros() as executor:
        node = SimulatorNode()
        executor.add_node(node)
        try:
            (node.run_lockstep if node.is_lockstep else node.run_realtime)(executor)
        finally:
            node.arm.close()


if __name__ == "__main__":
    run()
