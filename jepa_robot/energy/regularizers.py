"""What keeps representations from collapsing: they limit the volume of low energy.

A JEPA's prediction error alone is smallest where every observation has the same latent. Each of
these is added to it, takes latents ``[M, D]`` of different observations and returns a scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPSILON = 1e-4  # of the variance, as in VICReg


def variance_loss(latents: Tensor, target: float = 1.0) -> Tensor:
    """Hinge on each dimension's standard deviation over the batch.

    ``v(Z) = 1/D Σⱼ max(0, γ − sqrt(Var(z^j) + ε))``, equation 1 of VICReg
    (Bardes, Ponce, LeCun 2022, arXiv:2105.04906). 0 where all are spread by ``target`` (γ) or more.

    Args:
        latents: ``[M, D]``, M > 1.
        target: γ.
    """
    std = torch.sqrt(latents.var(dim=0) + EPSILON)
    return torch.relu(target - std).mean()


def covariance_loss(latents: Tensor) -> Tensor:
    """Squared covariances between dimensions, so that none repeats another.

    ``c(Z) = 1/D Σ_{i≠j} Cov(Z)²ᵢⱼ``, equations 3 and 4 of VICReg (arXiv:2105.04906).

    Args:
        latents: ``[M, D]``, M > 1.
    """
    count, size = latents.shape
    centred = latents - latents.mean(dim=0)
    covariance = centred.T @ centred / (count - 1)
    return (covariance.pow(2).sum() - covariance.diagonal().pow(2).sum()) / size


class VICReg(nn.Module):
    """``μ v(Z) + ν c(Z)``: variance and covariance of VICReg (arXiv:2105.04906, equation 6).

    Its invariance term is what the JEPA's prediction error takes the place of.

    Args:
        variance: μ.
        covariance: ν.
    """

    def __init__(self, variance: float = 1.0, covariance: float = 0.04) -> None:
        super().__init__()
        self.variance, self.covariance = variance, covariance

    def forward(self, latents: Tensor) -> Tensor:
        """Scalar for latents ``[M, D]``."""
        return self.variance * variance_loss(latents) + self.covariance * covariance_loss(latents)


class SIGReg(nn.Module):
    """Sketched isotropic Gaussian regularisation (LeJEPA, Balestriero & LeCun, arXiv:2511.08544).

    Latents are projected on random unit vectors; each projection's empirical characteristic
    function is compared with that of N(0, 1) by the Epps-Pulley statistic

    ``EP = M ∫ |1/M Σₙ exp(i t a·zₙ) − exp(−t²/2)|² w(t) dt``, ``w(t) = exp(−t²/2)``,

    by the trapezoidal rule. The mean over projections, divided by M, is returned, so that the
    value does not grow with the batch. Drawing new projections at every call covers all directions
    in time (Cramér-Wold).

    Args:
        projections: directions per call.
        knots: points of the quadrature on [0, ``limit``]; the integrand is even.
        limit: where the integral is cut off.
    """

    def __init__(self, projections: int = 64, knots: int = 9, limit: float = 3.0) -> None:
        super().__init__()
        self.projections = projections
        points = torch.linspace(0, limit, knots)
        weights = torch.full((knots,), 2 * limit / (knots - 1))
        weights[[0, -1]] /= 2
        gaussian = torch.exp(-points.square() / 2)
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("gaussian", gaussian, persistent=False)
        self.register_buffer("weights", weights * gaussian, persistent=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Scalar for latents ``[M, D]``; directions come from torch's global generator."""
        directions = torch.randn(latents.shape[1], self.projections, device=latents.device)
        projected = latents @ (directions / directions.norm(dim=0))
        angles = projected.unsqueeze(-1) * self.points
        error = (angles.cos().mean(dim=0) - self.gaussian).square() + angles.sin().mean(
            dim=0
        ).square()
        return (error @ self.weights).mean()
