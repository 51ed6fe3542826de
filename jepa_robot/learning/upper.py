"""The upper level of a hierarchy (H-JEPA): what comes, most of a second on, of what is asked for.

    s2[t] = Enc2(s1[t]),    s2[t+K] = s2[t] + Pred2(s2[t], m[t]),    place = Where(s2)

A second JEPA on the states of the first (LeCun 2022, section 4.6). A macro-action m is what the
lower level is asked for: where it is to bring what goals are about, as an offset from where that
is. It stands for the K actions by which the lower level answers, and is the latent of that chunk of
actions which both levels understand. What was asked for and did not come, a block pushed against a
wall, is in what the upper level learns from, so it knows what its lower level cannot do.

    L = w_p |s2' - s2|² + w_w |Where(s2') - readout(s1)|² + VICReg(s2)

No label is looked at: places are what the first level's readout says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.dataset import Dataset, InvalidDataset
from jepa_robot.dataset_checks import SHOWN
from jepa_robot.energy.regularizers import VICReg
from jepa_robot.learning.layers import Scale, check_whole, mlp
from jepa_robot.learning.optimize import Optimizer

if TYPE_CHECKING:
    from jepa_robot.learning.encoded import Encoded
    from jepa_robot.learning.networks import Agent

STEADY = 0.02  # m that what is asked for may change by in a macro-action
REACHING = 0.9  # the share of recorded offsets that macro-actions in [-1, 1] reach
LEAST_REACH = 1e-3  # m
JITTER = 0.05  # of the states' standard deviation, added to what is learned from
WEIGHT_DECAY = 1e-3


@dataclass(frozen=True)
class UpperConfig:
    """Settings of the upper level and its training.

    ``stride``: K, steps of the lower level that a macro-action takes; ``steps``: of these that are
    predicted one from the other in training; ``horizon``: macro-actions of a plan. ``iterations``:
    0 for no upper level.
    """

    stride: int = 16
    steps: int = 2
    horizon: int = 8
    latent: int = 32
    width: int = 128
    iterations: int = 0
    batch: int = 256
    learning_rate: float = 2e-3
    prediction: float = 1.0
    where: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        one = ("stride", "steps", "horizon", "latent", "width", "batch")
        check_whole(self, "upper", {**dict.fromkeys(one, 1), "iterations": 0, "seed": 0})
        for name in ("learning_rate", "prediction", "where"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise ValueError(f"upper.{name} is {value!r}, expected a number above 0")


class UpperLevel(nn.Module):
    """Encoder, predictor and readout of the upper level.

    Args:
        state: size of the lower level's state s1, S.
        goal: size of what goals are about, G.
        config: sizes.
    """

    def __init__(self, state: int, goal: int, config: UpperConfig) -> None:
        super().__init__()
        self.scale, self.places = Scale(state), Scale(goal)
        self.encoder = mlp(state, config.width, config.latent)
        self.predictor = mlp(config.latent + goal, config.width, config.latent)
        self.readout = mlp(config.latent, config.width, goal, depth=1)
        self.register_buffer("reach", torch.ones(goal))  # m that a macro-action of 1 asks for

    def encode(self, state: Tensor) -> Tensor:
        """s2 ``[N, D2]`` of s1 ``[N, S]``."""
        return self.encoder(self.scale(state))

    def step(self, latent: Tensor, macro: Tensor) -> Tensor:
        """The next s2 ``[N, D2]``."""
        return latent + self.predictor(torch.cat([latent, macro], dim=1))

    def where(self, latent: Tensor) -> Tensor:
        """Where what goals are about is, in s2 ``[N, D2]``: ``[N, G]`` (m)."""
        return self.readout(latent) * self.places.std + self.places.mean

    def forward(self, state: Tensor, macros: Tensor) -> tuple[Tensor, Tensor]:
        """What comes of macro-actions.

        Args:
            state: s1, ``[N, S]``.
            macros: ``[N, P, G]`` in [-1, 1].

        Returns:
            ``places`` ``[N, P + 1, G]`` (m), the first as it is now, and ``asked`` ``[N, P, G]``
            (m), where the lower level is asked to bring it.
        """
        latent = self.encode(state)
        places, asked = [self.where(latent)], []
        for macro in macros.unbind(dim=1):
            asked.append(places[-1] + macro * self.reach)
            latent = self.step(latent, macro)
            places.append(self.where(latent))
        return torch.stack(places, dim=1), torch.stack(asked, dim=1)


def train_upper(
    agent: Agent,
    encoded: Encoded,
    config: UpperConfig,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train an agent's upper level on what its lower level was asked for, and what came of that.

    Args:
        agent: with a readout and an upper level; the rest of it stays as it is.
        encoded: data with demonstrations or practice, that says what was asked for.
        config: settings.
        progress: called with steps done and to do.

    Raises:
        InvalidDataset: nothing was asked for, or for too short a time.
    """
    torch.manual_seed(config.seed)
    upper = agent.upper.train()
    states, macros, places = _asked_for(agent, encoded, config)
    upper.scale.fit(states)
    upper.places.fit(places)
    upper.places.std.clamp_(min=float(upper.places.std.max()) / 10)  # heights hardly vary
    reach = torch.quantile(macros.flatten(0, 1).abs(), REACHING, dim=0)
    upper.reach.copy_(reach.clamp(min=LEAST_REACH))
    macros = macros / upper.reach
    regularizer = VICReg(1.0, 0.04)
    optimizer = Optimizer(
        upper.parameters(), config.iterations, config.learning_rate, weight_decay=WEIGHT_DECAY
    )
    jitter = JITTER * upper.scale.std
    for number in range(config.iterations):
        chosen = torch.randint(0, len(states), (config.batch,))
        seen = states[chosen] + jitter * torch.randn(states[chosen].shape)
        latents = upper.encode(seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        imagined = [latents[:, 0]]
        for macro in macros[chosen].unbind(dim=1):
            imagined.append(upper.step(imagined[-1], macro))
        predicted = torch.stack(imagined, dim=1)
        wrong = upper.places(upper.where(predicted)) - upper.places(places[chosen])
        loss = config.prediction * functional.mse_loss(predicted[:, 1:], latents[:, 1:])
        loss = loss + config.where * (wrong.square().sum(dim=-1) + 1e-4).sqrt().mean()
        optimizer.step(loss + regularizer(latents.flatten(0, 1)))
        if progress is not None:
            progress(number + 1, config.iterations)
    upper.eval()


@torch.no_grad()
def upper_errors(agent: Agent, encoded: Encoded, config: UpperConfig) -> tuple[float, float]:
    """How far off (m) places are foretold, ``steps`` macro-actions ahead, and if nothing changed.

    Places are those that the first level's readout sees.
    """
    states, macros, places = _asked_for(agent, encoded, config)
    foretold, _ = agent.upper(states[:, 0], macros / agent.upper.reach)
    off, moved = ((seen - places)[:, -1].norm(dim=-1).mean() for seen in (foretold, places[:, :1]))
    return float(off), float(moved)


def check_asked_for(data: Dataset, config: UpperConfig) -> None:
    """Whether data says what was asked for, of what has a label.

    Raises:
        InvalidDataset: it does not, or for too short a time.
    """
    if SHOWN[1] not in data.columns or data.about.goal not in data.columns:
        raise InvalidDataset(
            f"the data has no columns {SHOWN[1]} and {data.about.goal or 'of a goal'}, expected "
            "what the lower level was asked for, and what that is of: demonstrations, or practice"
        )
    _steady(data.columns[SHOWN[1]], data.windows(config.stride * config.steps), config)


def _steady(asked: np.ndarray, starts: np.ndarray, config: UpperConfig) -> np.ndarray:
    """Starts of stretches in which what was asked for stayed, macro-action by macro-action."""
    ahead = starts[:, None] + np.arange(config.steps) * config.stride
    begin, end = asked[ahead], asked[ahead + config.stride - 1]
    steady = np.abs(end - begin).max(axis=-1) < STEADY  # NaN is not
    starts = starts[steady.all(axis=1)]
    if not len(starts):
        raise InvalidDataset(
            f"nothing was asked for during {config.stride * config.steps} steps on end, expected "
            "demonstrations, or practice, of at least that"
        )
    return starts


@torch.no_grad()
def _asked_for(
    agent: Agent, encoded: Encoded, config: UpperConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """States ``[M, P + 1, S]``, offsets asked for ``[M, P, G]`` (m), and places ``[M, P + 1, G]``.

    Of the stretches of the recording in which what was asked for stayed.
    """
    asked = encoded.label(SHOWN[1])
    starts = _steady(asked, encoded.lived.starts(config.stride * config.steps), config)
    rows = starts[:, None] + np.arange(config.steps + 1) * config.stride
    states = torch.from_numpy(encoded.states[rows])
    latents = torch.from_numpy(encoded.latents[rows])
    places = agent.readout(latents.flatten(0, 1)).unflatten(0, rows.shape)
    offsets = torch.from_numpy(asked[rows[:, :-1]]) - places[:, :-1]
    return states, offsets, places
