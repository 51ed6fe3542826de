"""What goals are about, out of latents: positions from few labels, or slow features from none."""

from __future__ import annotations

import numpy as np
import torch

from jepa_robot.dataset import Dataset
from jepa_robot.learning.encoded import Encoded
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import Optimizer

READOUT_ITERATIONS = 1500
JITTER = 0.1  # of the latents' standard deviation, added to what a readout learns from
GOAL_ITERATIONS = 1500
LEAST_SPREAD = 0.2  # of the largest, that a coordinate of a position counts with
RIDGE = 1e-2  # against kernels of about 1
HELD_OUT = 0.2  # of the labelled frames, where it is judged
SLOW_BATCH = 1024  # pairs of frames
SLOW_WEIGHT = 100.0  # of what changes in a step, which is little


def train_readout(
    agent: Agent, latents: np.ndarray, truth: np.ndarray, labels: int, seed: int
) -> None:
    """Fit the readout on ``labels`` of the frames ``[N, D]`` and what is true of them ``[N, G]``.

    The latents stay as they are.
    """
    chosen = labelled(len(latents), labels, seed)
    inputs = torch.from_numpy(latents[chosen])
    positions = torch.from_numpy(truth[chosen])
    readout = agent.readout
    readout.scale.fit(positions)
    spread = readout.scale.std  # a block's height hardly varies, and must not count as x and y do
    spread.clamp_(min=float(spread.max()) * LEAST_SPREAD)
    noise = torch.Generator().manual_seed(seed)
    optimizer = Optimizer(readout.parameters(), READOUT_ITERATIONS, 1e-2, weight_decay=1e-1)
    target = readout.scale(positions)
    width = JITTER * torch.from_numpy(latents.std(axis=0))
    for _ in range(READOUT_ITERATIONS):
        jitter = width * torch.randn(inputs.shape, generator=noise)
        error = readout.scale(readout(inputs + jitter)) - target
        # Distances and not their squares: of few labels some are of blocks that nobody can see.
        optimizer.step((error.square().sum(dim=1) + 1e-4).sqrt().mean())


def train_slow_readout(agent: Agent, encoded: Encoded, seed: int) -> None:
    """Fit the readout on no label: on what changes least from one frame to the next.

    The hand always moves, an object seldom: what is slow among what pictures tell is where it is.
    Slow feature analysis (Wiskott & Sejnowski 2002, Neural Computation 14(4)): the mean square of
    the change, in units in which the features ``[N, G]`` have unit covariance over all frames. They
    are fixed but for a rotation; a readout that was trained before hardly turns.
    """
    readout, latents = agent.readout, torch.from_numpy(encoded.latents)
    before = encoded.at(encoded.data.windows(1))
    unit = torch.eye(agent.shape.goal)
    rng = np.random.default_rng(seed)
    optimizer = Optimizer(readout.parameters(), READOUT_ITERATIONS, 3e-3, weight_decay=1e-3)
    for _ in range(READOUT_ITERATIONS):
        chosen = torch.from_numpy(rng.choice(before, SLOW_BATCH))
        now, then = readout(latents[chosen]), readout(latents[chosen + 1])
        covariance = torch.atleast_2d(torch.cov(torch.cat([now, then]).T))
        change = (then - now).T @ (then - now) / SLOW_BATCH
        slowness = torch.linalg.solve(covariance + 1e-4 * unit, change).trace()
        optimizer.step(SLOW_WEIGHT * slowness + 0.01 * (covariance - unit).square().sum())
    with torch.no_grad():
        features = readout(latents)
        variances, axes = torch.linalg.eigh(torch.atleast_2d(torch.cov(features.T)))
        whiten = axes @ torch.diag(variances.clamp(min=1e-6).rsqrt()) @ axes.T
        middle = features.mean(dim=0)
        for layer in (readout.linear, readout.rest[-1]):
            layer.weight.copy_(whiten @ layer.weight)
            layer.bias.copy_(whiten @ (layer.bias - middle / 2))


def map_to_truth(
    agent: Agent, latents: np.ndarray, truth: np.ndarray, labels: int, seed: int
) -> np.ndarray:
    """An affine map ``[G + 1, g]`` from the readout to what is true of ``labels`` frames.

    To say how good slow features are; what is learned and shipped does not know of it.
    """
    chosen = labelled(len(latents), labels, seed)
    return np.linalg.lstsq(_read(agent, latents[chosen]), truth[chosen], rcond=None)[0]


@torch.no_grad()
def _read(agent: Agent, latents: np.ndarray) -> np.ndarray:
    """What is read out, and a 1 ``[N, G + 1]``."""
    read = agent.readout(torch.from_numpy(latents)).numpy()
    return np.concatenate([read, np.ones((len(read), 1), read.dtype)], axis=1)


def labelled(frames: int, labels: int, seed: int) -> np.ndarray:
    """Which frames' labels are looked at, of so many: indices."""
    return np.random.default_rng(seed).choice(frames, size=min(labels, frames), replace=False)


def explained_by_joints(data: Dataset, label: str, labels: int, seed: int) -> float:
    """R² of a label as a linear, and a smooth, function of the joints, by kernel ridge regression.

    About 1 says that pictures tell nothing of it that joints do not.
    """
    rows = data.rows[labelled(len(data.rows), labels, seed)]
    joints, truth = data.proprioception(rows), data.columns[label][rows]
    joints = (joints - joints.mean(axis=0)) / (joints.std(axis=0) + 1e-6)
    known = round((1 - HELD_OUT) * len(rows))
    distance = np.square(joints[:, None] - joints[None, :known]).mean(axis=2)
    kernel = np.exp(-distance / 2) + joints @ joints[:known].T / joints.shape[1]
    mean = truth[:known].mean(axis=0)
    weights = np.linalg.solve(kernel[:known] + RIDGE * np.eye(known), truth[:known] - mean)
    residual = np.square(kernel[known:] @ weights + mean - truth[known:]).sum()
    return float(1 - residual / max(np.square(truth[known:] - mean).sum(), 1e-12))


def train_goal_encoder(agent: Agent, latents: np.ndarray, seed: int) -> None:
    """Fit the goal encoder on pairs of a frame's readout and its latent ``[N, D]``: no labels."""
    rng = np.random.default_rng(seed)
    flat = torch.from_numpy(latents)
    with torch.no_grad():
        positions = agent.readout(flat)
    goal_encoder = agent.goal_encoder
    goal_encoder.scale.fit(positions)
    optimizer = Optimizer(goal_encoder.parameters(), GOAL_ITERATIONS, 3e-3)
    for _ in range(GOAL_ITERATIONS):
        chosen = torch.from_numpy(rng.integers(len(flat), size=512))
        error = goal_encoder(positions[chosen]) - flat[chosen]
        optimizer.step(error.square().mean())


def readout_quality(
    agent: Agent, latents: np.ndarray, truth: np.ndarray, mapping: np.ndarray | None = None
) -> tuple[float, float]:
    """R² and mean distance of the readout of ``[N, D]`` to ``[N, g]`` that it was not fitted on.

    ``mapping``: of `map_to_truth`, where what is read out are no positions.
    """
    read = _read(agent, latents)
    read = read[:, :-1] if mapping is None else read @ mapping
    residual = np.sum((read - truth) ** 2)
    total = np.sum((truth - truth.mean(axis=0)) ** 2)
    error = np.linalg.norm(read - truth, axis=1).mean()
    return float(1 - residual / max(total, 1e-12)), float(error)
