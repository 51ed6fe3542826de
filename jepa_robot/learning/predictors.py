"""World models: the next state from state, action and a latent z. All are Markov in the state.

The state ``[N, S]`` is proprioception ``[N, P]`` in SI units, then the latent ``[N, D]``. What is
computed of them is a step of proprioception, in units of a typical step, and the next latent.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from jepa_robot.learning.layers import (
    Scale,
    SelfAttention,
    check_choice,
    check_whole,
    feed_forward,
    mlp,
)

if TYPE_CHECKING:
    from jepa_robot.learning.networks import AgentShape

PREDICTORS = ("mlp", "gru", "transformer")
CHUNK = 8  # numbers of the latent a token
KEEPING = 1.0  # bias of the GRU's update gate: at first it keeps most of what was


@dataclass(frozen=True)
class PredictorConfig:
    """Which predictor and its size.

    ``depth``: hidden layers of the MLP or of the GRU's candidate, or blocks of the transformer;
    ``heads``: of the transformer's attention.
    """

    name: str = "mlp"
    width: int = 256
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        check_choice(self.name, "predictor.name", PREDICTORS)
        check_whole(self, "predictor", {"width": 1, "depth": 1, "heads": 1})
        if self.name == "transformer" and self.width % self.heads:
            raise ValueError(
                f"predictor.width is {self.width}, expected a multiple of {self.heads} heads"
            )


class Predictor(nn.Module):
    """``s[t+1] = Pred(s[t], a[t], z)``: scaling around the network that the configuration names."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.proprioception_size, self.z_size = shape.proprioception, shape.z
        self.scale = Scale(shape.proprioception)
        self.step_scale = Scale(shape.proprioception)
        network = {"mlp": ResidualMLP, "gru": GatedRecurrent, "transformer": AdaLNTransformer}
        self.network = network[shape.predictor.name](shape)

    def forward(self, state: Tensor, action: Tensor, z: Tensor | None = None) -> Tensor:
        """Next states ``[N, S]`` of states ``[N, S]``, actions ``[N, A]`` and z ``[N, Z]``.

        Without z it is 0, the centre of what it is drawn from.
        """
        if z is None:
            z = state.new_zeros(state.shape[0], self.z_size)
        cause = torch.cat([action, z], dim=1)  # also of no z, which an exported graph then takes
        size = self.proprioception_size
        if not size:
            return self.network(None, state, cause)[1]
        proprioception, latent = state[:, :size], state[:, size:]
        step, latent = self.network(self.scale(proprioception), latent, cause)
        return torch.cat([proprioception + step * self.step_scale.std, latent], dim=1)


class ResidualMLP(nn.Module):
    """``(step, z[t+1] - z[t]) = MLP(p, z[t], cause)``."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.size = shape.proprioception
        config = shape.predictor
        inputs = shape.state + shape.actions + shape.z
        self.layers = mlp(inputs, config.width, shape.state, config.depth)

    def forward(
        self, proprioception: Tensor | None, latent: Tensor, cause: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Step ``[N, P]`` and next latent of ``[N, P]`` (or None), ``[N, D]``, ``[N, A+Z]``."""
        change = self.layers(_join(proprioception, latent, cause))
        return change[:, : self.size], latent + change[:, self.size :]


class FoldedMLP(nn.Module):
    """What a `Predictor` with a residual MLP computes, with its scales in the outer weights.

    Slices, products and what puts them together again become one sum.
    """

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.layers = copy.deepcopy(predictor.network.layers)
        first, last, size = self.layers[0], self.layers[-1], predictor.proprioception_size
        with torch.no_grad():
            into = first.weight[:, :size].double() / predictor.scale.std.double()
            first.weight[:, :size] = into.float()
            first.bias -= (into @ predictor.scale.mean.double()).float()
            last.weight[:size] *= predictor.step_scale.std[:, None]
            last.bias[:size] *= predictor.step_scale.std

    def forward(self, state: Tensor, action: Tensor, z: Tensor) -> Tensor:
        return state + self.layers(torch.cat([state, action, z], dim=1))


def folded(predictor: Predictor) -> nn.Module:
    """The same function with fewer operations, where there is one; else the predictor."""
    return FoldedMLP(predictor) if isinstance(predictor.network, ResidualMLP) else predictor


class GatedRecurrent(nn.Module):
    """A GRU whose hidden state h is the latent, and x what is embedded of the rest.

    ``r, u = σ(W [x, h] + b)``, ``n = MLP([x, r ⊙ h])``, ``h' = u ⊙ h + (1 − u) ⊙ n``: Cho et al.
    2014 (arXiv:1406.1078, equations 5 to 8), but for the candidate n: no tanh bounds it, since what
    keeps a JEPA from collapsing wants latents of variance 1, which (-1, 1) does not hold.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        config, latent = shape.predictor, shape.latent
        self.embed = nn.Linear(shape.proprioception + shape.actions + shape.z, config.width)
        self.gates = nn.Linear(config.width + latent, 2 * latent)
        nn.init.constant_(self.gates.bias[latent:], KEEPING)
        self.candidate = mlp(config.width + latent, config.width, latent, config.depth)
        size = shape.proprioception
        self.step = mlp(config.width + latent, config.width, size, 1) if size else None

    def forward(
        self, proprioception: Tensor | None, latent: Tensor, cause: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """Step ``[N, P]`` and next latent of ``[N, P]`` (or None), ``[N, D]``, ``[N, A+Z]``."""
        seen = torch.relu(self.embed(_join(proprioception, cause)))
        joined = torch.cat([seen, latent], dim=1)
        reset, update = torch.sigmoid(self.gates(joined)).chunk(2, dim=1)
        candidate = self.candidate(torch.cat([seen, reset * latent], dim=1))
        step = None if self.step is None else self.step(joined)
        return step, update * latent + (1 - update) * candidate


class AdaLNTransformer(nn.Module):
    """Attention between parts of the state, in blocks that actions and z modulate.

    One token is proprioception's, the others are `CHUNK` numbers of the latent each. At first it
    predicts no change, as the last layer's weights are 0.
    """

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        config, width = shape.predictor, shape.predictor.width
        self.size = shape.proprioception
        latent = [min(CHUNK, shape.latent - start) for start in range(0, shape.latent, CHUNK)]
        self.sizes = ([self.size] if self.size else []) + latent
        self.embed = nn.ModuleList(nn.Linear(size, width) for size in self.sizes)
        self.condition = nn.Sequential(
            nn.Linear(shape.actions + shape.z, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        self.blocks = nn.ModuleList(AdaLNBlock(width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = _zero(nn.Linear(width, 2 * width))
        self.outputs = nn.ModuleList(_zero(nn.Linear(width, size)) for size in self.sizes)

    def forward(
        self, proprioception: Tensor | None, latent: Tensor, cause: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Step ``[N, P]`` and next latent of ``[N, P]`` (or None), ``[N, D]``, ``[N, A+Z]``."""
        parts = _join(proprioception, latent).split(self.sizes, dim=1)
        tokens = torch.stack(
            [embed(part) for embed, part in zip(self.embed, parts, strict=True)], dim=1
        )
        condition = self.condition(cause).unsqueeze(1)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.modulation(condition).chunk(2, dim=-1)
        tokens = self.norm(tokens) * (1 + scale) + shift
        change = torch.cat(
            [output(tokens[:, index]) for index, output in enumerate(self.outputs)], dim=1
        )
        return change[:, : self.size], latent + change[:, self.size :]


class AdaLNBlock(nn.Module):
    """The adaLN-Zero block of Peebles & Xie 2023 (arXiv:2212.09748, section 3.2).

    ``x += α₁ Attention(γ₁ norm(x) + β₁)``, ``x += α₂ MLP(γ₂ norm(x) + β₂)``, where α, β and γ − 1
    are linear in the condition and 0 at first, so that the block starts as the identity.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = SelfAttention(width, heads)
        self.feed_forward = feed_forward(width)
        self.modulation = _zero(nn.Linear(width, 6 * width))

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """Tokens ``[N, T, width]`` under conditions ``[N, 1, width]``."""
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition).chunk(6, dim=-1)
        attended = self.attention(self.norm(tokens) * (1 + scale) + shift)
        tokens = tokens + gate * attended
        return tokens + gate2 * self.feed_forward(self.norm(tokens) * (1 + scale2) + shift2)


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _join(*parts: Tensor | None) -> Tensor:
    """Next to each other, without those that are not there."""
    return torch.cat([part for part in parts if part is not None], dim=1)
