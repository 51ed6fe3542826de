"""What memory holds, on disk: files of some steps each, in the layout of `jepa_robot.dataset`.

Every file is whole at any time: the newest is written anew with each addition, beside itself, and
renamed. Whoever is killed loses what was not added yet, and others read while it is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jepa_robot.dataset import About, InvalidDataset, dataset_bytes, read_about, read_episodes
from jepa_robot.files import IsLocked, lock, write_atomically
from jepa_robot.models import Bundle
from jepa_robot.modules.intrinsic import fingerprint
from jepa_robot.modules.memory import FIELDS

PART = 1024  # steps of a file
MOST_BEHIND = 16 * PART  # steps that wait for a disk that takes none
NAME = "steps_{:08d}.h5"
INTERFACE = ("joints", "cameras", "actions", "time_step")


class MemoryTaken(RuntimeError):
    """Another process writes to the same folder."""


@dataclass(frozen=True)
class Remembered:
    """Episodes that were read, oldest first, each as `Memory.steps` gives them; and what was not.

    ``problems`` name each file that was left out, with the reason.
    """

    episodes: tuple[dict[str, np.ndarray], ...]
    problems: tuple[str, ...]


class MemoryFiles:
    """A folder that one process adds steps to.

    Args:
        folder: made if it is not there.
        bundle: of whose latent space the steps are.
        limit: bytes; beyond them the oldest files go.

    Raises:
        MemoryTaken: another process writes there. The lock goes with its process.
        OSError: the folder cannot be written.
    """

    def __init__(self, folder: Path, bundle: Bundle, limit: int) -> None:
        self.folder, self._limit = folder, limit
        self._about = _about(bundle)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = lock(folder / "lock")
        except IsLocked as error:
            raise MemoryTaken(
                f"{folder}: process {error.holder} writes what is remembered there, expected none"
            ) from error
        paths = part_files(folder)
        self._number = 1 + int(paths[-1].stem.split("_")[1]) if paths else 0
        self._steps: dict[str, np.ndarray] = {}
        self._is_behind = False

    def add(self, steps: Mapping[str, np.ndarray]) -> None:
        """Add steps, as `Memory.steps` gives them. When it returns they are on the disk.

        Raises:
            OSError: the disk is full, for example. What is there stays; these steps are kept, and
                written with the next, as long as they are not too many.
        """
        known = self._steps
        self._steps = {
            name: np.concatenate([known[name], new]) if known else np.array(new)
            for name, new in steps.items()
        }
        self._is_behind = True
        self._steps = {name: rows[-MOST_BEHIND:] for name, rows in self._steps.items()}
        while len(self._steps["stamp"]):
            part = {name: rows[:PART] for name, rows in self._steps.items()}
            self._write(part)
            if len(part["stamp"]) < PART:
                break
            self._steps = {name: rows[PART:] for name, rows in self._steps.items()}
            self._number += 1
            self._forget()
        self._is_behind = False

    @property
    def is_behind(self) -> bool:
        """Whether steps were added that could not be written."""
        return self._is_behind

    def close(self) -> None:
        """Let others write."""
        self._lock.close()

    def _write(self, steps: Mapping[str, np.ndarray]) -> None:
        content = dataset_bytes(self._about, _by_episode(steps))
        write_atomically(self.folder / NAME.format(self._number), content)

    def _forget(self) -> None:
        paths = part_files(self.folder)
        sizes = [path.stat().st_size for path in paths]
        total = sum(sizes)
        for path, size in zip(paths[:-1], sizes[:-1], strict=True):
            if total <= self._limit:
                return
            path.unlink()
            total -= size


def write_memory(path: Path, bundle: Bundle, steps: Mapping[str, np.ndarray]) -> int:
    """Write steps, as `Memory.steps` gives them, into one file, all or nothing.

    Returns:
        How many.

    Raises:
        OSError: the folder cannot be made, or the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, dataset_bytes(_about(bundle), _by_episode(steps)))
    return len(steps["stamp"])


def _by_episode(steps: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    rows = {"stamp": steps["stamp"][:, None], **{name: steps[name] for name in FIELDS}}
    ends = np.flatnonzero(np.diff(steps["episode"])) + 1
    return [
        {name: rows[name][some] for name in rows}
        for some in np.split(np.arange(len(rows["stamp"])), ends)
    ]


def part_files(folder: Path) -> list[Path]:
    """The files of a folder, oldest first."""
    return sorted(folder.glob(NAME.replace("{:08d}", "[0-9]*")))


def read_memory(folder: Path, bundle: Bundle, newest: int | None = None) -> Remembered:
    """What is on the disk, also while another process adds to it.

    Args:
        folder: of a `MemoryFiles`; or a single file.
        bundle: what is of another latent space is left out.
        newest: as many steps; all, if it is not told.
    """
    episodes: list[dict[str, np.ndarray]] = []
    problems, wanted = [], _about(bundle)
    count = 0
    for path in [folder] if folder.is_file() else reversed(part_files(folder)):
        try:
            _check(path, read_about(path), wanted)
            found = list(_episodes(path, bundle))
        except (OSError, KeyError, InvalidDataset) as error:
            text = str(error)
            problems.append(text if str(path) in text else f"{path}: is damaged: {error}")
            continue
        episodes[:0] = found
        count += sum(len(episode["stamp"]) for episode in found)
        if newest is not None and count >= newest:
            break
    return Remembered(tuple(_joined(episodes, bundle)), tuple(problems))


def _episodes(path: Path, bundle: Bundle) -> Iterator[dict[str, np.ndarray]]:
    for episode in read_episodes(path, ("stamp", *FIELDS)):
        widths = {name: episode[name].shape[1] for name in ("state", "action")}
        expected = {"state": bundle.state_size, "action": bundle.action_size}
        if widths != expected:
            raise InvalidDataset(f"{path}: has {widths} numbers a step, expected {expected}")
        yield {**episode, "stamp": episode["stamp"][:, 0]}


def _joined(
    episodes: Sequence[dict[str, np.ndarray]], bundle: Bundle
) -> Iterator[dict[str, np.ndarray]]:
    """Episodes that go on from one file to the next, put together."""
    most = 1.5e9 * bundle.manifest["time_step"]
    parts: list[dict[str, np.ndarray]] = []
    for episode in episodes:
        if parts and not 0 < episode["stamp"][0] - parts[-1]["stamp"][-1] <= most:
            yield _together(parts)
            parts = []
        parts.append(episode)
    if parts:
        yield _together(parts)


def _together(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _about(bundle: Bundle) -> About:
    interface = {name: bundle.manifest[name] for name in INTERFACE}
    run = {
        "bundle": bundle.id,
        "space": bundle.space,
        "terms": list(bundle.terms),
        "intrinsic": fingerprint(),
    }
    return About(interface, runs=(run,))


def _check(path: Path, about: About | None, wanted: About) -> None:
    found = dict(about.runs[0]) if about is not None and about.runs else {}
    space, expected = found.get("space"), wanted.runs[0]["space"]
    if space != expected:
        raise InvalidDataset(
            f"{path}: is of latent space {space!r} (bundle {found.get('bundle')}), expected "
            f"{expected!r} (bundle {wanted.runs[0]['bundle']})"
        )
    for field in ("terms", "intrinsic"):
        known, expected = found.get(field), wanted.runs[0][field]
        if known != expected:
            raise InvalidDataset(f"{path}: its costs' {field} are {known}, expected {expected}")
