"""Windows of recorded episodes as batches, drawn by step: training that resumes sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from jepa_robot import dataset as recordings


class Batches(Dataset):
    """Batch number n of a training run; what is in it depends on the seed and n alone.

    An item is images ``[B, K-1+H+1, cameras, h, w, 3]`` uint8, proprioception ``[B, H+1, P]`` and
    actions ``[B, H, A]``: H steps, before the first of which the encoder sees K - 1 more frames.
    ``paired``: of each half of the batch, windows of the same number are of the same episode.
    """

    def __init__(
        self,
        data: recordings.Dataset,
        batch: int,
        horizon: int,
        history: int,
        seed: int,
        paired: bool = False,
    ) -> None:
        self._data, self._batch, self._seed = data, batch, seed
        self._starts = data.windows(horizon, history)
        self._episodes = None
        if paired:
            self._starts = np.sort(self._starts)
            episodes = np.searchsorted(np.sort(data.offsets), self._starts, side="right")
            self._episodes = (
                np.searchsorted(episodes, episodes),
                np.searchsorted(episodes, episodes, side="right"),
            )
        self._frames = np.arange(1 - history, horizon + 1)
        self._steps = np.arange(horizon + 1)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self._seed, number])
        starts = self._starts[self._draw(rng)][:, None]
        rows = starts + self._steps
        arrays = (
            self._data.images(starts + self._frames),
            self._data.proprioception(rows),
            self._data.columns["action"][rows[:, :-1]],
        )
        return tuple(map(torch.from_numpy, arrays))

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Which windows ``[B]``."""
        if self._episodes is None:
            return rng.integers(len(self._starts), size=self._batch)
        first = rng.integers(len(self._starts), size=self._batch // 2)
        begin, end = (bound[first] for bound in self._episodes)
        return np.concatenate([first, rng.integers(begin, end)])


class Numbers(Sampler):
    """The batch numbers of one of several processes, from where training is on.

    Args:
        steps: how many there are in all.
        begin: the step that training is at.
        rank: of this process, among ``world``.
    """

    def __init__(self, steps: int, begin: Callable[[], int], rank: int, world: int) -> None:
        self._steps, self._begin, self._rank, self._world = steps, begin, rank, world

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[int]:
        steps = range(self._begin(), self._steps)
        return (step * self._world + self._rank for step in steps)


def loader(batches: Batches, numbers: Numbers, workers: int) -> DataLoader:
    """Batches for one process, prepared by so many others."""
    return DataLoader(batches, batch_size=None, sampler=numbers, num_workers=workers)
