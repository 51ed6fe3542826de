"""Cost: named terms of imagined or observed states, weighted: ``C(s) = Σ uᵢ ICᵢ(s) + Σ vⱼ TCⱼ(s)``.

Intrinsic terms (IC) are hard-wired, a graph of this package; the task's terms (TC), a graph of the
bundle, measure the distance to its goal, and the critic foresees what comes after the last state.
All are the same for measured and for imagined states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jepa_robot.models import CRITIC, Bundle
from jepa_robot.modules.intrinsic import Intrinsic, limits_of, weighs_places
from jepa_robot.robot.contract import INTRINSIC, RobotContract

POSITION_UNIT = 0.1  # m: what is this far from its goal costs 1


class InvalidConfiguration(ValueError):
    """A configuration section that a module refuses; the message names field and expectation."""


@dataclass(frozen=True)
class CostConfig:
    """The cost's section of a configuration, checked: weights ``[T + 1]``, goals or None.

    ``goal_encoded``: the goal as the critic is told it, a latent whatever the goal is.
    """

    weights: np.ndarray
    goal_latent: np.ndarray | None
    goal_position: np.ndarray | None
    goal_encoded: np.ndarray | None

    @classmethod
    def for_bundle(
        cls, section: Mapping, bundle: Bundle, contract: RobotContract | None = None
    ) -> CostConfig:
        """Check a section: ``weights`` by term, and ``goal``.

        A goal may have ``latent`` [D], ``position`` [G], as the readout gives it, and ``encoded``
        [D]. Intrinsic terms that are not weighed weigh the least that the contract allows.

        Raises:
            InvalidConfiguration: unknown term, or a value of the wrong size or not finite; an
                intrinsic term is out of the contract's bounds; or what the critic foresees is
                weighed, and the bundle has none.
        """
        weights, terms = section.get("weights", {}), list(bundle.terms)
        unknown = sorted(name for name, weight in weights.items() if name not in terms)
        if unknown:
            raise InvalidConfiguration(
                f"cost.weights names {unknown}, expected some of {terms}, the terms of bundle "
                f"{bundle.id}"
            )
        if weights.get(CRITIC) and not bundle.has("critic"):
            raise InvalidConfiguration(
                f"cost.weights.{CRITIC} is {weights[CRITIC]!r}, expected 0: the bundle has no "
                "critic"
            )
        goal = section.get("goal", {})
        if contract is not None:
            try:
                weights = contract.weigh(weights)
            except ValueError as error:
                raise InvalidConfiguration(f"cost.{error}") from error
        each = finite("cost.weights", [weights.get(term, 0.0) for term in terms], len(terms))
        if contract is not None:  # now, and not when the configuration is to be in force
            limits_of(contract, weighs_places(each))
        return cls(
            each,
            optional("cost.goal.latent", goal.get("latent"), bundle.latent_size),
            optional("cost.goal.position", goal.get("position"), bundle.goal_size),
            optional("cost.goal.encoded", goal.get("encoded"), bundle.latent_size),
        )


class Cost:
    """The weighted terms. Without a configuration nothing costs anything.

    Args:
        bundle: gives the terms and the critic.
        contract: gives the limits of the intrinsic terms; None without joints.
    """

    def __init__(self, bundle: Bundle, contract: RobotContract | None) -> None:
        self._bundle, self._terms = bundle, bundle.session("cost")
        self._critic = bundle.session("critic") if bundle.has("critic") else None
        self._contract, self._checked = contract, set()
        self._intrinsic = Intrinsic(len(bundle.manifest["joints"]), limits_of(contract, False))
        self.configure(CostConfig.for_bundle({}, bundle))

    def configure(self, config: CostConfig) -> None:
        """Take up weights and goal."""
        self.config = config
        self._intrinsic.limits = limits_of(self._contract, weighs_places(config.weights))
        goals = {
            "goal_latent": (config.goal_latent, self._bundle.latent_size),
            "goal_position": (config.goal_position, self._bundle.goal_size),
            "goal_encoded": (config.goal_encoded, self._bundle.latent_size),
        }
        needs = self._bundle.terms.values()
        self._counts = np.array([not need or goals[need][0] is not None for need in needs])
        self._goals = {
            name: np.zeros(size, np.float32) if goal is None else goal
            for name, (goal, size) in goals.items()
        }

    @property
    def inputs(self) -> dict[str, np.ndarray]:
        """What a bundle's fused graphs are told of the cost. A term without its goal counts 0."""
        weights = np.where(self._counts, self.config.weights, 0).astype(np.float32)
        return {**self._goals, "limits": self._intrinsic.limits, "weights": weights}

    def check(self, graph: str) -> None:
        """Whether a fused graph of the bundle has the intrinsic terms as they are.

        Once for each graph, and once more where places begin to count.

        Raises:
            InvalidBundle: names the term that is another.
        """
        known = graph, weighs_places(self.config.weights)
        if known not in self._checked:
            self._intrinsic.check(self._bundle, graph)
            self._checked.add(known)

    def terms(
        self,
        states: np.ndarray,
        actions: np.ndarray | None = None,
        before: np.ndarray | None = None,
        surprise: float = 0.0,
    ) -> np.ndarray:
        """Each term, unweighted: ``[..., H, W]`` of states ``[..., H, S]``, actions alike.

        A task term without a goal is 0, and so are the cost to go but of the last state of H, and
        distances that weigh nothing.

        Args:
            states: in the order in which they follow each other.
            actions: that led there; None for none.
            before: the state ``[..., S]`` before the first; None for as it would be without jerk.
            surprise: that the states came with.
        """
        if actions is None:
            actions = np.zeros((*states.shape[:-1], self._bundle.action_size))
        known = {name: goal for name, goal in self._goals.items() if name != "goal_encoded"}
        flat = np.ascontiguousarray(states.reshape(-1, states.shape[-1]), np.float32)
        done = np.ascontiguousarray(actions.reshape(-1, actions.shape[-1]), np.float32)
        tasks = self._terms(state=flat, action=done, **known)
        was = None
        if before is not None:
            was = np.concatenate([before[..., None, :], states[..., :-1, :]], axis=-2)
            was = was.reshape(flat.shape)
        hard_wired = self._intrinsic.terms(
            flat,
            done,
            was,
            np.full(len(flat), surprise, np.float32),
            self.config.weights[: len(INTRINSIC)],
        )
        result = np.zeros((*states.shape[:-1], len(self._counts)), np.float32)
        terms = np.concatenate([hard_wired, tasks], axis=1)
        result[..., :-1] = terms.reshape(*states.shape[:-1], -1)
        if self._counts[-1] and self.config.weights[-1]:
            last = np.ascontiguousarray(states[..., -1, :].reshape(-1, states.shape[-1]))
            goals = np.repeat(self._goals["goal_encoded"][None], len(last), axis=0)
            ahead = self._critic(state=last, goal_latent=goals)
            result[..., -1, -1] = ahead.reshape(states.shape[:-2])
        return np.where(self._counts, result, 0)

    def total(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        step_weights: np.ndarray | None = None,
        before: np.ndarray | None = None,
    ) -> np.ndarray:
        """The weighted cost ``[N]`` of trajectories ``[N, H, S]`` under actions ``[N, H, A]``.

        Each step counts as ``step_weights [H]`` say, or as much as the others.
        """
        costs = self.steps(states, actions, before)
        return costs.sum(axis=-1) if step_weights is None else costs @ step_weights

    def steps(
        self, states: np.ndarray, actions: np.ndarray, before: np.ndarray | None = None
    ) -> np.ndarray:
        """The weighted cost of each step ``[N, H]`` of trajectories ``[N, H, S]``."""
        return self.terms(states, actions, before) @ self.config.weights


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
