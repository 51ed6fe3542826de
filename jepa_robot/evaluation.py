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
from jepa_robot.modules.actor import AUTO, MODE_1, MODE_2
from jepa_robot.modules.agent import InProcessAgent
from jepa_robot.modules.configurator import OutOfReach
from jepa_robot.modules.tasks import Task
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.scenes import NOMINAL, Randomisation
from jepa_robot_sim.tasks import Task as Judge
from jepa_robot_sim.tasks import make_task
from jepa_robot_sim.world import ArmWorld, Frame

BASELINES = ("random", "hold", "blind", "oracle")
ACTING = {"1": MODE_1, "2": MODE_2, "auto": AUTO}
MODES = (*ACTING, *BASELINES)
GOALS = ("image", "position")
CONFIDENCE = 1.959964  # standard deviations that hold 95 % of a normal distribution


@dataclass(frozen=True)
class EpisodeResult:
    """What one episode came to.

    Attributes:
        distance: at the end, of what the task names (the hand, or the object) to the goal (m).
        success: whether it ended well.
        any_time_success: whether any frame would have been a good end.
        actions: ``[frames, A]``.
        decision_times: s.
        planned: share of the decisions that were planned; None if that is not known.
        is_refused: whether the goal was, as the picture of it was read out of reach: the arm held.
    """

    distance: float
    success: bool
    any_time_success: bool
    actions: np.ndarray
    decision_times: tuple[float, ...]
    planned: float | None = None
    is_refused: bool = False


class Runner(Protocol):
    """Runs episodes: in process or through ROS."""

    judge: Judge

    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        """One episode from its start to its last frame."""
        ...


def sample_episodes(
    contract: RobotContract,
    task: str,
    count: int,
    seed: int,
    randomisation: Randomisation = NOMINAL,
) -> tuple[Judge, list[Episode]]:
    """A task and its episodes under a seed.

    Raises:
        ValueError: unknown task, one that the arm cannot do, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"goals is {count}, expected at least 1")
    judge = make_task(task, contract, randomisation)
    rng = np.random.default_rng(seed)
    return judge, [judge.sample(rng) for _ in range(count)]


class BaselinePolicy:
    """Random, hold, the object-blind and the privileged baseline, one action ``[1, A]`` a frame."""

    def __init__(
        self, name: str, contract: RobotContract, judge: Judge, episode: Episode, seed: int
    ) -> None:
        if name not in BASELINES:
            raise ValueError(f"mode is {name!r}, expected one of {list(MODES)}")
        self._name, self._judge, self._episode = name, judge, episode
        self._size = contract.actions.size
        self._rng = np.random.default_rng(seed)

    def act(self, labels: dict[str, np.ndarray]) -> np.ndarray:
        """``labels`` are true; ``blind`` looks at the hand's alone, ``oracle`` at all of them."""
        if self._name == "random":
            return self._rng.uniform(-1, 1, (1, self._size)).astype(np.float32)
        if self._name == "hold":
            return np.zeros((1, self._size), np.float32)
        return getattr(self._judge, self._name)(labels, self._episode)[None]


class InProcessRunner:
    """The modules called one after the other, without ROS."""

    def __init__(
        self,
        contract: RobotContract,
        bundle: Bundle,
        task: Task,
        judge: Judge,
        mode: str,
        goal: str,
    ) -> None:
        self._contract, self._task, self.judge = contract, task, judge
        self._mode, self._goal = mode, goal
        self._world = ArmWorld(contract, judge)
        self._agent = InProcessAgent(contract, bundle)

    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        try:
            decide, is_refused = self._decider(episode, goal_images, seed), False
        except OutOfReach:
            if self._goal != "image":
                raise
            decide, is_refused = self._hold, True
        frame = self._world.reset(episode)
        actions, times, labels = [], [], []
        for _ in range(self.judge.steps):
            begin = time.perf_counter()
            action = decide(frame)
            times.append(time.perf_counter() - begin)
            actions.append(action)
            frame = self._world.step(action)
            labels.append(frame.labels)
        result = judge_episode(self.judge, labels, episode, actions, times)
        if self._mode in BASELINES:
            return result
        planned = 0.0 if is_refused else self._agent.planned
        return replace(result, planned=planned, is_refused=is_refused)

    def _hold(self, frame: Frame) -> np.ndarray:
        return np.zeros(self._contract.actions.size, np.float32)

    def _decider(
        self, episode: Episode, images: list[np.ndarray], seed: int
    ) -> Callable[[Frame], np.ndarray]:
        if self._mode in BASELINES:
            policy = BaselinePolicy(self._mode, self._contract, self.judge, episode, seed)
            return lambda frame: policy.act(frame.labels)[0]
        task = replace(self._task, mode=ACTING[self._mode])
        configurator = self._agent.configurator
        if self._goal == "image":
            self._agent.begin(configurator.with_image(task, images))
        else:
            self._agent.begin(configurator.with_position(task, episode.goal))
        return lambda frame: self._agent.act(frame.observation)

    def close(self) -> None:
        self._world.close()


def judge_episode(
    judge: Judge,
    labels: Sequence[dict[str, np.ndarray]],
    episode: Episode,
    actions: Sequence[np.ndarray],
    times: Sequence[float],
) -> EpisodeResult:
    """Judge by what is true after each action; the end counts."""
    goal, end = episode.goal, labels[-1]
    return EpisodeResult(
        distance=float(np.linalg.norm(end[judge.goal_label] - goal)),
        success=judge.is_success(end, goal),
        any_time_success=any(judge.is_success(then, goal) for then in labels),
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
        ``success_rate`` with its Wilson 95 % interval ``low``, ``high``; ``any_time_success_rate``;
        ``successes`` and ``distances`` (m) at the end; ``decision_ms``; ``actions_sha256``, equal
        for equal actions; ``goals_refused``, since their pictures were read out of reach; and
        ``planned_share`` of the decisions, in process.
    """
    camera_man = SimulatedArm(contract, scene=runner.judge.scene)
    results = []
    digest = hashlib.sha256()
    try:
        for index, episode in enumerate(episodes):
            camera_man.show_goal(episode)
            result = runner.run(episode, camera_man.images(), seed + index)
            digest.update(np.ascontiguousarray(result.actions).tobytes())
            results.append(result)
            progress(index + 1, len(episodes))
    finally:
        camera_man.close()
    distances = [result.distance for result in results]
    times = np.array([t for result in results for t in result.decision_times]) * 1000
    successes = [result.success for result in results]
    low, high = wilson_interval(sum(successes), len(results))
    return {
        "success_rate": sum(successes) / len(results),
        "low": low,
        "high": high,
        "any_time_success_rate": sum(r.any_time_success for r in results) / len(results),
        "goals": len(results),
        "median_distance": float(np.median(distances)),
        "successes": successes,
        "distances": distances,
        "decision_ms": {
            "median": float(np.median(times)),
            "mean": float(np.mean(times)),
            "p99": float(np.percentile(times, 99)),
        },
        "actions_sha256": digest.hexdigest(),
        "goals_refused": sum(result.is_refused for result in results),
        **_planned(results),
    }


def _planned(results: Sequence[EpisodeResult]) -> dict:
    shares = [result.planned for result in results]
    return {} if None in shares else {"planned_share": float(np.mean(shares))}


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927)."""
    z2 = CONFIDENCE**2
    centre = (successes + z2 / 2) / (trials + z2)
    spread = successes * (trials - successes) / trials + z2 / 4
    half = CONFIDENCE / (trials + z2) * math.sqrt(spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)
