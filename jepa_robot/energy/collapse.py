"""What keeps a JEPA from collapsing, in one vocabulary: regularisation, contrast, distillation.

A JEPA's prediction error alone is smallest where every observation has the same latent. A
`Prevention` is what is added to it, and says how the targets of both are made.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.energy.regularizers import SIGReg, VICReg

PREVENTIONS = ("vicreg", "sigreg", "barlow_twins", "infonce", "byol", "simsiam", "none")
HEAD = 4  # times the latent's size: the hidden layer of a predictor head
EPSILON = 1e-5  # of a variance that is divided by


@dataclass(frozen=True)
class PreventionConfig:
    """Weights and settings of every method, for latents of 8 to 64 numbers.

    They stand against a prediction error that counts ten times. ``variance``, ``covariance``: of
    VICReg. ``sigreg``, ``barlow_twins``, ``infonce``, ``byol``, ``simsiam``: weights of these
    losses. ``prediction``, ``redundancy``: of Barlow Twins' own prediction error, and its λ.
    ``temperature``: of InfoNCE. ``decay``: of the moving average of BYOL.

    Raises:
        ValueError: names the field, its value and what was expected.
    """

    variance: float = 10.0
    covariance: float = 0.3
    sigreg: float = 5.0
    barlow_twins: float = 1.0
    prediction: float = 10.0
    redundancy: float = 0.1
    infonce: float = 1.0
    temperature: float = 0.5
    byol: float = 1.0
    decay: float = 0.99
    simsiam: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            fits, expected = is_number and 0 <= value < math.inf, "a number from 0"
            if field.name == "decay":
                fits, expected = is_number and 0 <= value < 1, "a number from 0 to below 1"
            elif field.name == "temperature":
                fits, expected = fits and value > 0, "a number above 0"
            if not fits:
                raise ValueError(f"prevention.{field.name} is {value!r}, expected {expected}")


class Prevention(nn.Module):
    """Base of what keeps latents from collapsing.

    It may have parameters, which are to be optimised and saved with the others.

    Attributes:
        targets: how the targets of prediction are made. ``online``: latents, with their gradient;
            ``stopped``: latents, without it; ``average``: latents of a `MovingAverage` of the
            encoder, without gradient.
        replaces_prediction: whether it contains the prediction error, so that none is to be added.
        prediction_trains_encoder: whether the gradient of the prediction error flows into the
            encoder. Where it must not, as the error is smallest for latents that are all alike and
            nothing in the method pushes back, the error is to be taken of another rollout, from
            latents without gradient to latents without gradient; only what this method gets has
            its gradient.
    """

    targets: ClassVar[Literal["online", "stopped", "average"]] = "online"
    replaces_prediction: ClassVar[bool] = False
    prediction_trains_encoder: ClassVar[bool] = True

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        """A scalar to add to the prediction loss.

        Args:
            latents: ``[B, T, D]`` of the frames of B windows, with gradient.
            predicted: ``[B, H, D]``, of the H steps that follow.
            target: ``[B, H, D]``, what they are compared with, as ``targets`` says.
        """
        raise NotImplementedError


def make_prevention(name: str, settings: PreventionConfig, latent: int) -> Prevention:
    """The method of a name in `PREVENTIONS`, for latents of so many numbers.

    Raises:
        ValueError: there is no such method.
    """
    makers: dict[str, Callable[[], Prevention]] = {
        "vicreg": lambda: Regularized(VICReg(settings.variance, settings.covariance), 1.0),
        "sigreg": lambda: Regularized(SIGReg(), settings.sigreg),
        "barlow_twins": lambda: BarlowTwins(
            settings.barlow_twins, settings.redundancy, settings.prediction
        ),
        "infonce": lambda: InfoNCE(settings.infonce, settings.temperature),
        "byol": lambda: BYOL(latent, settings.byol),
        "simsiam": lambda: SimSiam(latent, settings.simsiam),
        "none": NoPrevention,
    }
    if name not in makers:
        raise ValueError(f"prevention is {name!r}, expected one of {', '.join(PREVENTIONS)}")
    return makers[name]()


class NoPrevention(Prevention):
    """Nothing: what a collapse looks like."""

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        return latents.new_zeros(())


class Regularized(Prevention):
    """A regulariser of the latents of all frames, whatever was predicted.

    Args:
        regularizer: takes latents ``[M, D]``, gives a scalar.
        weight: times which it counts.
    """

    def __init__(self, regularizer: nn.Module, weight: float) -> None:
        super().__init__()
        self.regularizer, self.weight = regularizer, weight

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        return self.weight * self.regularizer(latents.flatten(0, 1))


class BarlowTwins(Prevention):
    """Cross-correlation of predicted and target latents towards the identity.

    ``L = 1/D [Σᵢ (1 − Cᵢᵢ)² + λ Σ_{i≠j} Cᵢⱼ²]``, ``Cᵢⱼ`` the correlation over the batch of the
    i-th predicted and the j-th target number: Zbontar et al. 2021 (arXiv:2103.03230, equations 1
    and 2), divided by D so that the weight holds for any.

    Correlation does not see how large latents are, so an ordinary prediction error would shrink
    them to nothing. Instead the error is measured in standard deviations of the target,
    ``w/D Σᵢ mean (ẑᵢ − zᵢ)² / Var(zᵢ)``: it does not change with their size either.

    Args:
        weight: times which L counts.
        redundancy: λ.
        prediction: w.
    """

    replaces_prediction = True

    def __init__(self, weight: float, redundancy: float, prediction: float) -> None:
        super().__init__()
        self.weight, self.redundancy, self.prediction = weight, redundancy, prediction

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        predicted, target = predicted.flatten(0, 1), target.flatten(0, 1)
        variance = target.var(dim=0, correction=0) + EPSILON
        error = ((predicted - target).square() / variance).mean()
        one, other = _standardised(predicted), _standardised(target)
        correlation = one.T @ other / len(one)
        on = (1 - correlation.diagonal()).square().sum()
        off = correlation.square().sum() - correlation.diagonal().square().sum()
        twins = (on + self.redundancy * off) / correlation.shape[0]
        return self.weight * twins + self.prediction * error


class InfoNCE(Prevention):
    """Each prediction has to be nearer to its own target than to those of the other windows.

    ``L = −mean_bk log exp(−E(ẑ_bk, z_bk)/τ) / Σ_c exp(−E(ẑ_bk, z_ck)/τ)``, with the energy
    ``E(ẑ, z) = |ẑ − z|² / D``: van den Oord et al. 2018 (arXiv:1807.03748, equation 4), with the
    squared distance, which is what plans are judged by, for the log-bilinear score. Targets of the
    same window are no negatives: neighbours in time may well be alike. Once others are some τ away
    it asks for no more precision, so the prediction error is needed beside it, and pulls the
    latents together until the two balance.

    Args:
        weight: times which it counts.
        temperature: τ.
    """

    def __init__(self, weight: float, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        batch, horizon, size = predicted.shape
        one, other = predicted.transpose(0, 1), target.transpose(0, 1)  # [H, B, D]
        energy = (one.unsqueeze(2) - other.unsqueeze(1)).square().sum(dim=-1) / size  # [H, B, B]
        own = torch.arange(batch, device=predicted.device).repeat(horizon)
        logits = -energy.flatten(0, 1) / self.temperature
        return self.weight * functional.cross_entropy(logits, own)


class SimSiam(Prevention):
    """A head on the prediction, and targets through which no gradient flows.

    ``L = −mean cos(h(ẑ), stopgrad(z))``: Chen & He 2021 (arXiv:2011.10566, equations 1 and 3), not
    symmetrised, as time has one direction. h is an MLP with BatchNorm. Both ẑ and z are
    standardised over the batch first, as the last layer of the paper's projector does.

    Without the head it collapses (the paper's table 1), and a predictor that starts as the identity
    is no head: so the encoder learns by this loss alone.

    Args:
        latent: D.
        weight: times which it counts.
    """

    targets = "stopped"
    prediction_trains_encoder = False

    def __init__(self, latent: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.head = predictor_head(latent)

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        one = self.head(_standardised(predicted.flatten(0, 1)))
        other = _standardised(target.detach().flatten(0, 1))
        return -self.weight * functional.cosine_similarity(one, other, dim=-1).mean()


class BYOL(SimSiam):
    """`SimSiam` with targets of a moving average of the encoder.

    ``L = mean |q(ẑ)/|q(ẑ)| − z̄/|z̄||² = 2 − 2 mean cos(q(ẑ), z̄)``: Grill et al. 2020
    (arXiv:2006.07733, equation 2).
    """

    targets = "average"

    def forward(self, latents: Tensor, predicted: Tensor, target: Tensor) -> Tensor:
        return 2 * (self.weight + super().forward(latents, predicted, target))


class MovingAverage(nn.Module):
    """A copy of a network that follows it slowly: ``ξ ← τ ξ + (1 − τ) θ`` (arXiv:2006.07733).

    Calling it calls the copy, without gradient. Update it after each step of the optimiser.

    Args:
        network: what is averaged; not kept.
        decay: τ.
    """

    def __init__(self, network: nn.Module, decay: float = 0.99) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.network(*inputs)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network that it was made of."""
        for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.decay)
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)


def predictor_head(latent: int) -> nn.Sequential:
    """``[M, D]`` to ``[M, D]``, as the papers have it: linear, BatchNorm, ReLU, linear."""
    hidden = HEAD * latent
    return nn.Sequential(
        nn.Linear(latent, hidden, bias=False),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, latent),
    )


def _standardised(values: Tensor) -> Tensor:
    centred = values - values.mean(dim=0)
    return centred / (centred.square().mean(dim=0) + EPSILON).sqrt()
