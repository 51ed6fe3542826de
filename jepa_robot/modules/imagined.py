"""What Mode-2 minimises: action sequences, rolled out by the world model and judged by the cost."""

from __future__ import annotations

import numpy as np

from jepa_robot.models import DERIVATIVES, Bundle
from jepa_robot.modules.cost import Cost
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning.problem import Expansion

NUDGE = 1e-2  # rad, m, latent units or actions: by how much a gradient is told to change


class Imagined:
    """A `jepa_robot.planning.Problem` in a bundle's fused graphs: one call costs all candidates.

    Args:
        bundle: gives the graphs.
        world_model: for what is imagined step by step.
        cost: its weights and goal, as they are when something is costed.
        states: ``[B, S]``, where to plan from.
        goal: of the policy ``[D]``; None for no policy.
        step_weights: how much each step counts, ``[H]``.
        graph: that rolls out and costs.
    """

    def __init__(
        self,
        bundle: Bundle,
        world_model: WorldModel,
        cost: Cost,
        states: np.ndarray,
        goal: np.ndarray | None,
        step_weights: np.ndarray,
        graph: str = "plan",
    ) -> None:
        self._bundle, self._world_model, self._cost = bundle, world_model, cost
        self._states, self._goal, self._weights = states, goal, step_weights
        self._graph = graph
        self.starts, self.has_policy = len(states), goal is not None
        self.has_gradients = all(bundle.has(graph) for graph in DERIVATIVES)

    def costs(self, actions: np.ndarray) -> np.ndarray:
        costs = self._run(self._graph, actions, "costs")["costs"]
        return _over_draws(costs).reshape(actions.shape[:2])

    def gradients(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        result = self._run("plan_gradient", actions)
        costs = _over_draws(result["costs"]).reshape(actions.shape[:2])
        return costs, result["gradients"].reshape(actions.shape)

    def follow(self, noise: np.ndarray) -> np.ndarray:
        count, horizon, size = noise.shape[1:]
        policy, rows = self._bundle.session("policy"), noise.reshape(-1, horizon, size)
        states = np.repeat(self._states, count, axis=0)
        goals = np.repeat(self._goal[None], len(rows), axis=0)
        actions = np.empty_like(rows)
        for step in range(horizon):
            action = policy(state=states, goal_latent=goals) + rows[:, step]
            actions[:, step] = np.clip(action, -1, 1)
            if step + 1 < horizon:
                states = self._world_model.predict(states, actions[:, step])
        return actions.reshape(noise.shape)

    def step(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return self._world_model.predict(
            np.ascontiguousarray(states, np.float32), np.ascontiguousarray(actions, np.float32)
        )

    def expand(self, actions: np.ndarray) -> Expansion:
        starts, horizon, size = actions.shape
        after = self._run("plan", actions[:, None])["states"][:, 0]
        states = np.concatenate([self._states[:, None], after], axis=1)
        width = states.shape[-1]
        flat = {
            "state": np.ascontiguousarray(states[:, :-1].reshape(-1, width)),
            "action": np.ascontiguousarray(actions.reshape(-1, size), np.float32),
        }
        z = np.zeros((starts * horizon, self._bundle.z_size), np.float32)
        linear = self._bundle.session("jacobian").run(**flat, z=z)
        reached = np.ascontiguousarray(after.reshape(-1, width))
        slopes = self._slopes(reached, flat["action"])
        bends = [self._bend(reached, flat["action"], column) for column in (0, 1)]
        shape = (starts, horizon)
        return Expansion(
            states=states,
            by_state=linear["by_state"].reshape(*shape, width, width),
            by_action=linear["by_action"].reshape(*shape, width, size),
            cost=slopes[0].reshape(*shape, width),
            curvature=bends[0].reshape(*shape, width, width),
            effort=slopes[1].reshape(*shape, size),
            effort_curvature=bends[1].reshape(*shape, size, size),
        )

    def _run(self, graph: str, actions: np.ndarray, *outputs: str) -> dict[str, np.ndarray]:
        self._cost.check(graph)
        starts, count, horizon, size = actions.shape
        states = self._states if starts == 1 else np.repeat(self._states, count, axis=0)
        inputs = self._cost.inputs
        return self._bundle.session(graph).run(
            *outputs,
            state=np.ascontiguousarray(states, np.float32),
            actions=np.ascontiguousarray(actions.reshape(-1, horizon, size), np.float32),
            z=np.zeros((starts * count, 1, horizon, self._bundle.z_size), np.float32),
            step_weights=self._weights,
            **inputs,
        )

    def _slopes(self, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of the cost of states after B x H actions, also of more rows of each."""
        known = self._cost.inputs
        result = self._bundle.session("cost_gradient").run(state=states, action=actions, **known)
        horizon = len(self._weights)
        weights = np.tile(self._weights, self.starts)
        weights = np.repeat(weights, len(states) // len(weights))[:, None]
        ends = np.tile(np.arange(horizon) == horizon - 1, self.starts)
        ends = np.repeat(ends, len(states) // len(ends))[:, None]
        by_state = weights * (result["by_state"] + ends * result["ahead"])
        return by_state, weights * result["by_action"]

    def _bend(self, states: np.ndarray, actions: np.ndarray, which: int) -> np.ndarray:
        """How that changes with the states (0) or the actions (1): ``[M, n, n]``, from 0 up."""
        varied = (states, actions)[which]
        count, width = varied.shape
        nudges = NUDGE * np.concatenate([np.eye(width), -np.eye(width)]).astype(np.float32)
        more = np.repeat(varied, len(nudges), axis=0) + np.tile(nudges, (count, 1))
        other = np.repeat((actions, states)[which], len(nudges), axis=0)
        slopes = self._slopes(*((more, other) if which == 0 else (other, more)))[which]
        ahead, behind = slopes.reshape(count, 2, width, width).transpose(1, 0, 2, 3)
        bend = (ahead - behind) / (2 * NUDGE)
        values, vectors = np.linalg.eigh((bend + bend.transpose(0, 2, 1)) / 2)
        return (vectors * np.maximum(values, 0)[:, None]) @ vectors.transpose(0, 2, 1)


def _over_draws(costs: np.ndarray) -> np.ndarray:
    """The mean over draws of z, ``[N]`` of ``[N, K]``."""
    return costs[:, 0] if costs.shape[1] == 1 else costs.mean(axis=1)
