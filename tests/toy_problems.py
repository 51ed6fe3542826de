"""Problems for planners whose answers are known."""

import numpy as np

from jepa_robot.planning import Expansion


class Towards:
    """Actions should be ``target``, which broadcasts to ``[B, N, H, A]``; anything else costs."""

    has_policy, has_gradients = False, True

    def __init__(self, target, starts=1, bad=None):
        self.target, self.starts, self.bad = np.asarray(target, np.float32), starts, bad
        self.seen = []

    def costs(self, actions):
        self.seen.append(actions.copy())
        costs = np.square(actions - self.target).sum(axis=(2, 3))
        return costs if self.bad is None else np.where(self.bad(actions), np.nan, costs)

    def gradients(self, actions):
        return self.costs(actions), 2 * (actions - self.target)


class PointMass:
    """Masses, one an action channel, that are pushed to their goals; from B places."""

    has_policy, has_gradients = False, True
    keeping, push, step_time, effort = 0.8, 0.6, 0.5, 0.02

    def __init__(self, starts, goal):
        self.first = np.asarray(starts, np.float32)  # [B, 2A]: places, then velocities
        self.starts, self.size = len(self.first), self.first.shape[1] // 2
        self.goal = np.asarray(goal, np.float32)
        eye = np.eye(self.size, dtype=np.float32)
        fast = self.step_time * self.keeping * eye
        self.by_state = np.block([[eye, fast], [0 * eye, self.keeping * eye]])
        self.by_action = np.vstack([self.step_time * self.push * eye, self.push * eye])

    def step(self, states, actions):
        return states @ self.by_state.T + actions @ self.by_action.T

    def rollout(self, actions):
        states = [np.repeat(self.first[:, None], actions.shape[1], axis=1)]
        for step in range(actions.shape[2]):
            states.append(self.step(states[-1], actions[:, :, step]))
        return np.stack(states, axis=2)

    def costs(self, actions):
        away = self.rollout(actions)[:, :, 1:, : self.size] - self.goal
        return np.square(away).sum(axis=(2, 3)) + self.effort * np.square(actions).sum(axis=(2, 3))

    def gradients(self, actions):
        states = self.rollout(actions)
        gradients = 2 * self.effort * actions
        adjoint = np.zeros_like(states[:, :, 0])
        for step in reversed(range(actions.shape[2])):
            adjoint = adjoint.copy()
            adjoint[..., : self.size] += 2 * (states[:, :, step + 1, : self.size] - self.goal)
            gradients[:, :, step] += adjoint @ self.by_action
            adjoint = adjoint @ self.by_state
        return self.costs(actions), gradients

    def expand(self, actions):
        states = self.rollout(actions[:, None])[:, 0]
        starts, horizon, size = actions.shape
        cost = np.zeros_like(states[:, 1:])
        cost[..., :size] = 2 * (states[:, 1:, :size] - self.goal)
        curvature = np.diag([2.0] * size + [0.0] * size)
        return Expansion(
            states,
            np.broadcast_to(self.by_state, (starts, horizon, *self.by_state.shape)),
            np.broadcast_to(self.by_action, (starts, horizon, *self.by_action.shape)),
            cost,
            np.broadcast_to(curvature, (starts, horizon, *curvature.shape)),
            2 * self.effort * actions,
            np.broadcast_to(2 * self.effort * np.eye(size), (starts, horizon, size, size)),
        )
