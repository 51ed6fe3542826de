"""How far pictures are from the training pictures."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.learning.layers import STD_FLOOR

NOISE_FLOOR = 0.1  # of the features' standard deviation: less than that tells nothing
BLOCKS = 8  # a side
BEYOND = 1.25  # times the largest distance of a training picture: the limit
LARGEST = 64  # numbers that are compared; of more features, as many random projections


class Familiarity(nn.Module):
    """How far features are from those they were fitted to, a camera each; 1 is the limit.

    The Mahalanobis distance of Lee et al. 2018 (arXiv:1807.03888), with a noise floor.
    """

    def __init__(self, cameras: int, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(cameras, 1, size))
        self.register_buffer("whiten", torch.eye(size).repeat(cameras, 1, 1))
        self.register_buffer("limit", torch.full((cameras,), torch.inf))

    def fit(self, features: Tensor) -> None:
        """Fit to ``[N, cameras, F]``; the limit is beyond all of them.

        It has few parameters for so many samples, so what was held out is hardly further away.
        """
        samples = features.transpose(0, 1).double()
        mean = samples.mean(dim=1, keepdim=True)
        centred = samples - mean
        covariance = centred.mT @ centred / centred.shape[1]
        variance = covariance.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        floor = (NOISE_FLOOR**2 * variance).clamp(min=STD_FLOOR**2)
        covariance += floor * torch.eye(covariance.shape[-1], dtype=torch.double)
        self.mean.copy_(mean)
        self.whiten.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)).mT)
        self.limit.fill_(1.0)
        self.limit.copy_(BEYOND * self(features).amax(dim=0))

    def forward(self, features: Tensor) -> Tensor:
        """Distances ``[B, cameras]`` of features ``[B, cameras, F]``."""
        whitened = (features.unsqueeze(2) - self.mean) @ self.whiten
        return whitened.square().mean(dim=-1).sqrt().squeeze(2) / self.limit


class Views(nn.Module):
    """How far each camera's picture is from the training pictures; 1 is the limit.

    The larger of two distances. One is of the encoder's features, which the latent is made of; of
    the latent itself it would not do, as that is made of all cameras and may hide that one is
    black. The other is of the brightness of blocks of the picture: how much features say of what
    they were not trained for differs from encoder to encoder.

    Of more than 64 features, 64 fixed random projections are compared, which keep distances
    (Johnson & Lindenstrauss 1984): a covariance of all of them would need too many pictures.

    Args:
        cameras: how many.
        image_size: height and width.
        features: F, of the encoder, a camera.
    """

    def __init__(self, cameras: int, image_size: tuple[int, int], features: int) -> None:
        super().__init__()
        self.block = tuple(max(length // BLOCKS, 1) for length in image_size)
        blocks = self.blocks(torch.zeros(1, cameras, *image_size, 3))
        self.sizes = [min(features, LARGEST), blocks.shape[-1]]
        if features > LARGEST:
            generator = torch.Generator().manual_seed(0)
            directions = torch.randn(features, LARGEST, generator=generator) / features**0.5
            self.register_buffer("directions", directions)
        self.parts = nn.ModuleList(Familiarity(cameras, size) for size in self.sizes)

    @property
    def is_fitted(self) -> bool:
        return all(bool(torch.isfinite(part.limit).all()) for part in self.parts)

    def features(self, images: Tensor, looked: Tensor) -> Tensor:
        """What is compared, ``[B, cameras, n]``, of images and the encoder's ``look`` at them."""
        if hasattr(self, "directions"):
            looked = looked @ self.directions
        return torch.cat([looked, self.blocks(images)], dim=-1)

    def blocks(self, images: Tensor) -> Tensor:
        """Brightness in [0, 1] of the blocks ``[B, cameras, blocks]`` of images."""
        cameras, height, width = images.shape[1:4]
        brightness = images.reshape(-1, 1, height, width, 3).float().mean(dim=-1) / 255
        return functional.avg_pool2d(brightness, self.block).reshape(
            -1, cameras, (height // self.block[0]) * (width // self.block[1])
        )

    def fit(self, features: Tensor) -> None:
        """Fit to the features ``[N, cameras, n]`` of the training pictures."""
        for part, values in zip(self.parts, features.split(self.sizes, dim=-1), strict=True):
            part.fit(values)

    def forward(self, features: Tensor) -> Tensor:
        """Distances ``[B, cameras]`` of features ``[B, cameras, n]``."""
        latent, blocks = features.split(self.sizes, dim=-1)
        return torch.maximum(self.parts[0](latent), self.parts[1](blocks))
