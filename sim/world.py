"""An arm and a scene behind the safety limiter, in this process."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from jepa_robot.modules.perception import Observation
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.episodes import GRIPPER, HAND, OBJECT, Episode
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import Task


@dataclass(frozen=True)
class Frame:
    """What a robot sees, and what is true.

    ``labels`` are float64, m, in the base frame: ``hand_position`` [3]; ``object_position`` [3]
    where the task has an object; ``gripper_opening`` [1] where the arm has a gripper.
    """

    observation: Observation
    labels: dict[str, np.ndarray]


class ArmWorld:
    """Runs episodes of a task: one action a frame.

    The same episode and actions give the same frames to the bit, whatever ran before.

    Args:
        contract: the robot.
        task: made for it.
        gui: open PyBullet's window.
        is_quick: for data, see `InProcessRobot`.
    """

    def __init__(
        self, contract: RobotContract, task: Task, gui: bool = False, is_quick: bool = False
    ) -> None:
        self.contract, self.task = contract, task
        self.robot = InProcessRobot(contract, gui=gui, scene=task.scene, is_quick=is_quick)
        self._late: deque[np.ndarray | None] = deque()
        self._camera_man: SimulatedArm | None = None

    def reset(self, episode: Episode) -> Frame:
        """Start an episode: everything at rest in its place."""
        self._late = deque([None] * episode.variation.latency)
        return self._frame(self.robot.start(episode))

    def step(self, action: np.ndarray | None) -> Frame:
        """Apply a normalised action ``[A]`` (or hold, if None) for one control period."""
        self._late.append(action)
        return self._frame(self.robot.step(self._late.popleft()))

    def labels(self) -> dict[str, np.ndarray]:
        """What is true now."""
        return labels_of(self.robot.arm)

    def goal_images(self, episode: Episode) -> list[np.ndarray]:
        """What the cameras see at an episode's goal, one image each; the world stays as it is."""
        if self._camera_man is None:
            self._camera_man = SimulatedArm(self.contract, scene=self.task.scene)
        self._camera_man.show_goal(episode)
        return self._camera_man.images()

    def close(self) -> None:
        """Free the physics servers; the world cannot be used afterwards."""
        self.robot.close()
        if self._camera_man is not None:
            self._camera_man.close()

    def _frame(self, observation: Observation) -> Frame:
        return Frame(observation, self.labels())


def labels_of(arm: SimulatedArm) -> dict[str, np.ndarray]:
    """What is true of an arm and its scene now, by label."""
    labels = {HAND: arm.ee_position()}
    block = arm.object_position()
    if block is not None:
        labels[OBJECT] = block
    opening = arm.gripper_states()[0]
    if len(opening):
        labels[GRIPPER] = np.array([opening.mean()])
    return labels
