"""Recorded episodes: one HDF5 file, in the layout that stable-worldmodel reads and writes.

Each column is one dataset whose rows are the frames of all episodes, one after the other;
``ep_len`` and ``ep_offset`` say where each begins. What we add is one attribute, ``about`` (JSON):
the robot's interface and how the data came about. Files without it are read, too.

=================  ==============================  ================================================
column             rows                            meaning
=================  ==============================  ================================================
``pixels``         ``[h, cameras * w, 3]`` uint8   the cameras' RGB pictures, side by side
``action``         ``[A]`` float32, in [-1, 1]     what was done at this frame; NaN at an episode's
                                                   last frame, after which nothing was recorded
``proprio``        ``[M]`` float32                 joint positions (rad) and velocities (rad/s), and
                                                   the opening (m) of a gripper that actions move;
                                                   not there without joints
``scripted``       ``[1]`` uint8                   1 where the action came from a script
``demonstrated``   ``[A]`` float32, in [-1, 1]     what was right to do here, of who shows a task;
                                                   NaN where nobody does. Of some tasks only, with
                                                   ``demonstrated_goal``, what it was to bring about
any other          ``[n]`` float32                 a label: true places, in m, for readouts, gauges
=================  ==============================  ================================================
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from jepa_robot.dataset_checks import SHOWN, Problem, find_problems
from jepa_robot.models import difference
from jepa_robot.robot.contract import measured_size

FORMAT = 2
INDEX = ("ep_len", "ep_offset")
NO_LABELS = ("pixels", "action", "proprio", "scripted", *SHOWN)
IN_MEMORY = 2 << 30  # bytes of pictures that are kept in memory; more are read as they are needed
LISTED = 5  # problems that a report names one by one


class InvalidDataset(ValueError):
    """Data that cannot be learned from; the message names file, episode and frame."""


@dataclass(frozen=True)
class About:
    """Where data comes from.

    ``interface`` is the robot's (``RobotContract.interface()``) or environment's; ``goal`` is the
    label that a goal of the task means; ``runs`` are the commands that recorded it, with their
    seeds and versions.
    """

    interface: dict
    task: str = ""
    goal: str = ""
    runs: tuple[dict, ...] = ()

    def to_json(self) -> str:
        fields = {name: getattr(self, name) for name in ("interface", "task", "goal", "runs")}
        return json.dumps({"format": FORMAT, **fields})

    @classmethod
    def from_json(cls, text: str, source: str) -> About:
        """Read the attribute.

        Raises:
            InvalidDataset: it is of another format.
        """
        try:
            data = json.loads(text)
            found = data.pop("format")
            if found != FORMAT:
                raise InvalidDataset(f"{source}: format is {found}, expected {FORMAT}")
            return cls(**{**data, "runs": tuple(data["runs"])})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InvalidDataset):
                raise
            raise InvalidDataset(
                f"{source}: its attribute about is damaged ({error}), expected JSON"
            ) from error


class StoredPixels:
    """Pictures that stay in their file, which each process opens for itself."""

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self._path, self.shape = path, shape
        self._opened: tuple[int, h5py.Dataset] | None = None  # by whom, what

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self._pixels()[rows]

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Sorted rows, in runs of neighbours: HDF5 is slow at lists of them."""
        result, pixels = np.empty((len(rows), *self.shape[1:]), np.uint8), self._pixels()
        for run in np.split(np.arange(len(rows)), np.flatnonzero(np.diff(rows) != 1) + 1):
            first, last = rows[run[0]], rows[run[-1]]
            pixels.read_direct(result, np.s_[first : last + 1], np.s_[run[0] : run[-1] + 1])
        return result

    def __getstate__(self) -> dict:
        return {**vars(self), "_opened": None}

    def _pixels(self) -> h5py.Dataset:
        if self._opened is None or self._opened[0] != os.getpid():
            self._opened = (os.getpid(), _open(self._path)["pixels"])
        return self._opened[1]


@dataclass(frozen=True)
class Dataset:
    """Episodes of any length, of which the usable ones are learned from.

    ``columns`` has every column but the pictures as an array ``[rows, ...]``; ``lengths`` and
    ``offsets`` ``[E]`` are those of the usable episodes, in rows; ``problems`` says what was left
    out. ``pixels`` is an array, or reads the file where it is indexed.
    """

    path: Path
    about: About
    columns: dict[str, np.ndarray]
    pixels: np.ndarray | StoredPixels
    lengths: np.ndarray
    offsets: np.ndarray
    problems: tuple[Problem, ...] = field(default=(), repr=False)

    @property
    def episodes(self) -> int:
        return len(self.lengths)

    @property
    def transitions(self) -> int:
        return int((self.lengths - 1).sum())

    @property
    def cameras(self) -> int:
        return len(self.about.interface["cameras"])

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of one camera's picture."""
        height, width = self.pixels.shape[1:3]
        return int(height), int(width) // self.cameras

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(name for name in self.columns if name not in NO_LABELS)

    @property
    def rows(self) -> np.ndarray:
        """``[N]``: the rows of all usable episodes."""
        pairs = zip(self.offsets, self.lengths, strict=True)
        return np.concatenate([np.arange(offset, offset + length) for offset, length in pairs])

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Pictures ``[..., cameras, h, w, 3]`` uint8 of rows ``[...]``."""
        flat = np.asarray(rows).ravel()
        if isinstance(self.pixels, np.ndarray):
            pixels = self.pixels[flat]
        else:
            unique, inverse = np.unique(flat, return_inverse=True)
            pixels = self.pixels.rows(unique)[inverse]
        height, width = self.image_size
        split = pixels.reshape(len(flat), height, self.cameras, width, 3).swapaxes(1, 2)
        return split.reshape(*np.shape(rows), *split.shape[1:])

    def proprioception(self, rows: np.ndarray) -> np.ndarray:
        """``[..., M]`` float32 of rows ``[...]``; M is 0 without joints."""
        column = self.columns.get("proprio")
        return np.zeros((*np.shape(rows), 0), np.float32) if column is None else column[rows]

    def windows(self, horizon: int, history: int = 1) -> np.ndarray:
        """``[W]``: the row at which each window's first action is taken.

        A window has ``history - 1`` frames before that row and ``horizon`` after it.

        Raises:
            InvalidDataset: no episode is long enough.
        """
        before = history - 1
        starts = [
            np.arange(offset + before, offset + length - horizon)
            for offset, length in zip(self.offsets, self.lengths, strict=True)
        ]
        starts = np.concatenate(starts) if starts else np.zeros(0, int)
        if not len(starts):
            longest = max(self.lengths, default=0)
            raise InvalidDataset(
                f"{self.path}: the longest usable episode has {longest} frames, expected at least "
                f"{before + horizon + 1}, those of a window of {horizon} steps"
            )
        return starts

    def split(self, share: float) -> tuple[Dataset, Dataset]:
        """The first episodes, and the last ``share`` of them (at least one) for validation.

        Raises:
            InvalidDataset: there is nothing left for training.
        """
        count = max(1, round(share * self.episodes))
        if count >= self.episodes:
            raise InvalidDataset(
                f"{self.path}: {self.episodes} usable episode(s), expected enough to hold out "
                f"{count}"
            )
        return self.take(slice(None, -count)), self.take(slice(-count, None))

    def take(self, which: slice | np.ndarray) -> Dataset:
        """Some of the usable episodes."""
        kept = {name: getattr(self, name) for name in ("path", "about", "columns", "pixels")}
        return Dataset(**kept, lengths=self.lengths[which], offsets=self.offsets[which])

    def report(self) -> str:
        """What was left out, in words; empty if nothing was."""
        if not self.problems:
            return ""
        listed = [str(problem) for problem in self.problems[:LISTED]]
        more = len(self.problems) - len(listed)
        tail = f"; and {more} more" if more > 0 else ""
        total = len({problem.episode for problem in self.problems})
        return f"{self.path}: {total} episode(s) are left out: {'; '.join(listed)}{tail}"


def open_dataset(
    path: str | Path, interface: dict | None = None, in_memory: int = IN_MEMORY
) -> Dataset:
    """Read a recording, and leave out the episodes that cannot be learned from.

    Args:
        path: the file.
        interface: refuse data of a robot with another ``RobotContract.interface()``.
        in_memory: bytes of pictures up to which they are kept in memory.

    Raises:
        FileNotFoundError: there is no such file.
        InvalidDataset: it is damaged, of another robot, or has no usable episode; names what
            differs.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is missing, expected a recording made by collect")
    try:
        with _open(path) as file:
            lengths, offsets, columns, pixels = _read(path, file, in_memory)
            about = file.attrs.get("about")
    except (OSError, KeyError) as error:
        raise InvalidDataset(f"{path}: is damaged: {error}") from error
    if about is not None:
        about = About.from_json(about, str(path))
    else:
        about = About(_interface_of(pixels.shape, _scale(columns["action"])))
    if not about.interface["joints"]:
        columns.pop("proprio", None)  # of what, nobody says
    else:
        _check_measured(path, columns, measured_size(about.interface))
    if interface is not None:
        check_interface(str(path), about.interface, interface)
    dataset = Dataset(path, about, columns, pixels, lengths, offsets)
    problems = tuple(find_problems(dataset))
    bad = {problem.episode for problem in problems}
    usable = np.array([episode not in bad for episode in range(len(lengths))], bool)
    if not usable.any():
        why = str(problems[0]) if problems else "there is none"
        raise InvalidDataset(f"{path}: has no usable episode: {why}")
    return Dataset(path, about, columns, pixels, lengths[usable], offsets[usable], problems)


def _check_measured(path: Path, columns: dict[str, np.ndarray], expected: int) -> None:
    size = columns["proprio"].shape[1] if "proprio" in columns else 0
    if size != expected:
        raise InvalidDataset(
            f"{path}: proprio has {size} columns, expected {expected}: joint positions and "
            "velocities, and the opening of a gripper that actions move"
        )


def check_interface(source: str, actual: dict, expected: dict) -> None:
    """Compare what ``source`` was recorded with to a robot's ``RobotContract.interface()``.

    Raises:
        InvalidDataset: names the first joint, camera, action channel or rate that differs.
    """
    for name, value in expected.items():
        mismatch = difference(name, actual.get(name), value, holder="data")
        if mismatch:
            raise InvalidDataset(f"{source}: is of another robot: {mismatch}")


def read_about(path: str | Path) -> About | None:
    """What a file says of itself; None for one that does not.

    Raises:
        InvalidDataset: it cannot be read.
    """
    with _open(Path(path)) as file:
        text = file.attrs.get("about")
    return None if text is None else About.from_json(text, str(path))


def check_same(path: Path, about: About) -> About:
    """What a file says of itself, where more of ``about`` may be added to it.

    Raises:
        InvalidDataset: it is of another robot or task, or says nothing of itself.
    """
    found = read_about(path)
    if found is None:
        raise InvalidDataset(f"{path}: does not say what it is of, expected a recording of ours")
    check_interface(str(path), found.interface, about.interface)
    for name in ("task", "goal"):
        if getattr(found, name) != getattr(about, name):
            raise InvalidDataset(
                f"{path}: {name} is {getattr(found, name)!r}, expected {getattr(about, name)!r}"
            )
    return found


def write_dataset(
    path: str | Path, about: About, episodes: Iterable[Mapping[str, np.ndarray]]
) -> int:
    """Write a file anew, which appears when it is complete: what was there before stays until then.

    Args:
        path: the file.
        about: its provenance.
        episodes: columns ``[T + 1, ...]`` each, in the layout above.

    Returns:
        How many frames were written.

    Raises:
        InvalidDataset: an episode has other columns than the first.
        OSError: the disk is full, for example; nothing has changed then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with h5py.File(temporary, "w") as file:
            file.attrs["about"] = about.to_json()
            rows = _append(file, episodes)
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return rows


def dataset_bytes(about: About, episodes: Iterable[Mapping[str, np.ndarray]]) -> bytes:
    """A small file, made in memory: HDF5 itself, on a full disk, takes the process down with it.

    There is at least one episode; all have the same columns.
    """
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        file.attrs["about"] = about.to_json()
        known = list(episodes)
        joined = {name: np.concatenate([one[name] for one in known]) for name in known[0]}
        for name, array in joined.items():
            _create(file, name, array)
        _index(file, [len(one["action"]) for one in known])
        file.flush()
        return file.id.get_file_image()


def read_episodes(path: str | Path, columns: Sequence[str] = ()) -> Iterator[dict[str, np.ndarray]]:
    """The episodes of a file, one after the other, as they are: memory holds one at a time.

    Args:
        path: the file.
        columns: which; all if none are named.
    """
    with _open(Path(path)) as file:
        names = columns or [name for name in file if name not in INDEX]
        for offset, length in zip(file["ep_offset"][:], file["ep_len"][:], strict=True):
            yield {name: file[name][offset : offset + length] for name in names}


def _read(path: Path, file: h5py.File, in_memory: int) -> tuple:
    """Lengths, offsets, columns and pixels, after their shapes were checked."""
    lengths, offsets = (file[name][:].astype(np.int64) for name in INDEX)
    names = [name for name in file if name not in INDEX]
    missing = {"pixels", "action"} - set(names)
    if missing:
        raise InvalidDataset(f"{path}: has no column {sorted(missing)[0]}, expected one")
    rows = int(lengths.sum())
    for name in names:
        if len(file[name]) < rows:
            raise InvalidDataset(
                f"{path}: column {name} has {len(file[name])} rows, expected {rows}, "
                "the sum of ep_len"
            )
    pixels = file["pixels"]
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise InvalidDataset(
            f"{path}: pixels are {pixels.dtype} {list(pixels.shape)}, "
            "expected uint8 [rows, h, w, 3]"
        )
    vectors = [n for n in names if file[n].ndim == 2 and file[n].dtype.kind in "fiub"]
    columns = {name: file[name][:rows] for name in vectors}
    columns = {n: a.astype(np.float32) if a.dtype.kind == "f" else a for n, a in columns.items()}
    is_small = pixels.nbytes <= in_memory
    return (
        lengths,
        offsets,
        columns,
        pixels[:rows] if is_small else StoredPixels(path, pixels.shape),
    )


def _scale(actions: np.ndarray) -> np.ndarray:
    """Bring actions ``[rows, A]`` of a file that does not say their scale into [-1, 1], in place.

    Returns:
        The scale ``[A]``: the largest of each where that is above 1.
    """
    largest = np.nanmax(np.where(np.isfinite(actions), np.abs(actions), 0), axis=0)
    scale = np.maximum(largest, 1).astype(np.float32)
    actions /= scale
    return scale


def _append(file: h5py.File, episodes: Iterable[Mapping[str, np.ndarray]]) -> int:
    lengths: list[int] = []
    for episode in episodes:
        for name, array in episode.items():
            if not lengths:
                _create(file, name, array[:0])
            if name not in file or file[name].shape[1:] != array.shape[1:]:
                raise InvalidDataset(
                    f"episode {len(lengths)}: {name} is {list(array.shape)}, expected what the "
                    "first one has"
                )
            begin = file[name].len()
            file[name].resize(begin + len(array), axis=0)
            file[name][begin:] = array
        lengths.append(len(episode["action"]))
    _index(file, lengths)
    return sum(lengths)


def _index(file: h5py.File, lengths: Sequence[int]) -> None:
    offsets = np.cumsum([0, *lengths[:-1]]) if lengths else []
    file.create_dataset("ep_len", data=np.array(lengths, np.int32), maxshape=(None,))
    file.create_dataset("ep_offset", data=np.array(offsets, np.int64), maxshape=(None,))


def _create(file: h5py.File, name: str, array: np.ndarray) -> None:
    """A column of these rows that can grow. A picture a chunk: windows are read at random."""
    is_picture = array.ndim == 4
    rows = 1 if is_picture else 256
    file.create_dataset(
        name,
        data=array,
        maxshape=(None, *array.shape[1:]),
        chunks=(rows, *array.shape[1:]),
        compression="lzf" if is_picture else None,
    )


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise InvalidDataset(
            f"{path}: cannot be read ({error}), expected a whole HDF5 file"
        ) from error


def _interface_of(pixels: Sequence[int], scale: np.ndarray) -> dict:
    """What can be told of a file that says nothing of itself: one camera, and no joints."""
    height, width = int(pixels[1]), int(pixels[2])
    crop = [0, 0, width, height]
    camera = {"name": "pixels", "width": width, "height": height, "encoding": "rgb8", "crop": crop}
    channels = [
        {"name": f"action_{index}", "unit": "", "scale": value}
        for index, value in enumerate(scale.tolist())
    ]
    return {
        "joints": [],
        "actions": {"kind": "environment", "channels": channels},
        "cameras": [camera],
        "time_step": 1.0,
    }
