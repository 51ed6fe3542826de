"""Tasks' cost terms: differentiable functions of states and actions, in the fused graphs.

A term is registered under its name, and from then on in every bundle that is exported: in the cost
of measured states, in that of imagined ones, and in the gradients that planners descend. Intrinsic
terms are not among them: those are hard-wired (`jepa_robot.learning.intrinsic`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from jepa_robot.models import CRITIC
from jepa_robot.robot.contract import INTRINSIC

GOALS = ("goal_latent", "goal_position")
SMALLEST = 1e-12  # squared distance; nearer than that there is no way down


class Seen(NamedTuple):
    """What terms look at, of M states.

    Joint positions ``[M, J]`` (rad), the actions ``[M, A]`` that led there, latents ``[M, D]``,
    what the readout gives in units of what costs 1, ``[M, G]``; the goal's latent ``[D]`` and
    position ``[G]`` in the same units.
    """

    joints: Tensor
    action: Tensor
    latent: Tensor
    position: Tensor
    goal_latent: Tensor
    goal_position: Tensor


Term = Callable[[Seen], Tensor]
TERMS: dict[str, Term] = {}
NEEDS: dict[str, str] = {}  # of a term, the goal without which it is left out


def term(name: str, needs: str = "") -> Callable[[Term], Term]:
    """Register a term: ``[M]`` of what is seen.

    Args:
        name: what tasks weigh it by.
        needs: ``goal_latent`` or ``goal_position``, without which it costs nothing.

    Raises:
        ValueError: the name is taken, or there is no such goal.
    """
    if name in (*INTRINSIC, *TERMS, CRITIC):
        raise ValueError(f"cost term {name!r} is registered already, expected another name")
    if needs not in ("", *GOALS):
        raise ValueError(f"cost term {name!r} needs {needs!r}, expected one of {GOALS} or nothing")

    def register(function: Term) -> Term:
        TERMS[name], NEEDS[name] = function, needs
        return function

    return register


@term("goal_latent", needs="goal_latent")
def goal_latent(seen: Seen) -> Tensor:
    """``mean((z - z_goal)²)``."""
    return (seen.latent - seen.goal_latent).square().mean(dim=1)


@term("goal_position", needs="goal_position")
def goal_position(seen: Seen) -> Tensor:
    """``|(p - p_goal) / unit|²``."""
    return (seen.position - seen.goal_position).square().sum(dim=1)


@term("goal_distance", needs="goal_position")
def goal_distance(seen: Seen) -> Tensor:
    """``|(p - p_goal) / unit|``."""
    return goal_position(seen).clamp(min=SMALLEST).sqrt()


def all_terms(*seen: Tensor) -> Tensor:
    """Every registered term in the order of registration: ``[M, T]``."""
    return torch.stack([function(Seen(*seen)) for function in TERMS.values()], dim=1)
