"""Actor: Mode-1 answers at once with a policy, Mode-2 plans with the world model and the cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.cost import Cost, InvalidConfiguration, optional
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning import Plan, PlannerConfig, make_planner, read_planner

OFF, MODE_1, MODE_2 = 0, 1, 2
MODES = (OFF, MODE_1, MODE_2)
REPLANNING = ("observation", "continuous")


@dataclasses.dataclass(frozen=True)
class ActorConfig:
    """The actor's section of a configuration, checked."""

    mode: int
    planner_name: str
    planner: PlannerConfig
    seed: int
    replan: str
    goal_latent: np.ndarray | None

    @classmethod
    def from_section(cls, section: Mapping, latent_size: int) -> ActorConfig:
        """Check a section.

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
        seed = section.get("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InvalidConfiguration(f"actor.seed is {seed!r}, expected a whole number from 0")
        latent = optional("actor.goal_latent", section.get("goal_latent"), latent_size)
        name, planner = planner_config(section.get("planner", {}))
        if mode == MODE_1 and latent is None:
            raise InvalidConfiguration("actor.goal_latent is missing, expected one in mode 1")
        return cls(mode, name, planner, seed, replan, latent)


def planner_config(section: Mapping) -> tuple[str, PlannerConfig]:
    """The planner's name and settings.

    Raises:
        InvalidConfiguration: unknown planner or field, or a value out of range.
    """
    try:
        return read_planner(section)
    except ValueError as error:
        raise InvalidConfiguration(str(error)) from error


class Actor:
    """Chooses actions. The cost must be configured for the same task.

    Args:
        bundle: gives the policy.
        world_model: what Mode-2 imagines with.
        cost: what Mode-2 minimises.
    """

    def __init__(self, bundle: Bundle, world_model: WorldModel, cost: Cost) -> None:
        self._bundle, self._world_model, self._cost = bundle, world_model, cost
        self._policy = bundle.session("policy")
        self.configure(ActorConfig.from_section({}, bundle.latent_size))

    def configure(self, config: ActorConfig) -> None:
        """Take up a configuration and forget the last plan."""
        self.config = config
        size = self._bundle.action_size
        self._planner = make_planner(config.planner_name, config.planner, size, config.seed)

    def react(self, state: np.ndarray) -> np.ndarray:
        """Mode-1: ``[1, A]`` for a state ``[1, S]``."""
        goal = self.config.goal_latent[None]
        return np.clip(self._policy(state=state, goal_latent=goal), -1, 1)

    def plan(
        self,
        state: np.ndarray,
        shift: int = 1,
        deadline: float | None = None,
        before: np.ndarray | None = None,
    ) -> Plan:
        """Mode-2: plans from states ``[B, S]``; the rest is as in `Planner.plan`."""
        config = self.config
        problem = Imagined(
            self._bundle,
            self._world_model,
            self._cost,
            state,
            config.goal_latent,
            config.planner.weights(),
        )
        return self._planner.plan(problem, shift, deadline, before)

    def act(self, state: np.ndarray) -> np.ndarray:
        """What the mode in force does: ``[1, A]`` in Mode-1, ``[H, A]`` in Mode-2."""
        return self.plan(state).actions[0] if self.config.mode == MODE_2 else self.react(state)
