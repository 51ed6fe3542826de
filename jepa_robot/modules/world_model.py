"""World model: imagines what follows, ``ŝ[t+1] = Pred(s[t], a[t])``, and is surprised or not.

"A Path Towards Autonomous Machine Intelligence" (LeCun, 2022), section 4.
"""

from __future__ import annotations

import numpy as np

from jepa_robot.models import Bundle


def surprise_of(bundle: Bundle, predicted: np.ndarray, observed: np.ndarray) -> float:
    """The energy of what came: mean squared latent error of ``[1, S]`` against ``[1, S]``."""
    return float(np.mean((bundle.latent(observed) - bundle.latent(predicted)) ** 2))


class WorldModel:
    """Rolls a bundle's predictor out."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._predictor = bundle.session("predictor")
        self._takes_z = "z" in self._predictor.inputs

    def predict(
        self, states: np.ndarray, actions: np.ndarray, z: np.ndarray | None = None
    ) -> np.ndarray:
        """One step: states ``[N, S]``, actions ``[N, A]`` and z ``[N, Z]`` to states ``[N, S]``.

        Without z it is 0, the centre of what it is drawn from.
        """
        if not self._takes_z:
            return self._predictor(state=states, action=actions)
        if z is None:
            z = np.zeros((len(states), self.bundle.z_size), np.float32)
        return self._predictor(state=states, action=actions, z=z)

    def rollout(self, state: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Imagined states ``[N, H, S]`` after each action of ``[N, H, A]``.

        Args:
            state: ``[1, S]``, where every sequence starts, or ``[N, S]``.
            actions: ``[N, H, A]``, normalised.
        """
        actions = np.ascontiguousarray(actions, np.float32)
        count, horizon, _ = actions.shape
        states = np.empty((count, horizon, state.shape[1]), np.float32)
        current = np.broadcast_to(state, (count, state.shape[1]))
        for step in range(horizon):
            current = self.predict(current, actions[:, step])
            states[:, step] = current
        return states

    def surprise(self, predicted: np.ndarray, observed: np.ndarray) -> float:
        """The energy of what came, as `surprise_of` has it."""
        return surprise_of(self.bundle, predicted, observed)
