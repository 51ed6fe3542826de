"""Trains a JEPA: encoder and action-conditioned predictor, by prediction in latent space alone.

    L = w_p Σₖ |ẑ[t+k] − z[t+k]|² + w_q Σₖ |q̂[t+k] − q[t+k]|² + w_a |â − a|² + w_l L_lin + R(Z)

The encoder's latents are both input and target (no stop-gradient, no moving average); R, from
`jepa_robot.energy`, keeps them from collapsing. L_lin (`linearity_loss`) makes the latent distance
a good cost: without it a few goals are behind a local minimum.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.energy import SIGReg, VICReg
from jepa_robot.learning.dataset import Dataset
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.optimize import Optimizer
from jepa_robot.learning.predictors import PredictorConfig

Progress = Callable[[int, int], None]
REGULARIZERS = ("vicreg", "sigreg", "none")
# Of the convolutions, in training only; auto is bfloat16 where the processor computes in it.
PRECISIONS = ("auto", "bfloat16", "float32")


@dataclass(frozen=True)
class JEPAConfig:
    """Settings of the world model's training. Weights are those of the loss above."""

    latent_size: int = 16
    width: int = 256
    horizon: int = 5
    batch: int = 48
    iterations: int = 1200
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    prediction: float = 10.0
    proprioception: float = 1.0
    inverse: float = 1.0
    linearity: float = 3.0
    regularizer: str = "vicreg"
    variance: float = 10.0
    covariance: float = 0.3
    sigreg: float = 0.5
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if field.type == "int" and field.name != "seed":
                fits = isinstance(value, int) and number and value >= 1
                expected = "a whole number above 0"
            elif field.name == "seed":
                fits, expected = isinstance(value, int) and value >= 0, "a whole number from 0"
            elif field.type == "float":
                fits, expected = number and 0 <= value < math.inf, "a number from 0"
            else:
                choices = PRECISIONS if field.name == "precision" else REGULARIZERS
                fits, expected = value in choices, f"one of {', '.join(choices)}"
            if not fits:
                raise ValueError(f"jepa.{field.name} is {value!r}, expected {expected}")


def train_jepa(data: Dataset, config: JEPAConfig, progress: Progress | None = None) -> Agent:
    """Train encoder, predictor and inverse dynamics on a dataset's windows."""
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    agent = Agent(shape_of(data, config))
    agent.encoder.uses_bfloat16 = config.precision == "bfloat16" or (
        config.precision == "auto" and _has_bfloat16()
    )
    fit_scales(agent, data)
    regularizer = make_regularizer(config)
    modules = (agent.encoder, agent.predictor, agent.inverse, agent.control)
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimizer = Optimizer(parameters, config.iterations, config.learning_rate, config.weight_decay)
    starts = data.starts(config.horizon)
    for iteration in range(config.iterations):
        chosen = starts[rng.integers(len(starts), size=config.batch)]
        images, proprioception, actions = map(
            torch.from_numpy, data.windows(chosen, config.horizon)
        )
        loss = jepa_loss(agent, config, regularizer, images, proprioception, actions)
        optimizer.step(loss)
        if progress is not None:
            progress(iteration + 1, config.iterations)
    return agent.eval()


def jepa_loss(
    agent: Agent,
    config: JEPAConfig,
    regularizer: nn.Module | None,
    images: Tensor,
    proprioception: Tensor,
    actions: Tensor,
) -> Tensor:
    """The loss of windows: images ``[B, H+1, ...]``, joints ``[B, H+1, 2J]``, ``[B, H, A]``."""
    batch, frames = images.shape[:2]
    latents = agent.encoder(images.flatten(0, 1)).reshape(batch, frames, -1)
    states = agent.rollout(torch.cat([proprioception[:, 0], latents[:, 0]], dim=1), actions)
    joints = proprioception.shape[-1]
    scale = agent.predictor.scale
    loss = config.prediction * functional.mse_loss(states[..., joints:], latents[:, 1:])
    loss = loss + config.proprioception * functional.mse_loss(
        scale(states[..., :joints]), scale(proprioception[:, 1:])
    )
    pairs = torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)
    loss = loss + config.inverse * functional.mse_loss(
        agent.inverse(pairs.flatten(0, 1)), actions.flatten(0, 1)
    )
    if config.linearity:
        loss = loss + config.linearity * linearity_loss(agent.control, latents, actions)
    if regularizer is not None:
        loss = loss + regularizer(latents.flatten(0, 1))
    return loss


def linearity_loss(control: nn.Module, latents: Tensor, actions: Tensor) -> Tensor:
    """How much latent displacements differ from a linear map of the summed actions.

    ``Σ_k |z[t+k] − z[t] − B Σ_{i<k} a[t+i]|² / Σ_k |z[t+k] − z[t]|²`` for latents ``[B, H+1, D]``
    and actions ``[B, H, A]``; ``control`` is B. It does not change with the latents' scale.

    Where it is small, latents are nearly linear in what the actions integrate to, here the hand's
    position, so the latent distance has no local minima between two hand positions. The covariance
    term makes that linear map's columns alike (a tight frame), so the distance is isotropic.
    Compare the locally linear latent dynamics of Watter et al. 2015 (arXiv:1506.07365).
    """
    moved = latents[:, 1:] - latents[:, :1]
    error = moved - control(actions.cumsum(dim=1))
    return error.square().mean() / (moved.square().mean() + 1e-4)


def make_regularizer(config: JEPAConfig) -> nn.Module | None:
    if config.regularizer == "vicreg":
        return VICReg(config.variance, config.covariance)
    if config.regularizer == "sigreg":
        sigreg = SIGReg()
        return lambda z: config.sigreg * sigreg(z)
    return None


def shape_of(data: Dataset, config: JEPAConfig) -> AgentShape:
    return AgentShape(
        cameras=data.images.shape[2],
        image_size=data.image_size,
        proprioception=data.proprioception.shape[-1],
        actions=data.actions.shape[-1],
        latent=config.latent_size,
        predictor=PredictorConfig(width=config.width),
    )


def fit_scales(agent: Agent, data: Dataset) -> None:
    proprioception = torch.from_numpy(data.proprioception)
    agent.predictor.scale.fit(proprioception)
    agent.predictor.step_scale.fit(proprioception[:, 1:] - proprioception[:, :-1])
    agent.policy.scale.fit(proprioception)


@torch.no_grad()
def encode(agent: Agent, data: Dataset, batch: int = 512) -> np.ndarray:
    """Latents ``[E, T+1, D]`` of every frame."""
    latents = _map_frames(agent.encoder, data, batch)
    return latents.reshape(*data.images.shape[:2], -1).numpy()


@torch.no_grad()
def look(agent: Agent, data: Dataset, batch: int = 512) -> Tensor:
    """What tells whether a picture is familiar, ``[E * (T+1), cameras, F]``, of every frame."""

    def features(images: Tensor) -> Tensor:
        return agent.views.features(images, agent.encoder.look(images))

    return _map_frames(features, data, batch)


def _map_frames(function: Callable[[Tensor], Tensor], data: Dataset, batch: int) -> Tensor:
    flat = data.images.reshape(-1, *data.images.shape[2:])
    chunks = [function(torch.from_numpy(flat[i : i + batch])) for i in range(0, len(flat), batch)]
    return torch.cat(chunks)


@torch.no_grad()
def prediction_ratio(agent: Agent, data: Dataset, latents: np.ndarray, horizon: int = 5) -> float:
    """Squared latent error after ``horizon`` steps, relative to that of predicting no change."""
    starts = data.starts(horizon)
    episode, first = starts.T
    steps = first[:, None] + np.arange(horizon)
    state = np.concatenate([data.proprioception[episode, first], latents[episode, first]], axis=1)
    actions = torch.from_numpy(data.actions[episode[:, None], steps])
    joints = data.proprioception.shape[-1]
    predicted = agent.rollout(torch.from_numpy(state), actions)[:, -1, joints:].numpy()
    target = latents[episode, first + horizon]
    copy = np.mean((latents[episode, first] - target) ** 2)
    return float(np.mean((predicted - target) ** 2) / max(copy, 1e-12))


def _has_bfloat16() -> bool:
    """Elsewhere it is emulated, at a fifth of the speed of float32."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
