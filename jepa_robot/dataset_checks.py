"""What makes recorded episodes unusable, found where they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jepa_robot.dataset import Dataset

SHOWN = ("demonstrated", "demonstrated_goal")  # columns that are NaN where nobody shows anything
CHECKED_PIXELS = 7  # every so many of a picture are enough to see whether it shows anything
ROUNDING = 1e-5  # of an action


@dataclass(frozen=True)
class Problem:
    """Why an episode is left out: ``text`` says what is wrong with it from ``frame`` on."""

    episode: int
    frame: int
    text: str

    def __str__(self) -> str:
        return f"episode {self.episode}, frame {self.frame}: {self.text}"


def find_problems(dataset: Dataset) -> Iterator[Problem]:
    """What makes episodes unusable: numbers that are not finite, actions out of range, cameras
    that show nothing. One problem an episode.
    """
    for episode, (offset, length) in enumerate(
        zip(dataset.offsets.tolist(), dataset.lengths.tolist(), strict=True)
    ):
        rows = slice(offset, offset + length)
        problem = _wrong_numbers(dataset, rows) or _dead_camera(dataset, rows)
        if problem:
            yield Problem(episode, *problem)


def _wrong_numbers(dataset: Dataset, rows: slice) -> tuple[int, str] | None:
    for name, column in dataset.columns.items():
        values = column[rows][:-1] if name == "action" else column[rows]
        if values.dtype.kind != "f":
            continue
        is_fine = np.isfinite(values)
        if name in SHOWN:
            is_fine |= np.isnan(values).all(axis=1, keepdims=True)
        bad = np.flatnonzero(~is_fine.all(axis=1))
        if len(bad):
            return int(bad[0]), f"{name} is not finite, expected numbers"
    actions = dataset.columns["action"][rows][:-1]
    bad = np.flatnonzero((np.abs(actions) > 1 + ROUNDING).any(axis=1))
    if len(bad):
        value = float(np.abs(actions[bad[0]]).max())
        return int(bad[0]), f"action has {value:.3g}, expected values in [-1, 1]"
    return None


def _dead_camera(dataset: Dataset, rows: slice) -> tuple[int, str] | None:
    """A camera whose every picture is of one colour."""
    pixels = dataset.pixels[rows]
    width = dataset.image_size[1]
    for index, camera in enumerate(dataset.about.interface["cameras"]):
        part = pixels[:, ::CHECKED_PIXELS, index * width : (index + 1) * width : CHECKED_PIXELS]
        flat = part.reshape(len(part), -1, 3)
        is_blank = (flat == flat[:, :1]).all(axis=(1, 2))
        if is_blank.all():
            return 0, f"camera {camera['name']} shows nothing but one colour"
    return None
