"""Tasks in simulation: where episodes start, where they should end, and when they succeeded."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.around import PushAround
from jepa_robot_sim.episodes import HAND, Episode
from jepa_robot_sim.exploration import Explorer, RandomExplorer, explore
from jepa_robot_sim.picking import PickAndPlace
from jepa_robot_sim.placing import MARGIN, QUICK, Placer, hand_shape, held_height
from jepa_robot_sim.pushing import Push
from jepa_robot_sim.scenes import NOMINAL, Randomisation, Scene, bare_scene, place_distractors
from jepa_robot_sim.scripts import Hand


class Task(Protocol):
    """What an arm is to do in a scene.

    Attributes:
        name: as in ``TASKS``.
        steps: of an episode, in control periods.
        recorded_steps: of an episode of data collection.
        demonstrations: whether some of the recorded episodes show how it is done.
        success_distance: m, at the end of the episode, of the label ``goal_label`` to the goal.
        scene: what there is beside the arm; None for nothing.
    """

    name: str
    steps: int
    recorded_steps: int
    demonstrations: bool
    success_distance: float
    goal_label: str
    scene: Scene | None

    @classmethod
    def refusal(cls, contract: RobotContract) -> str | None:
        """Why an arm cannot do this task; None if it can."""
        ...

    def sample(self, rng: np.random.Generator) -> Episode:
        """An episode."""
        ...

    def explore(self, rng: np.random.Generator, steps: int) -> Explorer:
        """How to collect data in an episode of so many steps; depends on ``rng`` alone."""
        ...

    def practise(self, rng: np.random.Generator) -> Episode:
        """An episode in which an agent practises."""
        ...

    def is_success(self, labels: dict[str, np.ndarray], goal: np.ndarray) -> bool:
        """Whether an episode that ends like this succeeded."""
        ...

    def oracle(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """The privileged baseline, which sees the true labels: an action ``[A]`` in [-1, 1]."""
        ...

    def blind(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """The baseline that knows of no object: the hand straight to the goal. ``[A]``."""
        ...


class Reach:
    """Bring the hand to a place in the workspace, 20 to 30 cm away from where it starts.

    Less where the workspace is small: at most half of the diagonal of where goals can be.
    """

    name = "reach"
    steps = recorded_steps = 25
    demonstrations = False
    distance = (0.20, 0.30)
    success_distance = 0.03  # m, at the end of the episode
    goal_label = HAND

    def __init__(self, contract: RobotContract, randomisation: Randomisation = NOMINAL) -> None:
        self.contract, self.randomisation = contract, randomisation
        self.lower, self.upper = (np.array(corner) for corner in contract.workspace)
        diagonal = np.linalg.norm(self.upper - self.lower - 2 * MARGIN)
        share = min(1.0, 0.5 * diagonal / self.distance[1])
        self.distance = tuple(share * distance for distance in self.distance)
        self._placer = Placer(contract)
        self.scene = None
        if randomisation.distractors:
            self.scene = bare_scene(contract, hand_shape(contract).depth, randomisation.distractors)

    @classmethod
    def refusal(cls, contract: RobotContract) -> str | None:
        """Every arm can, unless its hand is kept at a height."""
        height = held_height(contract)
        if height is not None:
            return f"its actions keep the hand at {height:.3g} m, expected a channel vz too"
        return None

    @property
    def keeps_orientation(self) -> bool:
        """Whether the hand stays as it is at home."""
        return self._placer.keeps_orientation

    def sample(self, rng: np.random.Generator) -> Episode:
        """A start and a goal, uniform in the workspace at the task's distance."""
        start = self.sample_position(rng)
        goal = self.sample_from(start, rng)
        variation = self.randomisation.sample(rng, len(self.contract.cameras))
        if self.scene is not None:
            variation = place_distractors(variation, self.scene, self.contract, rng, (start, goal))
        return Episode(self.joints_at(start), goal, self.joints_at(goal), variation=variation)

    def sample_from(self, start: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A goal at the task's distance from ``start`` (m)."""
        while True:
            goal = self.sample_position(rng)
            if self.distance[0] <= np.linalg.norm(goal - start) <= self.distance[1]:
                return goal

    def sample_position(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(self.lower + MARGIN, self.upper - MARGIN)

    def joints_at(self, position: np.ndarray) -> np.ndarray:
        """Joint positions ``[J]`` (rad) that put the hand at ``position`` (m), from home."""
        return self._placer.joints_at(position)

    def explore(self, rng: np.random.Generator, steps: int) -> Explorer:
        """Smooth noise from anywhere in the workspace."""
        actions = explore(rng, steps, self.contract.actions.size)
        start = self.sample_position(rng)
        joints = self._placer.joints_at(start, QUICK)
        variation = self.randomisation.sample(rng, len(self.contract.cameras))
        if self.scene is not None:
            variation = place_distractors(variation, self.scene, self.contract, rng, (start,))
        return RandomExplorer(Episode(joints, start, joints, variation=variation), actions)

    def practise(self, rng: np.random.Generator) -> Episode:
        """The task as it is judged."""
        return self.sample(rng)

    def is_success(self, labels: dict[str, np.ndarray], goal: np.ndarray) -> bool:
        return float(np.linalg.norm(labels[HAND] - goal)) < self.success_distance

    def oracle(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """Straight to the goal."""
        return oracle_action(self.contract, labels[HAND], episode.goal)

    blind = oracle  # there is no object to be blind to


TASKS: dict[str, type[Task]] = {task.name: task for task in (Reach, Push, PickAndPlace, PushAround)}


def make_task(name: str, contract: RobotContract, randomisation: Randomisation = NOMINAL) -> Task:
    """A task for an arm.

    Raises:
        ValueError: there is no such task, or the arm cannot do it; says why.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}, expected one of {list(TASKS)}")
    if (why := TASKS[name].refusal(contract)) is not None:
        raise ValueError(f"task is {name!r}, which {contract.name} cannot do: {why}")
    return TASKS[name](contract, randomisation)


def oracle_action(contract: RobotContract, ee_position: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The privileged baseline: straight to the true goal, seeing true positions. ``[A]``.

    Raises:
        ValueError: the arm is not moved by the velocity of its hand.
    """
    return Hand(contract).straight(ee_position, goal)
