"""What all planners share: settings, warm start, limits, deadline, and the best plan so far."""

from __future__ import annotations

import abc
import dataclasses
import time
from collections import deque
from collections.abc import Callable

import numpy as np

from jepa_robot.planning.noise import correlated
from jepa_robot.planning.problem import Problem

ANSWERS = ("mean", "best")
REMEMBERED = 100  # iterations, of how long the next one may take
SLOW = 0.98  # the quantile of those that is expected: one that was interrupted is no rule
NO_LIMIT = 2.0  # an action in [-1, 1] cannot change by more


@dataclasses.dataclass(frozen=True)
class PlannerConfig:
    """Settings of all planners.

    ``candidates``: action sequences an iteration. ``std`` and ``correlation``: of a sample's noise,
    and from one step to the next. ``limit``: the largest action. ``rate``: how much an action may
    change from one step to the next. ``final``: times that the last state counts more;
    ``step_weights``: how much each step counts, 1 if there are none. ``seeds``: how many of the
    first samples are what the policy does in imagination, with noise from none to half of ``std``:
    it knows the way where a search that looks a few steps ahead would dither (as in TD-MPC, Hansen
    et al. 2022, arXiv:2203.04955, section 3). ``answer``: the ``best`` sample, or the ``mean`` that
    the planner ends with; what lies between two good ways may be none.
    """

    candidates: int = 256
    horizon: int = 5
    iterations: int = 5
    std: float = 0.7
    correlation: float = 0.7
    limit: float = 1.0
    rate: float = NO_LIMIT
    final: float = 0.0
    step_weights: tuple[float, ...] = ()
    seeds: int = 0
    answer: str = "mean"

    def __post_init__(self) -> None:
        if isinstance(self.step_weights, list):
            object.__setattr__(self, "step_weights", tuple(self.step_weights))
        if self.answer not in ANSWERS:
            raise ValueError(f"planner.answer is {self.answer!r}, expected one of {ANSWERS}")
        check_whole(
            self,
            {"candidates": (1, 100_000), "horizon": (1, 200), "iterations": (1, 1000)},
        )
        check_whole(self, {"seeds": (0, self.candidates)})
        check_numbers(
            self,
            {
                "std": (1e-3, 10),
                "correlation": (0, 0.999),
                "limit": (1e-2, 1),
                "rate": (1e-3, NO_LIMIT),
            },
        )
        check_numbers(self, {"final": (0, 1000)})
        weights = self.step_weights
        is_number = all(isinstance(w, (int, float)) and 0 <= w <= 1000 for w in weights)
        if not isinstance(weights, tuple) or len(weights) not in (0, self.horizon) or not is_number:
            raise ValueError(
                f"planner.step_weights is {weights!r}, expected {self.horizon} numbers, one a step "
                "of the horizon, from 0 to 1000"
            )

    def weights(self) -> np.ndarray:
        """How much each step counts, ``[H]``."""
        weights = np.array(self.step_weights or [1.0] * self.horizon, np.float32)
        weights[-1] += self.final
        return weights


def check_whole(config: object, bounds: dict[str, tuple[int, int]]) -> None:
    """Check a planner's whole numbers.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for field, (low, high) in bounds.items():
        value = getattr(config, field)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(
                f"planner.{field} is {value!r}, expected a whole number from {low} to {high}"
            )


def check_numbers(config: object, bounds: dict[str, tuple[float, float]]) -> None:
    """Check a planner's numbers.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for field, (low, high) in bounds.items():
        value = getattr(config, field)
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"planner.{field} is {value!r}, expected {low:g} to {high:g}")


def check_elites(config: object) -> None:
    """Elites are candidates.

    Raises:
        ValueError: there are more.
    """
    check_whole(config, {"elites": (1, 100_000)})
    if config.elites > config.candidates:
        raise ValueError(
            f"planner.elites is {config.elites}, expected at most candidates, {config.candidates}"
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Actions ``[B, H, A]`` in [-1, 1], the lowest cost met ``[B]``, and whole iterations done.

    With no iteration done the actions are the last plan's, shifted, and the cost is infinite.
    """

    actions: np.ndarray
    cost: np.ndarray
    iterations: int


class Search:
    """One call of a planner: evaluates candidates within limits, and keeps the best of each start.

    Args:
        problem: what is minimised.
        start: the warm start ``[B, H, A]``.
        before: the actions before the first ``[B, A]``, None if it is free.
        config: gives the largest action, and how much it may change from one step to the next.
    """

    def __init__(
        self,
        problem: Problem,
        start: np.ndarray,
        before: np.ndarray | None,
        config: PlannerConfig,
    ) -> None:
        self.problem, self._before = problem, before
        self._limit, self._rate = config.limit, config.rate
        self.best = self.limited(start[:, None])[:, 0]
        self.best_cost = np.full(len(start), np.inf, np.float32)

    def limited(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``[B, N, H, A]`` within limit and rate."""
        actions = np.clip(actions, -self._limit, self._limit, dtype=np.float32)
        if self._rate >= NO_LIMIT:
            return actions
        last = None if self._before is None else self._before[:, None]
        for step in range(actions.shape[2]):
            now = actions[:, :, step]
            if last is not None:
                np.clip(now, last - self._rate, last + self._rate, out=now)
            last = now
        return actions

    def costs(self, actions: np.ndarray) -> np.ndarray:
        """Costs ``[B, N]`` of actions ``[B, N, H, A]`` within limits; infinite if not finite."""
        costs = self.problem.costs(actions)
        return self.told(actions, costs)

    def gradients(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Costs likewise, and finite gradients ``[B, N, H, A]``."""
        costs, gradients = self.problem.gradients(actions)
        return self.told(actions, costs), np.nan_to_num(gradients, posinf=0.0, neginf=0.0)

    def told(self, actions: np.ndarray, costs: np.ndarray) -> np.ndarray:
        """Take note of what candidates cost."""
        costs = np.where(np.isfinite(costs), costs, np.inf).astype(np.float32)
        lowest = costs.argmin(axis=1)
        start = np.arange(len(costs))
        cost = costs[start, lowest]
        is_better = cost < self.best_cost
        self.best[is_better] = actions[start, lowest][is_better]
        self.best_cost = np.minimum(cost, self.best_cost)
        return costs


class Planner(abc.ABC):
    """Plans action sequences in [-1, 1], better with every call.

    Any-time: no iteration starts that would not end before the deadline, by how long iterations
    took; the best so far is the plan. The same seed and the same calls give the same plans to the
    bit (without a deadline).
    """

    Config: type[PlannerConfig] = PlannerConfig
    needs_gradients = False

    def __init__(self, config: PlannerConfig, action_size: int, seed: int = 0) -> None:
        self.config, self._size = config, action_size
        self._times: deque[float] = deque(maxlen=REMEMBERED)  # s, of iterations
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Forget the last plan."""
        self._rng = np.random.default_rng(seed)
        self._last: np.ndarray | None = None

    def plan(
        self,
        problem: Problem,
        shift: int = 1,
        deadline: float | None = None,
        before: np.ndarray | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Plan:
        """Improve the last plan.

        Args:
            problem: what is minimised, from B starts; as many as at the last call, or plans are
                new ones.
            shift: time steps that have passed since the last plan.
            deadline: by ``clock`` (s), when the plan has to be there.
            before: the actions ``[B, A]`` that come before the plan's, for the rate limit.

        Raises:
            ValueError: no candidate has a finite cost; or gradients are needed and there are none.
        """
        if self.needs_gradients and not problem.has_gradients:
            raise ValueError(
                f"planner {type(self).__name__} needs gradients, expected a bundle that has them"
            )
        start = self._warm_start(problem.starts, shift)
        search = Search(problem, start, before, self.config)
        self._begin(search, start)
        done, ended = 0, clock()
        usual, slow = self._expected()
        while done < self.config.iterations:
            # A plan that may be late is better than none, and one that will be late is not.
            if deadline is not None and ended + (slow if done else usual) > deadline:
                break
            self._improve(search, done)
            done, began, ended = done + 1, ended, clock()
            self._times.append(ended - began)
        if not done and self._times:
            self._times.popleft()  # or a slow moment would stop it for ever
        if done and not np.isfinite(search.best_cost).all():
            raise ValueError("no candidate has a finite cost, expected at least one")
        chosen = self._answer(search) if done else search.best
        self._last = self._center(search) if done else start
        return Plan(chosen, search.best_cost, done)

    def _expected(self) -> tuple[float, float]:
        """How long an iteration takes (s): in the median, and when something interrupts it."""
        times = sorted(self._times)
        if not times:
            return 0.0, 0.0
        return times[len(times) // 2], times[int(SLOW * len(times))]

    def _warm_start(self, starts: int, shift: int) -> np.ndarray:
        """The last plan, shifted; its last action goes on."""
        horizon = self.config.horizon
        if self._last is None or len(self._last) != starts:
            return np.zeros((starts, horizon, self._size), np.float32)
        passed = min(shift, horizon - 1)
        rest = np.repeat(self._last[:, -1:], passed, axis=1)
        return np.concatenate([self._last[:, passed:], rest], axis=1)

    @abc.abstractmethod
    def _begin(self, search: Search, start: np.ndarray) -> None:
        """Get ready to improve a start ``[B, H, A]``."""

    @abc.abstractmethod
    def _improve(self, search: Search, done: int) -> None:
        """One iteration, after ``done`` others."""

    @abc.abstractmethod
    def _center(self, search: Search) -> np.ndarray:
        """What the planner has come to ``[B, H, A]``: the next warm start."""

    def _answer(self, search: Search) -> np.ndarray:
        """The plan ``[B, H, A]``."""
        if self.config.answer == ANSWERS[1]:
            return search.best
        return search.limited(self._center(search)[:, None])[:, 0]

    def _noise(self, starts: int, count: int) -> np.ndarray:
        """Unit noise ``[B, count, H, A]``, correlated from step to step."""
        shape = (starts * count, self.config.horizon, self._size)
        return correlated(self._rng, shape, self.config.correlation).reshape(
            starts, count, *shape[1:]
        )

    def _sow(self, search: Search, candidates: np.ndarray, noise: np.ndarray) -> None:
        """Let the last candidates ``[B, N, H, A]`` be what the policy does, with some noise."""
        seeds = self.config.seeds
        if not seeds or not search.problem.has_policy:
            return
        amplitude = np.linspace(0, self.config.std / 2, seeds, dtype=np.float32)
        candidates[:, -seeds:] = search.problem.follow(amplitude[:, None, None] * noise[:, -seeds:])

    def _compare(self, search: Search) -> None:
        """Cost the best so far, and what the policy does, in place of it where that is better."""
        count = 1 + self.config.seeds
        candidates = np.repeat(search.best[:, None], count, axis=1)
        self._sow(search, candidates, self._noise(len(search.best), count))
        search.costs(search.limited(candidates))
