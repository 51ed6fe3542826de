"""What the fused graphs compute, in torch: to compare them with, and to be compared in speed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from jepa_robot.learning.fusing import Sizes, stage_size
from jepa_robot.learning.intrinsic import clearance, comfort, unpack
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.terms import all_terms
from jepa_robot.modules.intrinsic import JOINTS, limits_of, weighs_places
from jepa_robot.robot.contract import INTRINSIC

CANDIDATES, DRAWS, HORIZON = 7, 2, 4
PLACED = ("turns", "shifts", "tip", "spheres", "boxes")


def imagined_costs(agent: Agent, sizes: Sizes, inputs: Mapping[str, Tensor]) -> Tensor:
    """``plan.onnx``'s costs ``[N, K]``, of its inputs by name."""
    actions, z = inputs["actions"], inputs["z"]
    count, draws, horizon = z.shape[:3]
    state = inputs["state"].expand(count, sizes.state).repeat_interleave(draws, dim=0)
    actions = actions.repeat_interleave(draws, dim=0)
    z = z.flatten(0, 1)
    weights, steps = inputs["weights"], inputs["step_weights"]
    goal_latent, goal_position = inputs["goal_latent"], inputs["goal_position"]
    total = torch.zeros(len(state))
    for step in range(horizon):
        before, state = state, agent.predictor(state, actions[:, step], z[:, step])
        latent = state[:, sizes.proprioception :]
        position = agent.readout(latent) / sizes.unit if sizes.goal else latent[:, :0]
        terms = all_terms(
            state[:, : sizes.joints],
            actions[:, step],
            latent,
            position,
            goal_latent,
            goal_position / sizes.unit,
        )
        terms = torch.cat([_intrinsic(sizes, before, state, actions[:, step], inputs), terms], 1)
        total = total + steps[step] * (terms @ weights[:-1])
    if agent.critic.is_trained:
        goal = inputs["goal_encoded"].expand(len(state), -1)
        total = total + steps[-1] * weights[-1] * agent.critic(state, goal)
    return total.unflatten(0, (count, draws))


def _intrinsic(
    sizes: Sizes, before: Tensor, state: Tensor, action: Tensor, inputs: Mapping[str, Tensor]
) -> Tensor:
    """The intrinsic terms ``[R, len(INTRINSIC)]`` of a step."""
    joints, limits = sizes.joints, inputs["limits"]
    now, past = (
        [
            nn.functional.pad(states[:, begin : begin + joints], (0, JOINTS - joints))
            for begin in (0, joints)
        ]
        for states in (state, before)
    )
    surprise = torch.zeros(len(state))
    motion = comfort(*now, *past, action, surprise, limits)
    places = torch.zeros(len(state), len(INTRINSIC) - motion.shape[1])
    if weighs_places(inputs["weights"].numpy()):
        places = clearance(now[0], limits)
    return torch.cat([motion, places], dim=1)


def fused_parity(folder: Path, sizes: Sizes, agent: Agent, states: Tensor) -> dict[str, float]:
    """By fused graph, the largest difference from torch, from real states ``[M, S]``.

    Of the largest value, where that is above 1.
    """
    inputs = _inputs(sizes, states)
    inputs["actions"].requires_grad_(True)
    costs = imagined_costs(agent, sizes, inputs)
    (gradients,) = torch.autograd.grad(costs.mean(dim=1).sum(), inputs["actions"])
    expected = {"plan": {"costs": costs}, "plan_gradient": {"costs": costs, "gradients": gradients}}
    fed = {name: value.detach().numpy() for name, value in inputs.items()}
    parity = {}
    for name, outputs in expected.items():
        file = folder / f"{name}.onnx"
        if file.exists():
            session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
            values = session.run(list(outputs), fed)
            parity[name] = max(map(_difference, values, outputs.values()))
    return parity


def _difference(value: np.ndarray, expected: Tensor) -> float:
    expected = expected.detach().numpy()
    return float(np.abs(value - expected).max() / max(1.0, np.abs(expected).max()))


def _inputs(sizes: Sizes, states: Tensor) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)
    count = min(CANDIDATES, len(states))

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    limits = torch.from_numpy(limits_of(None).copy())
    for name, part in unpack(limits).items():  # an arm of some shape among some boxes
        if name in PLACED:
            part.copy_(0.3 * drawn(*part.shape))
        if name == "apart":
            part.fill_(1)
    felt = states[:, : sizes.joints]
    for row, ends in enumerate((felt.amin(dim=0), felt.amax(dim=0), torch.ones(sizes.joints))):
        limits[row * JOINTS : row * JOINTS + sizes.joints] = ends
    last = states[-1, sizes.proprioception :]
    return {
        "state": states[:count],
        "actions": drawn(count, HORIZON, sizes.actions).tanh(),
        "z": drawn(count, DRAWS, HORIZON, sizes.z),
        "goal_latent": last,
        "goal_position": drawn(sizes.goal),
        "goal_encoded": last,
        "limits": limits,
        "weights": drawn(stage_size() + 1).abs(),
        "step_weights": drawn(HORIZON).abs(),
    }
