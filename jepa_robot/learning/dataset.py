"""Collected data in memory, and windows of it."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jepa_robot.models import difference

FORMAT = 1
ARRAYS = ("images", "positions", "velocities", "actions", "ee_position")


class InvalidDataset(ValueError):
    """Data that cannot be learned from; the message names what was wrong."""


@dataclass(frozen=True)
class Dataset:
    """E episodes of T steps. ``interface`` is the contract's, as in a bundle's manifest.

    ``images`` ``[E, T+1, cameras, h, w, 3]`` uint8; ``proprioception`` ``[E, T+1, 2J]`` (rad,
    rad/s), ``actions`` ``[E, T, A]``, ``ee_position`` ``[E, T+1, 3]`` (m), float32.
    """

    images: np.ndarray
    proprioception: np.ndarray
    actions: np.ndarray
    ee_position: np.ndarray
    interface: dict
    seed: int

    @property
    def episodes(self) -> int:
        return len(self.actions)

    @property
    def transitions(self) -> int:
        return self.actions.shape[0] * self.actions.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        return tuple(int(n) for n in self.images.shape[3:5])

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """The first episodes, and the last ``share`` of them (at least one) for validation."""
        count = max(1, round(share * self.episodes))
        if count >= self.episodes:
            raise InvalidDataset(f"{self.episodes} episode(s), expected enough to hold out {count}")
        return self._episodes(slice(None, -count)), self._episodes(slice(-count, None))

    def starts(self, horizon: int) -> np.ndarray:
        """``[W, 2]``: episode and first step of every window of ``horizon`` steps."""
        steps = self.actions.shape[1] - horizon + 1
        if steps < 1:
            raise InvalidDataset(
                f"episodes have {self.actions.shape[1]} steps, expected at least {horizon}"
            )
        episode, step = np.divmod(np.arange(self.episodes * steps), steps)
        return np.stack([episode, step], axis=1)

    def windows(self, starts: np.ndarray, horizon: int) -> tuple[np.ndarray, ...]:
        """Images ``[B, H+1, ...]``, proprioception ``[B, H+1, 2J]``, actions ``[B, H, A]``."""
        episode = starts[:, :1]
        steps = starts[:, 1:] + np.arange(horizon + 1)
        return (
            self.images[episode, steps],
            self.proprioception[episode, steps],
            self.actions[episode, steps[:, :-1]],
        )

    def _episodes(self, which: slice) -> Dataset:
        arrays = ("images", "proprioception", "actions", "ee_position")
        return dataclasses.replace(self, **{name: getattr(self, name)[which] for name in arrays})


def load_dataset(folder: str | Path, interface: dict | None = None) -> Dataset:
    """Read a folder that ``collect`` wrote.

    Args:
        folder: the dataset.
        interface: refuse data of a robot with another ``RobotContract.interface()``.

    Raises:
        FileNotFoundError: there is no such dataset.
        InvalidDataset: shards are damaged or disagree, or are another robot's; names what differs.
    """
    folder = Path(folder)
    paths = sorted(folder.glob("*.h5"))
    if not paths:
        raise FileNotFoundError(f"{folder}: holds no .h5 shards, expected a collected dataset")
    shards = [_read_shard(path) for path in paths]
    first = shards[0]
    for path, shard in zip(paths, shards, strict=True):
        if (shard["interface"], shard["seed"]) != (first["interface"], first["seed"]):
            raise InvalidDataset(f"{path}: is of another run than {paths[0].name}")
        for name in ARRAYS:
            if shard[name].shape[1:] != first[name].shape[1:]:
                raise InvalidDataset(
                    f"{path}: {name} has shape {shard[name].shape}, expected "
                    f"[episodes, {', '.join(map(str, first[name].shape[1:]))}]"
                )
    if interface is not None:
        check_interface(str(folder), first["interface"], interface)
    joined = {name: np.concatenate([s.pop(name) for s in shards]) for name in ARRAYS}
    proprioception = np.concatenate([joined["positions"], joined["velocities"]], axis=-1)
    for name, array in (("proprioception", proprioception), ("actions", joined["actions"])):
        if not np.isfinite(array).all():
            raise InvalidDataset(f"{folder}: {name} holds numbers that are not finite")
    return Dataset(
        joined["images"],
        proprioception,
        joined["actions"],
        joined["ee_position"],
        first["interface"],
        first["seed"],
    )


def check_interface(source: str, actual: dict, expected: dict) -> None:
    """Compare what ``source`` was recorded with to a robot's ``RobotContract.interface()``.

    Raises:
        InvalidDataset: names the first joint, camera, action channel or rate that differs.
    """
    for field, value in expected.items():
        mismatch = difference(field, actual.get(field), value, holder="data")
        if mismatch:
            raise InvalidDataset(f"{source}: is of another robot: {mismatch}")


def _read_shard(path: Path) -> dict:
    try:
        with h5py.File(path, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise InvalidDataset(
                    f"{path}: format is {file.attrs.get('format')}, expected {FORMAT}"
                )
            shard = {name: file[name][:] for name in ARRAYS}
            shard["interface"] = json.loads(file.attrs["interface"])
            shard["seed"] = int(file.attrs["seed"])
    except (OSError, KeyError) as error:
        raise InvalidDataset(f"{path}: is no shard of a dataset: {error}") from error
    return shard
