"""The networks of an agent. All scaling is inside: they take images and SI units (models.py)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

MAPS = 32  # feature maps, so key points, a camera
STD_FLOOR = 1e-3
NOISE_FLOOR = 0.1  # of the features' standard deviation: less than that tells nothing
BLOCKS = 8  # a side
BEYOND = 1.25  # times the largest distance of a training picture: the limit


@dataclass(frozen=True)
class AgentShape:
    """Sizes: cameras, image height and width, joints J, actions A, latent D, predictor's width."""

    cameras: int
    image_size: tuple[int, int]
    joints: int
    actions: int
    latent: int
    width: int = 256

    @property
    def state(self) -> int:
        return 2 * self.joints + self.latent


class SpatialSoftmax(nn.Module):
    """Feature maps to where each is active (Finn et al. 2016, arXiv:1509.06113, section V).

    Takes ``[B, K, H, W]`` and returns the expected coordinates ``[B, 2K]``, each in [-1, 1].
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.zeros(()))
        x = torch.linspace(-1, 1, width).repeat(height)
        y = torch.linspace(-1, 1, height).repeat_interleave(width)
        self.register_buffer("grid", torch.stack([x, y], dim=1), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        logits = (maps * self.log_temperature.exp()).flatten(2)
        return (torch.softmax(logits, dim=-1) @ self.grid).flatten(1)


class Encoder(nn.Module):
    """Images to a latent: convolutions shared by the cameras, key points, and a small MLP.

    No normalisation layer in the convolutions: on a CPU it would cost more than they do.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.image_size, self.cameras = shape.image_size, shape.cameras
        self.uses_bfloat16 = False
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 16, 4, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, MAPS, 1),
        ).to(memory_format=torch.channels_last)
        with torch.no_grad():
            maps = self.convolutions(torch.zeros(1, 3, *shape.image_size))
        self.keypoints = SpatialSoftmax(*maps.shape[-2:])
        self.head = nn.Sequential(
            nn.Linear(2 * MAPS * shape.cameras, 256),
            nn.LayerNorm(256),
            nn.ReLU(),
            nn.Linear(256, shape.latent),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Latents ``[B, D]`` of images ``[B, cameras, h, w, 3]`` uint8."""
        return self.head(self.look(images).flatten(1))

    def look(self, images: Tensor) -> Tensor:
        """Key points ``[B, cameras, 2K]`` of images: what the latent is made of."""
        height, width = self.image_size
        pixels = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
        if self.training and self.uses_bfloat16:
            with torch.autocast("cpu", torch.bfloat16):
                maps = self.convolutions(pixels)
        else:
            maps = self.convolutions(pixels)
        return self.keypoints(maps.float()).reshape(-1, self.cameras, 2 * MAPS)


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

    The larger of two distances. One is of the key points, which the latent is made of; of the
    latent itself it would not do, as that is made of all cameras and may hide that one is black.
    The other is of the brightness of blocks of the picture: how much key points say of what they
    were not trained for differs from encoder to encoder.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.block = tuple(max(length // BLOCKS, 1) for length in shape.image_size)
        blocks = self.blocks(torch.zeros(1, shape.cameras, *shape.image_size, 3))
        self.sizes = [2 * MAPS, blocks.shape[-1]]
        self.parts = nn.ModuleList(Familiarity(shape.cameras, size) for size in self.sizes)

    @property
    def is_fitted(self) -> bool:
        return all(bool(torch.isfinite(part.limit).all()) for part in self.parts)

    def features(self, images: Tensor, keypoints: Tensor) -> Tensor:
        """What is compared, ``[B, cameras, F]``, of images and their key points."""
        return torch.cat([keypoints, self.blocks(images)], dim=-1)

    def blocks(self, images: Tensor) -> Tensor:
        """Brightness in [0, 1] of the blocks ``[B, cameras, blocks]`` of images."""
        cameras, height, width = images.shape[1:4]
        brightness = images.reshape(-1, 1, height, width, 3).float().mean(dim=-1) / 255
        return functional.avg_pool2d(brightness, self.block).reshape(
            -1, cameras, (height // self.block[0]) * (width // self.block[1])
        )

    def fit(self, features: Tensor) -> None:
        """Fit to the features ``[N, cameras, F]`` of the training pictures."""
        for part, values in zip(self.parts, features.split(self.sizes, dim=-1), strict=True):
            part.fit(values)

    def forward(self, features: Tensor) -> Tensor:
        """Distances ``[B, cameras]`` of features ``[B, cameras, F]``."""
        latent, blocks = features.split(self.sizes, dim=-1)
        return torch.maximum(self.parts[0](latent), self.parts[1](blocks))


class Scale(nn.Module):
    """Standardises ``[..., n]`` by constants that are part of the graph."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        flat = values.reshape(-1, values.shape[-1])
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp(min=STD_FLOOR))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std


class Predictor(nn.Module):
    """``s[t+1] = s[t] + f(s[t], a[t])``: a residual MLP on scaled states."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.proprioception_size = 2 * shape.joints
        self.scale = Scale(self.proprioception_size)
        self.step_scale = Scale(self.proprioception_size)
        self.network = mlp(shape.state + shape.actions, shape.width, shape.state)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        proprioception = state[:, : self.proprioception_size]
        latent = state[:, self.proprioception_size :]
        change = self.network(torch.cat([self.scale(proprioception), latent, action], dim=1))
        step = change[:, : self.proprioception_size] * self.step_scale.std
        return torch.cat(
            [proprioception + step, latent + change[:, self.proprioception_size :]], dim=1
        )


class Policy(nn.Module):
    """Mode-1: actions ``[N, A]`` in [-1, 1] for states ``[N, S]`` and goal latents ``[N, D]``."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.proprioception_size = 2 * shape.joints
        self.scale = Scale(self.proprioception_size)
        self.network = mlp(shape.state + shape.latent, 256, shape.actions)

    def forward(self, state: Tensor, goal_latent: Tensor) -> Tensor:
        proprioception = self.scale(state[:, : self.proprioception_size])
        latent = state[:, self.proprioception_size :]
        features = torch.cat([proprioception, latent, goal_latent - latent], dim=1)
        return torch.tanh(self.network(features))


class Readout(nn.Module):
    """Positions ``[N, 3]`` (m) of latents ``[N, D]``: linear, plus a small MLP for the rest."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.scale = Scale(3)
        self.linear = nn.Linear(shape.latent, 3)
        self.rest = nn.Sequential(nn.Linear(shape.latent, 64), nn.Tanh(), nn.Linear(64, 3))

    def forward(self, latent: Tensor) -> Tensor:
        return (self.linear(latent) + self.rest(latent)) * self.scale.std + self.scale.mean


class GoalEncoder(nn.Module):
    """Latents ``[N, D]`` of goal positions ``[N, 3]`` (m)."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.scale = Scale(3)
        self.network = mlp(3, 128, shape.latent)

    def forward(self, position: Tensor) -> Tensor:
        return self.network(self.scale(position))


class Agent(nn.Module):
    """Everything that is trained, under the names of the bundle's graphs."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.views = Views(shape)
        self.predictor = Predictor(shape)
        self.inverse = mlp(2 * shape.latent, 128, shape.actions)
        self.control = nn.Linear(shape.actions, shape.latent, bias=False)
        self.policy = Policy(shape)
        self.readout = Readout(shape)
        self.goal_encoder = GoalEncoder(shape)

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """Imagined states ``[N, H, S]`` from ``[N, S]`` under actions ``[N, H, A]``."""
        states = []
        for action in actions.unbind(dim=1):
            state = self.predictor(state, action)
            states.append(state)
        return torch.stack(states, dim=1)


def mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """Two hidden layers with LayerNorm."""
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.LayerNorm(width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )
