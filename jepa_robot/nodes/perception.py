"""Perception node: camera images and joint_states in, state out."""

from __future__ import annotations

from collections import deque
from functools import partial

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import Image, JointState

from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.modules.views import CameraWatch
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.messages import DATA, SENSOR_IN
from jepa_robot.nodes.runtime import ANSWERING, main
from jepa_robot.robot.contract import Camera

KEPT_JOINT_STATES = 100

# Stamp (ns), positions (rad), velocities (rad/s), the gripper's opening (m).
JointsThen = tuple[int, np.ndarray, np.ndarray, float | None]


class PerceptionNode(AgentNode):
    """Encodes each set of camera images of one instant.

    Joints stand where the nearest joint state's velocities take them by then: waiting for the next
    would cost up to its period.

    Bad images give no state; where they are no outlier it asks for a hold.
    """

    def __init__(self) -> None:
        super().__init__("perception")

    def setup(self) -> None:
        self._perception = Perception(self.bundle)  # the same for all bundles of a latent space
        self._watch = CameraWatch(self.contract)
        if not self._perception.tells_views:
            self.get_logger().warning(
                f"bundle {self.bundle.id} does not know its training pictures: "
                "only black and frozen cameras are noticed"
            )
        self._state = self.publisher(Image, "state", DATA)
        self._hold = self.publisher(DiagnosticArray, "hold", DATA)
        self._images: dict[str, tuple[int, np.ndarray]] = {}
        self._joints: deque[JointsThen] = deque(maxlen=KEPT_JOINT_STATES)
        self._together = int(1e9 * self.contract.rates.time_step / 2)
        self._joint_timeout = int(1e9 * self.contract.watchdogs.joint_states)

    def connect(self) -> None:
        self.subscribe(JointState, "joint_states", self._on_joint_states, SENSOR_IN)
        for camera in self.contract.cameras:
            self.subscribe(Image, camera.topic, partial(self._on_image, camera), SENSOR_IN)

    def apply(self, parsed: None) -> None:
        """A task begins: what comes next has no past."""
        self._perception.forget()

    def _on_joint_states(self, message: JointState) -> None:
        joints = messages.read_joint_state(message, self.contract)
        opening = messages.read_gripper(message, self.contract)
        self._joints.append((messages.from_time(message.header.stamp), *joints, opening))
        self._encode()

    def _on_image(self, camera: Camera, message: Image) -> None:
        image = messages.read_image(message, camera)
        self._images[camera.name] = (messages.from_time(message.header.stamp), image)
        self._encode()

    def _encode(self) -> None:
        if len(self._images) < len(self.contract.cameras) or not self._joints:
            return
        stamps = [stamp for stamp, _ in self._images.values()]
        stamp = min(stamps)
        if max(stamps) - stamp > self._together:
            return
        if self.is_lockstep and self._joints[-1][0] < stamp:
            return  # the joint state of that very instant is on its way
        # Of those that are as near the latest, should the clock stand still.
        nearest = min(reversed(self._joints), key=lambda entry: abs(entry[0] - stamp))
        images = [self._images[camera.name][1] for camera in self.contract.cameras]
        self._images.clear()
        if abs(nearest[0] - stamp) > self._joint_timeout:
            raise messages.InvalidMessage(
                f"joint_states are {abs(nearest[0] - stamp) / 1e9:.3f} s from the image, "
                f"expected at most {self.contract.watchdogs.joint_states:g} s"
            )
        self.configure_for(stamp)
        measured, positions, velocities, opening = nearest
        positions = positions + velocities * ((stamp - measured) / 1e9)
        observation = Observation(stamp, images, positions, velocities, opening)
        state, distances = self._perception.look(observation)
        problems = self._watch.judge(observation, distances)
        for camera, distance in distances.items():
            self.diagnostics.values[f"view_distance {camera}"] = round(distance, 2)
        if not problems:
            self._state.publish(messages.tensor_message(state, stamp, self.frame_of(stamp)))
        elif self._watch.is_sure:
            self._ask_for_hold(stamp, problems)

    def _ask_for_hold(self, stamp: int, problems: dict[str, str]) -> None:
        """Nothing that was made from images up to ``stamp`` (ns) shall be followed."""
        message = DiagnosticArray()
        message.header.stamp = messages.to_time(stamp)
        name = self.get_fully_qualified_name()
        message.status = [
            messages.status_message(f"{name}: {camera}", DiagnosticStatus.ERROR, text, {})
            for camera, text in problems.items()
        ]
        self._hold.publish(message)
        self.diagnostics.error("; ".join(problems.values()))


def run() -> None:
    main(PerceptionNode, realtime=ANSWERING)


if __name__ == "__main__":
    run()
