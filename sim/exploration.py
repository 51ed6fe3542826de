"""How data is collected: smooth noise, and noisy scripts that make contact."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from jepa_robot_sim.episodes import Episode

if TYPE_CHECKING:
    from jepa_robot.modules.agent import InProcessAgent
    from jepa_robot_sim.world import Frame

AMPLITUDE = (0.15, 1.5)  # standard deviation of the actions, log-uniform over episodes
CORRELATION = (0.6, 0.97)  # of an action with the next, uniform over episodes
BOUND = (2.0, 20.0)  # of summed actions, log-uniform over episodes
REST_SHARE = 0.15  # of the episodes: stop half-way and stay
SCRIPT_NOISE = (0.05, 0.35)  # standard deviation of what is added to scripted actions, log-uniform
PRACTICE_NOISE = 0.7  # largest standard deviation of what is added to an agent's actions

Script = Callable[[dict[str, np.ndarray]], np.ndarray]  # from labels to an action, or to a place


@dataclass(frozen=True)
class Choice:
    """What an explorer does: ``action`` ``[A]`` in [-1, 1], and whether a script made it.

    ``aim`` ``[G]`` is where what the task is about is to be brought now, if anywhere, and
    ``demonstrated`` ``[A]`` what is right here to get there, of who shows how.
    """

    action: np.ndarray
    is_scripted: bool = False
    demonstrated: np.ndarray | None = None
    aim: np.ndarray | None = None


class Explorer(Protocol):
    """Acts in one episode of data collection."""

    episode: Episode

    def act(self, frame: Frame) -> Choice:
        """What answers a frame; only scripts look at what is true of it."""
        ...


class RandomExplorer:
    """Smooth noise, whatever is seen."""

    def __init__(self, episode: Episode, actions: np.ndarray) -> None:
        self.episode, self._actions = episode, iter(actions)

    def act(self, frame: Frame) -> Choice:
        return Choice(next(self._actions))


class ScriptedExplorer:
    """A script with smooth noise on its actions.

    Args:
        episode: where it begins.
        script: from labels to an action ``[A]``.
        noise: ``[steps, A]``.
        aim: of a demonstration, from labels to where the script leads what the task is about. The
            noise takes it to where it has to put things right (as DART does: Laskey et al. 2017,
            arXiv:1703.09327).
    """

    def __init__(
        self,
        episode: Episode,
        script: Script,
        noise: np.ndarray,
        aim: Script | None = None,
    ) -> None:
        self.episode, self._script, self._noise = episode, script, iter(noise)
        self._aim = aim

    def act(self, frame: Frame) -> Choice:
        right = np.clip(self._script(frame.labels), -1, 1).astype(np.float32)
        action = np.clip(right + next(self._noise), -1, 1).astype(np.float32)
        if self._aim is None:
            return Choice(action, True)
        return Choice(action, True, right, self._aim(frame.labels))


class PractisingExplorer:
    """An agent that does an episode's task, with smooth noise on its actions.

    A world model that was trained on exploration alone is wrong where its own plans lead: there it
    is used, and there it has seen nothing.

    Args:
        episode: where it begins, and its goal.
        agent: has been given that goal.
        noise: ``[steps, A]``.
    """

    def __init__(self, episode: Episode, agent: InProcessAgent, noise: np.ndarray) -> None:
        self.episode, self._agent, self._noise = episode, agent, iter(noise)

    def act(self, frame: Frame) -> Choice:
        action = self._agent.act(frame.observation) + next(self._noise)
        return Choice(np.clip(action, -1, 1).astype(np.float32), aim=self.episode.goal)


def explore(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Exploratory actions ``[steps, size]`` in [-1, 1]: an AR(1) process, clipped."""
    amplitude = math.exp(rng.uniform(*np.log(AMPLITUDE)))
    noise = _smooth(rng, steps, size)
    if rng.uniform() < REST_SHARE:
        noise[steps // 2 :] = 0
    return np.clip(amplitude * noise, -1, 1).astype(np.float32)


def stay_near(rng: np.random.Generator, actions: np.ndarray) -> np.ndarray:
    """Exploratory actions ``[steps, size]`` that come back: none of their sums leaves a bound.

    For where nothing else bounds what is explored. The bound, in full actions, is log-uniform over
    episodes; an action that would leave it is turned round.
    """
    bound = math.exp(rng.uniform(*np.log(BOUND)))
    total = np.zeros(actions.shape[1])
    turned = np.empty_like(actions)
    sign = np.ones_like(total)
    for step, action in enumerate(actions):
        sign = np.where(np.abs(total + sign * action) > bound, -sign, sign)
        turned[step] = np.where(np.abs(total + sign * action) > bound, 0, sign * action)
        total += turned[step]
    return turned


def script_noise(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """What is added to scripted actions: ``[steps, size]``."""
    return math.exp(rng.uniform(*np.log(SCRIPT_NOISE))) * _smooth(rng, steps, size)


def practice_noise(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """What is added to an agent's actions: ``[steps, size]``, none to much over episodes."""
    return rng.uniform(0, PRACTICE_NOISE) * _smooth(rng, steps, size)


def _smooth(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """An AR(1) process of unit variance ``[steps, size]``."""
    correlation = rng.uniform(*CORRELATION)
    noise = rng.standard_normal((steps, size))
    for step in range(1, steps):
        fresh = math.sqrt(1 - correlation**2) * noise[step]
        noise[step] = correlation * noise[step - 1] + fresh
    return noise
