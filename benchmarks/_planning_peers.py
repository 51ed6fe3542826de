"""The planners of stable-worldmodel and pytorch-mppi, on our model in torch, asked for as much.

They are installed in an environment of their own, as their torch is not ours; where they are not,
the benchmark says so and goes on without.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from jepa_robot.planning import PLANNERS, Planner, PlannerConfig
from jepa_robot.planning.planner import Search

Costs = Callable[[Tensor], Tensor]
Step = Callable[[Tensor, Tensor], Tensor]
STD, TEMPERATURE = 0.7, 1.0
THEIR_CEM = "stable-worldmodel's CEM"


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
        found[THEIR_CEM.replace("CEM", name)] = lambda solver=solver: _solved(solver)
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


class TheirCEM(Planner):
    """stable-worldmodel's CEM as a planner of ours, so that its success can be judged.

    It begins with its last plan, shifted, as its own policy has it do. What is an iteration here
    is all of its own.
    """

    @dataclass(frozen=True)
    class Config(PlannerConfig):
        elites: int = 30

    def __init__(self, config: Config, action_size: int, seed: int = 0) -> None:
        import gymnasium
        from stable_worldmodel.solver import CEMSolver

        super().__init__(replace(config, iterations=1, answer="mean"), action_size, seed)
        size = {"num_samples": config.candidates, "n_steps": config.iterations}
        self._solver = CEMSolver(
            _Costable(self._costs), **size, topk=config.elites, var_scale=config.std, seed=seed
        )
        self._solver.configure(
            action_space=gymnasium.spaces.Box(-1, 1, (1, action_size)),
            n_envs=1,
            config=SimpleNamespace(horizon=config.horizon, action_block=1),
        )

    def _begin(self, search: Search, start: np.ndarray) -> None:
        self._search, self._found = search, start

    def _improve(self, search: Search, done: int) -> None:
        solved = _solved(self._solver, torch.from_numpy(self._found))
        self._found = solved["actions"].numpy()

    def _center(self, search: Search) -> np.ndarray:
        return self._found

    def _costs(self, actions: Tensor) -> Tensor:
        limited = self._search.limited(actions.numpy()[None])
        return torch.from_numpy(self._search.costs(limited)[0])


def register_peer() -> bool:
    """Let `THEIR_CEM` be a planner like ours, where stable-worldmodel is installed."""
    try:
        import stable_worldmodel.solver  # noqa: F401
    except ImportError as error:
        print(f"{error}: without {THEIR_CEM}")
        return False
    PLANNERS[THEIR_CEM] = TheirCEM
    return True


class _Costable:
    """What a solver of stable-worldmodel takes for a model."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs

    def get_cost(self, info: dict, candidates: Tensor) -> Tensor:
        return self._costs(candidates[0])[None]


def quiet(call: Callable[[], dict]) -> dict:
    """What a solver returns, without what it prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call()


def _solved(solver: Callable, start: Tensor | None = None) -> dict:
    return quiet(lambda: solver({"known": np.zeros((1, 1), np.float32)}, init_action=start))
