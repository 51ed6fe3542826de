"""Recorded frames as a trained agent sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa_robot.dataset import Dataset
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent

CHUNK = 512  # frames that are encoded at once


@dataclass(frozen=True)
class Encoded:
    """The usable frames of a dataset, one after the other.

    ``latents`` ``[N, D]`` and ``proprioception`` ``[N, P]`` of ``rows`` ``[N]``; ``looks``
    ``[N, cameras, n]``, by which pictures are told to be familiar.
    """

    data: Dataset
    rows: np.ndarray
    latents: np.ndarray
    proprioception: np.ndarray
    looks: Tensor

    @property
    def states(self) -> np.ndarray:
        """``[N, S]``: proprioception, then the latent."""
        return np.concatenate([self.proprioception, self.latents], axis=1)

    @property
    def lived(self) -> Lived:
        """States, and what was done in them."""
        order = np.argsort(self.data.offsets)
        return Lived(self.states, self.data.columns["action"][self.rows], self.data.lengths[order])

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Indices into ``latents`` of rows of the dataset."""
        return np.searchsorted(self.rows, rows)

    def label(self, name: str) -> np.ndarray:
        """A label ``[N, n]`` of every frame."""
        return self.data.columns[name][self.rows]


@torch.no_grad()
def encode(agent: Agent, data: Dataset) -> Encoded:
    """Encode every usable frame; before an episode's first one, the past is that frame again."""
    agent.eval()
    latents, looks = [], []
    for rows, first in _chunks(data):
        images = torch.from_numpy(data.images(rows))
        features = agent.encoder.look(images)
        looks.append(agent.views.features(images, features))
        past = np.arange(len(rows))[:, None] - np.arange(agent.shape.history)[::-1]
        windows = features[torch.from_numpy(np.maximum(past, first[:, None]))]
        latents.append(agent.encoder.latents(windows))
    rows = data.rows
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    felt = agent.body(torch.from_numpy(data.proprioception(rows))).numpy()
    return Encoded(data, rows, torch.cat(latents).numpy()[order], felt, torch.cat(looks)[order])


def _chunks(data: Dataset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Whole episodes, together about a chunk: rows, and where in them each one's episode begins."""
    rows, first = [], []
    count = 0
    for offset, length in zip(data.offsets.tolist(), data.lengths.tolist(), strict=True):
        rows.append(np.arange(offset, offset + length))
        first.append(np.full(length, count))
        count += length
        if count >= CHUNK:
            yield np.concatenate(rows), np.concatenate(first)
            rows, first, count = [], [], 0
    if rows:
        yield np.concatenate(rows), np.concatenate(first)


@torch.no_grad()
def prediction_ratio(agent: Agent, encoded: Encoded, horizon: int = 5) -> float:
    """Squared latent error after ``horizon`` steps, relative to that of predicting no change."""
    data = encoded.data
    starts = data.windows(horizon)
    begin, end = encoded.at(starts), encoded.at(starts + horizon)
    actions = data.columns["action"][starts[:, None] + np.arange(horizon)]
    state = torch.from_numpy(encoded.states[begin])
    joints = agent.shape.proprioception
    predicted = agent.rollout(state, torch.from_numpy(actions))[:, -1, joints:].numpy()
    target = encoded.latents[end]
    copy = np.mean((encoded.latents[begin] - target) ** 2)
    return float(np.mean((predicted - target) ** 2) / max(copy, 1e-12))
