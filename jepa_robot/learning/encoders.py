"""Images to a latent: a trunk that looks at one picture at a time, and a head over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.learning.backbones import Backbone
from jepa_robot.learning.layers import SelfAttention, check_choice, check_whole, feed_forward

if TYPE_CHECKING:
    from jepa_robot.learning.networks import AgentShape

AUTO = "auto"
ENCODERS = ("spatial_softmax", "cnn", "resnet", "vit", "frozen")
POOLINGS = ("flatten", "mean")
WIDTHS = {"spatial_softmax": 32, "cnn": 64, "resnet": 64, "vit": 64, "frozen": 0, AUTO: 64}
DEPTHS = {"spatial_softmax": 0, "cnn": 0, "resnet": 1, "vit": 2, "frozen": 0}
HEAD = 256
PATCH = 8  # pixels a side
POSITIONS = 32  # at most so many are left in the strided CNN's last feature maps
GROUPS = 8


@dataclass(frozen=True)
class EncoderConfig:
    """Which trunk, its size, and whether cameras share one.

    ``name``: the trunk; ``auto`` is spatial_softmax where joints are measured, else cnn: key points
    are learned in fewer steps, but tell little of how far away a small arm is.
    ``width``: feature maps of the last layer, or a ViT's token size; 0 for the trunk's own default
    (`WIDTHS`). ``depth``: blocks a stage of the ResNet, or blocks of the ViT; 0 for the default.
    ``heads``: of the ViT's attention. ``shared``: one trunk for all cameras, else one each (a
    frozen one is always shared). ``backbone``, ``pooling``, ``mean``, ``std``: of a frozen one, see
    `jepa_robot.learning.backbones.Backbone`.
    """

    name: str = AUTO
    width: int = 0
    depth: int = 0
    heads: int = 4
    shared: bool = True
    backbone: str = ""
    pooling: str = "flatten"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        check_choice(self.name, "encoder.name", (AUTO, *ENCODERS))
        check_choice(self.pooling, "encoder.pooling", POOLINGS)
        check_whole(self, "encoder", {"width": 0, "depth": 0, "heads": 1})
        if not isinstance(self.shared, bool):
            raise ValueError(f"encoder.shared is {self.shared!r}, expected true or false")
        if (self.name == "frozen") != bool(self.backbone):
            expected = "the path of a file" if self.name == "frozen" else "none but with frozen"
            raise ValueError(f"encoder.backbone is {self.backbone!r}, expected {expected}")
        for name, low in (("mean", -math.inf), ("std", 0.0)):
            value = tuple(getattr(self, name))
            if len(value) != 3 or not all(math.isfinite(v) and v > low for v in value):
                expected = "three numbers" + (" above 0" if name == "std" else "")
                raise ValueError(f"encoder.{name} is {value!r}, expected {expected}")
            object.__setattr__(self, name, value)
        width, divisor = self.width or WIDTHS[self.name], 1
        if self.name == "vit":
            divisor = self.heads
        elif self.name == "resnet":
            divisor = 4 * GROUPS  # the first stage has a quarter of the maps
        if width % divisor:
            raise ValueError(f"encoder.width is {width}, expected a multiple of {divisor}")

    def chosen(self, has_joints: bool) -> EncoderConfig:
        """The same, with a trunk named."""
        name = "spatial_softmax" if has_joints else "cnn"
        return replace(self, name=name) if self.name == AUTO else self


class Encoder(nn.Module):
    """Latents ``[B, D]`` of the last K frames of all cameras.

    Each picture goes through a trunk alone, which gives F features; a small MLP, the head, makes
    the embedding ``[D / K]`` of those of all cameras. The latent is the last frame's embedding and
    how it changed from frame to frame, the latest change first: what stands still and what moves
    are apart, and a loss on embeddings alone cannot be met by motion.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        config = shape.encoder.chosen(shape.proprioception > 0)
        self.image_size, self.cameras, self.history = shape.image_size, shape.cameras, shape.history
        self.uses_bfloat16 = False
        is_shared = config.shared or config.name == "frozen"
        self.trunks = nn.ModuleList(
            make_trunk(config, shape.image_size) for _ in range(1 if is_shared else shape.cameras)
        )
        with torch.no_grad():
            self.features = self.trunks[0](torch.zeros(2, 3, *shape.image_size)).shape[1]
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(shape.cameras * self.features, HEAD),
            nn.LayerNorm(HEAD),
            nn.ReLU(),
            nn.Linear(HEAD, shape.embedding),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Latents ``[B, D]`` of images ``[B, K, cameras, h, w, 3]`` uint8.

        Where K is 1 it may be left out: ``[B, cameras, h, w, 3]``.
        """
        features = self.look(images.flatten(0, 1) if images.dim() == 6 else images)
        return self.latents(features.reshape(-1, self.history, self.cameras, self.features))

    def look(self, images: Tensor) -> Tensor:
        """Features ``[M, cameras, F]`` of single frames ``[M, cameras, h, w, 3]`` uint8."""
        if len(self.trunks) == 1:
            return self._look(self.trunks[0], images).reshape(-1, self.cameras, self.features)
        seen = [self._look(trunk, images[:, index]) for index, trunk in enumerate(self.trunks)]
        return torch.stack(seen, dim=1)

    def windows(self, features: Tensor) -> Tensor:
        """Latents ``[B, T-K+1, D]`` of every K frames in a row of features ``[B, T, cameras, F]``.

        The same as the forward of every window, but each frame's features are computed only once.

        Raises:
            ValueError: there are fewer frames than K.
        """
        count = features.shape[1] - self.history + 1
        if count < 1:
            raise ValueError(
                f"a window has {features.shape[1]} frames, expected at least {self.history}"
            )
        embedded = self.head(features.flatten(0, 1)).unflatten(0, features.shape[:2])
        return _join([embedded[:, index : index + count] for index in range(self.history)])

    def latents(self, features: Tensor) -> Tensor:
        """Latents ``[B, D]`` of the features of K frames ``[B, K, cameras, F]``."""
        embedded = self.head(features.flatten(0, 1))
        return _join(embedded.reshape(-1, self.history, embedded.shape[-1]).unbind(dim=1))

    def _look(self, trunk: nn.Module, images: Tensor) -> Tensor:
        height, width = self.image_size
        pixels = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
        is_reduced = self.training and self.uses_bfloat16
        with torch.autocast(pixels.device.type, torch.bfloat16) if is_reduced else nullcontext():
            maps = trunk.body(pixels)
        return trunk.pool(maps.float())


def _join(frames: Sequence[Tensor]) -> Tensor:
    """Latents ``[..., D]`` of K embeddings ``[..., D / K]``, oldest first."""
    changes = [later - earlier for earlier, later in pairwise(frames)]
    return torch.cat([frames[-1], *reversed(changes)], dim=-1)


class Trunk(nn.Sequential):
    """What looks at pictures ``[M, 3, h, w]`` in [-1, 1]; gives features ``[M, F]``.

    The body may be computed in bfloat16, what pools its output is not.
    """

    def __init__(self, body: nn.Module, pool: nn.Module) -> None:
        super().__init__()
        self.body, self.pool = body, pool


def make_trunk(config: EncoderConfig, image_size: tuple[int, int]) -> Trunk:
    """The trunk that a configuration names.

    Raises:
        InvalidBackbone: a frozen backbone cannot be used; names its file and why.
    """
    width = config.width or WIDTHS[config.name]
    depth = config.depth or DEPTHS[config.name]
    if config.name == "frozen":
        backbone = Backbone(
            config.backbone, image_size, config.pooling == "mean", config.mean, config.std
        )
        return Trunk(backbone, nn.Identity())
    if config.name == "vit":
        return Trunk(VisionTransformer(image_size, width, depth, config.heads), nn.Identity())
    body = {
        "spatial_softmax": lambda: spatial_softmax_body(width),
        "cnn": lambda: strided_body(width, image_size),
        "resnet": lambda: resnet_body(width, depth),
    }[config.name]().to(memory_format=torch.channels_last)
    with torch.no_grad():
        maps = body(torch.zeros(1, 3, *image_size))
    return Trunk(body, nn.Flatten() if config.name == "cnn" else SpatialSoftmax(*maps.shape[-2:]))


def spatial_softmax_body(width: int) -> nn.Sequential:
    """Two strided convolutions and one that makes ``width`` maps, for key points.

    No normalisation layer in the convolutions: on a CPU it would cost more than they do.
    """
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(32, width, 1),
    )


def strided_body(width: int, image_size: tuple[int, int]) -> nn.Sequential:
    """Strided convolutions, 16, 32, then ``width`` maps, until few positions are left."""
    halvings, positions = 0, math.prod(image_size)
    while positions > POSITIONS:
        halvings += 1
        positions = math.prod(-(-length // 2**halvings) for length in image_size)
    maps = [3, *(min(16 << index, width) for index in range(halvings - 1)), width]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(maps):
        layers += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers)


def resnet_body(width: int, depth: int) -> nn.Sequential:
    """A strided stem and three stages of basic blocks; the last two halve the picture again.

    He et al. 2016 (arXiv:1512.03385) with GroupNorm for BatchNorm and key points for the average
    over positions, as in Chi et al. 2023 (arXiv:2303.04137, section III-B).
    """
    layers: list[nn.Module] = [nn.Conv2d(3, width // 4, 4, stride=2, padding=1)]
    inputs = width // 4
    for outputs, stride in ((width // 4, 2), (width // 2, 1), (width, 2)):
        for index in range(depth):
            layers.append(BasicBlock(inputs, outputs, 1 if index else stride))
            inputs = outputs
    return nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """``x + f(x)``: two convolutions, each with GroupNorm and ReLU in front (arXiv:1603.05027)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1),
            nn.GroupNorm(GROUPS, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1),
        )
        is_same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if is_same else nn.Conv2d(inputs, outputs, 1, stride=stride)

    def forward(self, maps: Tensor) -> Tensor:
        return self.skip(maps) + self.residual(maps)


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


class VisionTransformer(nn.Module):
    """The class token of a small ViT (Dosovitskiy et al. 2021, arXiv:2010.11929, equations 1-4).

    A picture whose sides are no multiples of the patch is padded at its right and bottom.
    """

    def __init__(self, image_size: tuple[int, int], width: int, depth: int, heads: int) -> None:
        super().__init__()
        height, length = image_size
        self.padding = (0, -length % PATCH, 0, -height % PATCH)
        patches = math.ceil(height / PATCH) * math.ceil(length / PATCH)
        self.embed = nn.Conv2d(3, width, PATCH, stride=PATCH)
        self.start = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))
        self.blocks = nn.Sequential(*(ViTBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.embed(functional.pad(pixels, self.padding)).flatten(2).transpose(1, 2)
        start = self.start.expand(patches.shape[0], -1, -1).to(patches.dtype)
        tokens = self.blocks(torch.cat([start, patches], dim=1) + self.position)
        return self.norm(tokens[:, 0])


class ViTBlock(nn.Module):
    """Attention and an MLP, each on normalised tokens and added to them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), SelfAttention(width, heads))
        self.feed_forward = nn.Sequential(nn.LayerNorm(width), feed_forward(width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens)
        return tokens + self.feed_forward(tokens)
