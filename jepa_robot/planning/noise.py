"""Noise that planners explore with."""

from __future__ import annotations

import numpy as np


def correlated(
    rng: np.random.Generator, shape: tuple[int, int, int], correlation: float
) -> np.ndarray:
    """``[N, H, A]`` float32: unit variance, correlated from step to step (an AR(1) process)."""
    count, horizon, size = shape
    steps = rng.standard_normal((horizon, count * size), np.float32)  # whole rows a step
    steps[1:] *= np.float32(np.sqrt(1 - correlation**2))
    for step in range(1, horizon):
        steps[step] += np.float32(correlation) * steps[step - 1]
    return steps.reshape(horizon, count, size).transpose(1, 0, 2)


def coloured(rng: np.random.Generator, shape: tuple[int, int, int], exponent: float) -> np.ndarray:
    """``[N, H, A]`` float32: unit variance, power at frequency f along H of ``f ** -exponent``.

    As Timmer & Koenig 1995 make it, "On generating power law noise".
    """
    count, horizon, size = shape
    if horizon == 1:
        return rng.standard_normal(shape, np.float32)
    frequencies = np.fft.rfftfreq(horizon)
    frequencies[0] = 1 / horizon  # what does not change gets as much as the slowest wave
    amplitudes = frequencies ** (-exponent / 2)
    real = rng.standard_normal((count, size, len(frequencies))) * amplitudes
    imaginary = rng.standard_normal((count, size, len(frequencies))) * amplitudes
    imaginary[..., 0] = 0
    real[..., 0] *= np.sqrt(2)
    weights = amplitudes.copy()
    if horizon % 2 == 0:  # the fastest wave has no phase
        imaginary[..., -1] = 0
        real[..., -1] *= np.sqrt(2)
        weights[-1] /= np.sqrt(2)
    weights[0] /= np.sqrt(2)
    deviation = 2 * np.sqrt(np.square(weights).sum()) / horizon
    waves = np.fft.irfft(real + 1j * imaginary, n=horizon, axis=-1) / deviation
    return np.ascontiguousarray(waves.transpose(0, 2, 1), np.float32)
