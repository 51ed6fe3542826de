"""Actor: Mode-1 answers at once with a policy, Mode-2 plans with the world model and the cost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jepa_robot.models import PRECISIONS, Bundle
from jepa_robot.modules.cost import Cost, InvalidConfiguration, optional
from jepa_robot.modules.distributed import Ask, Distributed
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.switch import Switch, SwitchConfig
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning import Plan, PlannerConfig, make_planner, read_planner

OFF, MODE_1, MODE_2, AUTO = 0, 1, 2, 3
MODES = (OFF, MODE_1, MODE_2, AUTO)
PLANNING_MODES = (MODE_2, AUTO)
REPLANNING = ("observation", "continuous")
LONGEST_DEADLINE = 10.0  # s
LEAST_LIMIT = 0.01  # of actions


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """The actor's section of a configuration, checked.

    ``deadline``: s that planning from a state may take; 0 for most of a time step. ``limit``: how
    large the policy's actions are at most, and the planner's no larger.
    """

    mode: int
    planner_name: str
    planner: PlannerConfig
    seed: int
    replan: str
    precision: str
    deadline: float
    goal_latent: np.ndarray | None
    auto: SwitchConfig
    limit: float = 1.0

    @classmethod
    def from_section(
        cls, section: Mapping, latent_size: int, precisions: Sequence[str] = tuple(PRECISIONS)
    ) -> ActorConfig:
        """Check a section; ``precisions`` are those that a bundle offers.

        Raises:
            InvalidConfiguration: names the field, its value and what was expected.
        """
        mode = section.get("mode", OFF)
        if mode not in MODES or isinstance(mode, bool):
            raise InvalidConfiguration(f"actor.mode is {mode!r}, expected one of {list(MODES)}")
        replan = section.get("replan", REPLANNING[0])
        if replan not in REPLANNING:
            raise InvalidConfiguration(
                f"actor.replan is {replan!r}, expected one of {list(REPLANNING)}"
            )
        precision = section.get("precision", precisions[0])
        if precision not in precisions:
            raise InvalidConfiguration(
                f"actor.precision is {precision!r}, expected one that the bundle has: "
                f"{list(precisions)}"
            )
        seed = section.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InvalidConfiguration(f"actor.seed is {seed!r}, expected a whole number from 0")
        deadline = section.get("deadline", 0.0)
        is_number = isinstance(deadline, (int, float)) and not isinstance(deadline, bool)
        if not is_number or not 0 <= deadline <= LONGEST_DEADLINE:
            raise InvalidConfiguration(
                f"actor.deadline is {deadline!r}, expected 0 to {LONGEST_DEADLINE:g} s"
            )
        limit = section.get("limit", 1.0)
        is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if not is_number or not LEAST_LIMIT <= limit <= 1:
            raise InvalidConfiguration(
                f"actor.limit is {limit!r}, expected {LEAST_LIMIT:g} to 1, a share of the largest "
                "action"
            )
        latent = optional("actor.goal_latent", section.get("goal_latent"), latent_size)
        name, planner = planner_config(section.get("planner", {}))
        planner = dataclasses.replace(planner, limit=min(limit, planner.limit))
        if mode in (MODE_1, AUTO) and latent is None:
            raise InvalidConfiguration(f"actor.goal_latent is missing, expected one in mode {mode}")
        auto = switch_config(section.get("auto", {}))
        known = (mode, name, planner, seed, replan, precision, deadline, latent, auto, limit)
        return cls(*known)


def planner_config(section: Mapping) -> tuple[str, PlannerConfig]:
    """The planner's name and settings.

    Raises:
        InvalidConfiguration: unknown planner or field, or a value out of range.
    """
    try:
        return read_planner(section)
    except ValueError as error:
        raise InvalidConfiguration(str(error)) from error


def switch_config(section: Mapping) -> SwitchConfig:
    """Mode auto's thresholds.

    Raises:
        InvalidConfiguration: unknown field, or a value out of range.
    """
    try:
        return SwitchConfig.from_section(section)
    except ValueError as error:
        raise InvalidConfiguration(str(error)) from error


class Actor:
    """Chooses actions. The cost must be configured for the same task.

    Args:
        bundle: gives the policy.
        world_model: what Mode-2 imagines with.
        cost: what Mode-2 minimises.
        ask: who tells what candidates cost; None for the bundle's own graphs.
    """

    def __init__(
        self, bundle: Bundle, world_model: WorldModel, cost: Cost, ask: Ask | None = None
    ) -> None:
        self._bundle, self._world_model, self._cost = bundle, world_model, cost
        self._ask = ask
        self._policy = bundle.session("policy")
        self.configure(ActorConfig.from_section({}, bundle.latent_size))

    def configure(self, config: ActorConfig) -> None:
        """Take up a configuration and forget the last plan."""
        self.config = config
        size = self._bundle.action_size
        self._planner = make_planner(config.planner_name, config.planner, size, config.seed)
        self.switch = Switch(config.auto)
        self._done: np.ndarray | None = None
        self._expected: np.ndarray | None = None
        self._since_plan = 0

    @property
    def planned(self) -> float:
        """The share of the decisions since the configuration that were planned."""
        if self.config.mode != AUTO:
            return float(self.config.mode == MODE_2)
        return self.switch.plans / max(self.switch.decisions, 1)

    def react(self, state: np.ndarray) -> np.ndarray:
        """Mode-1: ``[1, A]`` for a state ``[1, S]``."""
        goal = self.config.goal_latent[None]
        limit = self.config.limit
        return np.clip(self._policy(state=state, goal_latent=goal), -limit, limit)

    def plan(
        self,
        state: np.ndarray,
        shift: int = 1,
        deadline: float | None = None,
        before: np.ndarray | None = None,
    ) -> Plan:
        """Mode-2: plans from states ``[B, S]``; the rest is as in `Planner.plan`.

        Without ``before`` what was done last is that, from a single state.
        """
        self._since_plan = 0
        before = self._done if before is None and len(state) == 1 else before
        if self._ask is None:
            problem = Imagined(*self._known(state))
        else:
            problem = Distributed(self._ask, *self._known(state))
        return self._planner.plan(problem, shift, deadline, before)

    def warm_up(self) -> None:
        """Decide once, to no effect: graphs are loaded where they are needed, and slow at first."""
        config, state = self.config, np.zeros((1, self._bundle.state_size), np.float32)
        if config.goal_latent is not None:
            self.react(state)
        if config.mode in PLANNING_MODES:
            once = dataclasses.replace(config.planner, iterations=1)
            planner = make_planner(config.planner_name, once, self._bundle.action_size)
            with contextlib.suppress(ValueError):  # the first plan tells it
                planner.plan(Imagined(*self._known(state)))

    def _known(self, state: np.ndarray) -> tuple:
        """What `Imagined` is made of."""
        return (
            self._bundle,
            self._world_model,
            self._cost,
            state,
            self.config.goal_latent,
            self.config.planner.weights(),
            PRECISIONS[self.config.precision],
        )

    def wants_plan(self, state: np.ndarray) -> bool:
        """Whether an observed state ``[1, S]`` is to be planned from; ask once for each.

        In mode auto that is where it is a surprise after the action that was given, where policy
        and plan disagreed lately, or now and then to compare them.
        """
        if self.config.mode != AUTO:
            return self.config.mode == MODE_2
        surprise = 0.0
        if self._expected is not None:
            surprise = self._world_model.surprise(self._expected, state)
        self._since_plan += 1
        return self.switch.wants_plan(surprise)

    def choose(self, state: np.ndarray, plan: np.ndarray) -> np.ndarray:
        """What to do: a plan ``[H, A]``, or in mode auto what the policy does, ``[1, A]``."""
        if self.config.mode != AUTO:
            return plan
        reaction = self.react(state)
        self.switch.compare(float(np.sqrt(np.mean((reaction - plan[:1]) ** 2))))
        return plan if self.switch.is_engaged else reaction

    def act(self, state: np.ndarray) -> np.ndarray:
        """What the mode in force does: ``[1, A]`` of the policy, or a plan ``[H, A]``."""
        if not self.wants_plan(state):
            rows = self.react(state)
        else:
            shift = max(self._since_plan, 1)
            rows = self.choose(state, self.plan(state, shift).actions[0])
        self.acted(state, rows[:1])
        return rows

    def acted(self, state: np.ndarray, action: np.ndarray) -> None:
        """Take note of what was done ``[1, A]`` in a state: what comes of it may surprise."""
        self._done = action
        if self.config.mode == AUTO:
            self._expected = self._world_model.predict(state, action)
