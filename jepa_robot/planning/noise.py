"""Noise that planners explore with."""

from __future__ import annotations

import numpy as np


def correlated(
    rng: np.random.Generator, shape: tuple[int, int, int], correlation: float
) -> np.ndarray:
    """``[N, H, A]`` float32: unit variance, correlated from step to step (an AR(1) process)."""
    noise = rng.standard_normal(shape, np.float32)
    fresh = np.float32(np.sqrt(1 - correlation**2))
    for step in range(1, shape[1]):
        noise[:, step] = np.float32(correlation) * noise[:, step - 1] + fresh * noise[:, step]
    return noise
