"""Windows of recorded episodes as batches, drawn by step: training that resumes sees the same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from jepa_robot import dataset as recordings

EPOCH = 50  # steps: checkpoints are written after each


class Batches(Dataset):
    """Batch number n of a training run; what is in it depends on the seed and n alone.

    An item is images ``[B, K-1+H+1, cameras, h, w, 3]`` uint8, proprioception ``[B, H+1, P]`` and
    actions ``[B, H, A]``: H steps, before the first of which the encoder sees K - 1 more frames.
    """

    def __init__(
        self, data: recordings.Dataset, batch: int, horizon: int, history: int, seed: int
    ) -> None:
        self._data, self._batch, self._seed = data, batch, seed
        self._starts = data.windows(horizon, history)
        self._frames = np.arange(1 - history, horizon + 1)
        self._steps = np.arange(horizon + 1)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self._seed, number])
        starts = self._starts[rng.integers(len(self._starts), size=self._batch)][:, None]
        rows = starts + self._steps
        arrays = (
            self._data.images(starts + self._frames),
            self._data.proprioception(rows),
            self._data.columns["action"][rows[:, :-1]],
        )
        return tuple(map(torch.from_numpy, arrays))


class Numbers(Sampler):
    """The batch numbers of one epoch on one of several processes."""

    def __init__(self, rank: int, world: int) -> None:
        self.epoch, self._rank, self._world = 0, rank, world

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning, also when it resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return EPOCH

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * EPOCH * self._world + self._rank
        return iter(range(first, first + EPOCH * self._world, self._world))


def loader(batches: Batches, rank: int, world: int, workers: int) -> DataLoader:
    """Batches for one process, prepared by so many others."""
    return DataLoader(
        batches,
        batch_size=None,
        sampler=Numbers(rank, world),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
