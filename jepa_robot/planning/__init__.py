"""Mode-2's optimisers, of anything that rolls out and costs a batch of action sequences."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jepa_robot.planning.cem import CEM
from jepa_robot.planning.cem_gradient import CEMGradient
from jepa_robot.planning.gradient import GradientDescent
from jepa_robot.planning.icem import ICEM
from jepa_robot.planning.ilqr import ILQR
from jepa_robot.planning.mppi import MPPI
from jepa_robot.planning.planner import Plan, Planner, PlannerConfig
from jepa_robot.planning.problem import Expansion, Problem
from jepa_robot.planning.shooting import RandomShooting
from jepa_robot.planning.tree_search import TreeSearch

PLANNERS: dict[str, type[Planner]] = {
    "random_shooting": RandomShooting,
    "cem": CEM,
    "icem": ICEM,
    "mppi": MPPI,
    "gradient": GradientDescent,
    "cem_gradient": CEMGradient,
    "ilqr": ILQR,
    "tree_search": TreeSearch,
}

__all__ = [
    "PLANNERS",
    "Expansion",
    "Plan",
    "Planner",
    "PlannerConfig",
    "Problem",
    "make_planner",
    "read_planner",
]


def read_planner(section: Mapping) -> tuple[str, PlannerConfig]:
    """A planner's name and settings, as a configuration has them.

    Raises:
        ValueError: unknown planner or field, or a value out of range; names it.
    """
    settings = dict(section)
    name = settings.pop("name", "cem")
    if name not in PLANNERS:
        raise ValueError(f"planner.name is {name!r}, expected one of {list(PLANNERS)}")
    config = PLANNERS[name].Config
    known = [field.name for field in dataclasses.fields(config)]
    for field in settings:
        if field not in known:
            raise ValueError(f"planner.{field} is unknown to {name}, expected one of {known}")
    return name, config(**settings)


def make_planner(name: str, config: PlannerConfig, action_size: int, seed: int = 0) -> Planner:
    """A planner of ``PLANNERS``."""
    return PLANNERS[name](config, action_size, seed)
