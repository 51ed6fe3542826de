"""The planners of stable-worldmodel and pytorch-mppi, on our model in torch, asked for as much.

They are installed in an environment of their own, as their torch is not ours; where they are not,
the benchmark says so and goes on without.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

Costs = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]
STD, TEMPERATURE = 0.7, 1.0


def peers(
    costs: Costs,
    step: Step,
    stage: Step,
    state: Tensor,
    actions: int,
    candidates: int,
    horizon: int,
    iterations: int,
    elites: int,
) -> dict[str, Callable[[], object]]:
    """By name, what makes one decision.

    Args:
        costs: ``[N]`` of actions ``[N, H, A]`` from ``state``.
        step: next states ``[N, S]`` of states and actions.
        stage: what states ``[N, S]`` cost that actions ``[N, A]`` led to, ``[N]``.
        state: ``[S]``, where to plan from.
    """
    try:
        import gymnasium
        from pytorch_mppi import MPPI
        from stable_worldmodel.solver import CEMSolver, MPPISolver
    except ImportError as error:
        print(f"{error}: without stable-worldmodel and pytorch-mppi")
        return {}
    space = gymnasium.spaces.Box(-1, 1, (1, actions))
    config = SimpleNamespace(horizon=horizon, action_block=1)
    size = {"num_samples": candidates, "n_steps": iterations, "topk": elites, "var_scale": STD}
    found = {}
    for name, kind in (("CEM", CEMSolver), ("MPPI", MPPISolver)):
        solver = kind(_Costable(costs), **size)
        solver.configure(action_space=space, n_envs=1, config=config)
        found[f"stable-worldmodel's {name}"] = lambda solver=solver: _quiet(solver)
    mppi = MPPI(
        step,
        stage,
        len(state),
        STD**2 * torch.eye(actions),
        num_samples=candidates,
        horizon=horizon,
        lambda_=TEMPERATURE,
        u_min=-torch.ones(actions),
        u_max=torch.ones(actions),
    )

    @torch.inference_mode()
    def plan() -> None:
        for number in range(iterations):
            mppi.command(state, shift_nominal_trajectory=not number)

    return found | {"pytorch-mppi": plan}


class _Costable:
    """What a solver of stable-worldmodel takes for a model."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def get_cost(self, info: dict, candidates: Tensor) -> Tensor:
        return self._costs(candidates[0])[None]


def _quiet(solver: Callable) -> None:
    with contextlib.redirect_stdout(io.StringIO()):  # each solve prints how long it took
        solver({"known": np.zeros((1, 1), np.float32)})
