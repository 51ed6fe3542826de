"""Judges an agent: episodes of a task under a seed, in process or through the ROS graph.

Both ways run the same modules, limiter and physics, so they give the same actions to the bit.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import Actor, ActorConfig
from jepa_robot.modules.configurator import Configurator, Task
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.perception import Perception
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import TASKS, Episode, Reach, oracle_action

BASELINES = ("random", "hold", "oracle")
MODES = ("1", "2", *BASELINES)
GOALS = ("image", "position")
CONFIDENCE = 1.959964  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode came to: where the hand ended (m), how, and how fast it was decided."""

    distance: float
    success: bool
    actions: np.ndarray  # [frames, A]
    decision_times: tuple[float, ...]  # s


class Runner(Protocol):
    """Runs episodes: in process or through ROS."""

    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        """One episode from its start to its last frame."""
        ...


def sample_episodes(
    contract: RobotContract, task: str, count: int, seed: int
) -> tuple[Reach, list[Episode]]:
    """A task and its episodes under a seed.

    Raises:
        ValueError: unknown task, or a count below 1.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of {list(TASKS)}")
    if count < 1:
        raise ValueError(f"goals is {count}, expected at least 1")
    judge = TASKS[task](contract)
    rng = np.random.default_rng(seed)
    return judge, [judge.sample(rng) for _ in range(count)]


class BaselinePolicy:
    """Random, hold and the privileged oracle, one action ``[1, A]`` a frame."""

    def __init__(self, name: str, contract: RobotContract, goal: np.ndarray, seed: int) -> None:
        if name not in BASELINES:
            raise ValueError(f"mode is {name!r}, expected one of {list(MODES)}")
        self._name, self._contract, self._goal = name, contract, goal
        self._rng = np.random.default_rng(seed)

    def act(self, ee_position: np.ndarray) -> np.ndarray:
        """``ee_position`` [3] is the true one; only the oracle looks at it."""
        size = self._contract.actions.size
        if self._name == "random":
            return self._rng.uniform(-1, 1, (1, size)).astype(np.float32)
        if self._name == "hold":
            return np.zeros((1, size), np.float32)
        return oracle_action(self._contract, ee_position, self._goal)[None]


class InProcessRunner:
    """The modules called one after the other, without ROS."""

    def __init__(
        self,
        contract: RobotContract,
        bundle: Bundle,
        task: Task,
        judge: Reach,
        mode: str,
        goal: str,
    ) -> None:
        bundle.check_fits(contract)
        self._contract, self._task, self._judge = contract, task, judge
        self._mode, self._goal = mode, goal
        self._robot = InProcessRobot(contract)
        self._perception = Perception(bundle)
        self._cost = Cost(bundle, contract)
        self._actor = Actor(bundle, WorldModel(bundle), self._cost)
        self._configurator = Configurator(contract, bundle)
        self._latent_size = bundle.latent_size

    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        decide = self._decider(episode, goal_images, seed)
        observation = self._robot.reset(episode.start)
        actions, times = [], []
        for _ in range(self._judge.steps):
            begin = time.perf_counter()
            action = decide(observation)
            times.append(time.perf_counter() - begin)
            actions.append(action)
            observation = self._robot.step(action)
        return judge_episode(self._judge, self._robot.arm.ee_position(), episode, actions, times)

    def _decider(self, episode: Episode, images: list[np.ndarray], seed: int) -> Callable:
        if self._mode in BASELINES:
            policy = BaselinePolicy(self._mode, self._contract, episode.goal, seed)
            return lambda observation: policy.act(self._robot.arm.ee_position())[0]
        task = replace(self._task, mode=int(self._mode))
        if self._goal == "image":
            task = self._configurator.with_image(task, images)
        else:
            task = self._configurator.with_position(task, episode.goal)
        sections = self._configurator.sections(task)
        self._cost.configure(CostConfig.from_section(sections["cost"], self._latent_size))
        self._actor.configure(ActorConfig.from_section(sections["actor"], self._latent_size))
        return lambda observation: self._actor.act(self._perception.encode(observation))[0]

    def close(self) -> None:
        self._robot.close()


def judge_episode(
    judge: Reach,
    ee_position: np.ndarray,
    episode: Episode,
    actions: Sequence[np.ndarray],
    times: Sequence[float],
) -> EpisodeResult:
    """Judge by where the hand truly is at the end of the episode."""
    return EpisodeResult(
        distance=float(np.linalg.norm(ee_position - episode.goal)),
        success=judge.is_success({"hand_position": ee_position}, episode.goal),
        actions=np.array(actions, np.float32),
        decision_times=tuple(times),
    )


def evaluate(
    runner: Runner,
    contract: RobotContract,
    episodes: Sequence[Episode],
    seed: int,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> dict:
    """Run all episodes and sum up.

    Returns:
        ``success_rate`` with its Wilson 95 % interval ``low``, ``high``; ``distances`` (m) at the
        end; ``decision_ms``; and ``actions_sha256``, equal for equal actions.
    """
    camera_man = SimulatedArm(contract)
    results = []
    digest = hashlib.sha256()
    try:
        for index, episode in enumerate(episodes):
            camera_man.reset(episode.goal_joints)
            result = runner.run(episode, camera_man.images(), seed + index)
            digest.update(np.ascontiguousarray(result.actions).tobytes())
            results.append(result)
            progress(index + 1, len(episodes))
    finally:
        camera_man.close()
    distances = [result.distance for result in results]
    times = np.array([t for result in results for t in result.decision_times]) * 1000
    successes = sum(result.success for result in results)
    low, high = wilson_interval(successes, len(results))
    return {
        "success_rate": successes / len(results),
        "low": low,
        "high": high,
        "goals": len(results),
        "median_distance": float(np.median(distances)),
        "distances": distances,
        "decision_ms": {
            "median": float(np.median(times)),
            "p99": float(np.percentile(times, 99)),
        },
        "actions_sha256": digest.hexdigest(),
    }


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    z2 = CONFIDENCE**2
    centre = (successes + z2 / 2) / (trials + z2)
    spread = successes * (trials - successes) / trials + z2 / 4
    half = CONFIDENCE / (trials + z2) * math.sqrt(spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)
