"""Cost: named terms of imagined or observed states, weighted: ``C(s) = Σ uᵢ ICᵢ(s) + Σ vⱼ TCⱼ(s)``.

Intrinsic terms (IC) are hard-wired; the task's terms (TC) measure the distance to its goal, and the
critic foresees what comes after the last state. Terms are the same on measured and on imagined
states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.robot.contract import RobotContract

INTRINSIC = ("joint_limits", "effort")
TASK = ("goal_latent", "goal_position", "goal_distance", "cost_to_go")
TERMS = INTRINSIC + TASK
LIMIT_MARGIN = 0.1  # rad: nearer to a joint limit than this costs
POSITION_UNIT = 0.1  # m: what is this far from its goal costs 1


class InvalidConfiguration(ValueError):
    """A configuration section that a module refuses; the message names field and expectation."""


@dataclass(frozen=True)
class CostConfig:
    """The cost's section of a configuration, checked: weights ``[terms]``, goals or None.

    ``goal_encoded``: the goal as the critic is told it, a latent whatever the goal is.
    """

    weights: np.ndarray
    goal_latent: np.ndarray | None
    goal_position: np.ndarray | None
    goal_encoded: np.ndarray | None

    @classmethod
    def for_bundle(cls, section: Mapping, bundle: Bundle) -> CostConfig:
        """Check a section with the sizes of a bundle, see :meth:`from_section`."""
        sizes = bundle.latent_size, bundle.goal_size
        return cls.from_section(section, *sizes, has_critic=bundle.has("critic"))

    @classmethod
    def from_section(
        cls, section: Mapping, latent_size: int, goal_size: int = 3, has_critic: bool = False
    ) -> CostConfig:
        """Check a section: ``weights`` by term, and ``goal``.

        A goal may have ``latent`` [D], ``position`` [G], as the readout gives it, and ``encoded``
        [D].

        Raises:
            InvalidConfiguration: unknown term, or a value of the wrong size or not finite; or what
                the critic foresees is weighed, and the bundle has none.
        """
        weights = section.get("weights", {})
        unknown = set(weights) - set(TERMS)
        if unknown:
            raise InvalidConfiguration(
                f"cost.weights names {sorted(unknown)}, expected some of {list(TERMS)}"
            )
        if weights.get("cost_to_go") and not has_critic:
            raise InvalidConfiguration(
                f"cost.weights.cost_to_go is {weights['cost_to_go']!r}, expected 0: the bundle has "
                "no critic"
            )
        goal = section.get("goal", {})
        return cls(
            finite("cost.weights", [weights.get(term, 0.0) for term in TERMS], len(TERMS)),
            optional("cost.goal.latent", goal.get("latent"), latent_size),
            optional("cost.goal.position", goal.get("position"), goal_size),
            optional("cost.goal.encoded", goal.get("encoded"), latent_size),
        )


class Cost:
    """The weighted terms. Without a configuration nothing costs anything.

    Args:
        bundle: gives the latent, the readout and the critic.
        contract: gives the joint limits; None without joints.
    """

    def __init__(self, bundle: Bundle, contract: RobotContract | None) -> None:
        self._bundle = bundle
        limits = [contract.limits(end) if contract else np.zeros(0) for end in ("lower", "upper")]
        self._lower, self._upper = limits
        self._joints = len(self._lower)
        self._readout = bundle.session("readout") if bundle.goal_size else None
        self._critic = bundle.session("critic") if bundle.has("critic") else None
        self._unit = bundle.manifest.get("goal_unit", POSITION_UNIT)
        self.configure(CostConfig.from_section({}, bundle.latent_size))

    def configure(self, config: CostConfig) -> None:
        """Take up weights and goal."""
        self.config = config

    def terms(self, states: np.ndarray, actions: np.ndarray | None = None) -> np.ndarray:
        """Each term, unweighted: ``[..., H, terms]`` of states ``[..., H, S]``, actions alike.

        A task term without a goal is 0, and so is the cost to go but of the last state of H.
        """
        result = np.zeros((*states.shape[:-1], len(TERMS)), np.float32)
        positions = states[..., : self._joints]
        margin = np.minimum(positions - self._lower, self._upper - positions)
        beyond = np.maximum(1 - margin / LIMIT_MARGIN, 0)
        result[..., 0] = np.sum(beyond**2, axis=-1)
        if actions is not None:
            result[..., 1] = np.sum(actions**2, axis=-1)
        latents = self._bundle.latent(states)
        if self.config.goal_latent is not None:
            result[..., 2] = np.mean((latents - self.config.goal_latent) ** 2, axis=-1)
        if self.config.goal_position is not None:
            flat = np.ascontiguousarray(latents.reshape(-1, latents.shape[-1]))
            readout = self._readout(latent=flat).reshape(*states.shape[:-1], -1)
            error = (readout - self.config.goal_position) / self._unit
            result[..., 3] = np.sum(error**2, axis=-1)
            result[..., 4] = np.sqrt(result[..., 3])
        if self.config.goal_encoded is not None and self.config.weights[5]:
            last = np.ascontiguousarray(states[..., -1, :].reshape(-1, states.shape[-1]))
            goals = np.repeat(self.config.goal_encoded[None], len(last), axis=0)
            ahead = self._critic(state=last, goal_latent=goals)
            result[..., -1, 5] = ahead.reshape(states.shape[:-2])
        return result

    def total(self, states: np.ndarray, actions: np.ndarray, final: float = 0.0) -> np.ndarray:
        """The weighted cost ``[N]`` of trajectories ``[N, H, S]`` under actions ``[N, H, A]``.

        The last state counts ``final`` times more.
        """
        costs = self.terms(states, actions) @ self.config.weights
        return costs.sum(axis=-1) + np.float32(final) * costs[..., -1]


def finite(field: str, value: object, size: int) -> np.ndarray:
    """``value`` as ``[size]`` float32.

    Raises:
        InvalidConfiguration: if it is something else, or not finite.
    """
    try:
        array = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidConfiguration(f"{field} is {value!r}, expected {size} numbers") from error
    if array.shape != (size,) or not np.isfinite(array).all():
        raise InvalidConfiguration(f"{field} is {value!r}, expected {size} finite numbers")
    return array


def optional(field: str, value: object, size: int) -> np.ndarray | None:
    return None if value is None else finite(field, value, size)
