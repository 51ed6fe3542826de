"""Layers that several networks are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

STD_FLOOR = 1e-3


class Scale(nn.Module):
    """Standardises ``[..., n]`` by constants that are part of the graph; n may be 0."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def fit(self, values: Tensor) -> None:
        flat = values.flatten(0, -2)
        if not flat.shape[1]:
            return  # of nothing there is no deviation
        self.mean.copy_(flat.mean(dim=0))
        self.std.copy_(flat.std(dim=0).clamp(min=STD_FLOOR))

    def forward(self, values: Tensor) -> Tensor:
        return (values - self.mean) / self.std


class SelfAttention(nn.Module):
    """Multi-head attention of tokens ``[N, T, width]`` to each other (arXiv:1706.03762, 3.2)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        split = self.inputs(tokens).unflatten(-1, (3, self.heads, -1))  # [N, T, 3, heads, d]
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(dim=0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.output(mixed.transpose(1, 2).flatten(2))


def mlp(inputs: int, width: int, outputs: int, depth: int = 2) -> nn.Sequential:
    """``depth`` hidden layers with LayerNorm."""
    layers: list[nn.Module] = []
    for index in range(depth):
        layers += [
            nn.Linear(width if index else inputs, width),
            nn.LayerNorm(width),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def feed_forward(width: int) -> nn.Sequential:
    """A transformer block's MLP, four times as wide inside."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


def check_whole(config: object, prefix: str, minimum: dict[str, int]) -> None:
    """Check a dataclass's whole numbers.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for field in dataclasses.fields(config):
        if field.name not in minimum:
            continue
        value, low = getattr(config, field.name), minimum[field.name]
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(
                f"{prefix}.{field.name} is {value!r}, expected a whole number of at least {low}"
            )


def check_numbers(
    config: object, prefix: str, from_zero: Collection[str] = (), shares: Collection[str] = ()
) -> None:
    """Check a dataclass's numbers: above 0, or from it; whole where they are declared so.

    Args:
        config: of the numbers; fields that are dataclasses check themselves.
        prefix: what errors call it.
        from_zero: fields that may be 0.
        shares: fields that are at most 1.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            continue
        kind = "number" if field.type == "float" else "whole number"
        fits = isinstance(value, (int, float) if kind == "number" else int)
        fits = fits and not isinstance(value, bool) and 0 <= value < float("inf")
        fits = fits and (value > 0 or field.name in from_zero)
        fits = fits and (value <= 1 or field.name not in shares)
        if not fits:
            least = "from" if field.name in from_zero else "above"
            most = ", at most 1" if field.name in shares else ""
            raise ValueError(
                f"{prefix}.{field.name} is {value!r}, expected a {kind} {least} 0{most}"
            )


def check_choice(value: object, name: str, choices: tuple[str, ...]) -> None:
    """Check a choice.

    Raises:
        ValueError: names the field, its value and the choices.
    """
    if value not in choices:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}")
