"""What Mode-2 minimises, with the work done elsewhere: by world model and cost in other processes.

Sampling, limits, warm start and deadline stay with the planner: only the costing is remote.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from jepa_robot.modules.cost import InvalidConfiguration
from jepa_robot.modules.imagined import Imagined
from jepa_robot.planning import PLANNERS

LOCAL, DISTRIBUTED = "local", "distributed"
PLACES = (LOCAL, DISTRIBUTED)  # where candidates are rolled out and costed

# Start states [M, S] and actions [M, H, A] to what each step costs [M, H], or None for no answer.
Ask = Callable[[np.ndarray, np.ndarray], "np.ndarray | None"]


class Distributed(Imagined):
    """As `Imagined`, but others are asked what candidates cost.

    Where no answer comes the bundle's fused graph is: the planner does not notice, as both agree
    within 1e-4. What else planners ask for (the policy's way) is found here.

    Args:
        ask: asks the others.
        imagined: what `Imagined` takes.
    """

    def __init__(self, ask: Ask, *imagined: object) -> None:
        super().__init__(*imagined)
        self._ask = ask

    def costs(self, actions: np.ndarray) -> np.ndarray:
        starts, count, horizon, size = actions.shape
        states = np.repeat(self._states, count, axis=0)
        answer = self._ask(states, actions.reshape(-1, horizon, size))
        if answer is None:
            return super().costs(actions)
        return (answer @ self._weights).reshape(starts, count)


def check_distributable(planner: str) -> None:
    """Gradients go through world model and cost at once, which only the bundle's graphs do.

    Raises:
        InvalidConfiguration: the planner needs them.
    """
    able = [name for name, kind in PLANNERS.items() if not kind.needs_gradients]
    if planner not in able:
        raise InvalidConfiguration(
            f"planner.name is {planner!r}, which needs gradients: expected one of {able} where "
            "planning is distributed"
        )
