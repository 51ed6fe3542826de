"""How everything here is optimised: AdamW, warm-up, cosine decay, clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

WARM_UP = 50  # steps
GRADIENT_NORM = 5.0


class Optimizer:
    """AdamW (Loshchilov & Hutter, arXiv:1711.05101) over a known number of steps.

    Args:
        parameters: what is trained.
        steps: how many calls of `step` there will be.
        learning_rate: at its highest.
        weight_decay: AdamW's.
        norm: of the gradient, at most.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        steps: int,
        learning_rate: float,
        weight_decay: float = 1e-5,
        norm: float = GRADIENT_NORM,
    ) -> None:
        self._parameters, self._norm = list(parameters), norm
        self._optimizer = torch.optim.AdamW(
            self._parameters, learning_rate, weight_decay=weight_decay
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: learning_rate_factor(step, steps)
        )

    def step(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, self._norm)
        self._optimizer.step()
        self._schedule.step()


def learning_rate_factor(step: int, steps: int) -> float:
    """Rises over the first steps, then falls to 0 along a cosine."""
    return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * min(step / steps, 1)))
