"""Collects the data that a model learns from: exploration of a task's scene, in many processes.

What is in an episode depends on the seed and the episode's number alone, so any number of processes
or machines collects the same data. Each finished episode is put down beside the file at once; the
file itself is written when all are there.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import itertools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np

from jepa_robot.dataset import (
    About,
    InvalidDataset,
    check_same,
    dataset_bytes,
    read_episodes,
    write_dataset,
)
from jepa_robot.files import write_atomically
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import MODE_1
from jepa_robot.modules.agent import InProcessAgent
from jepa_robot.modules.perception import preprocess
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.exploration import Choice, Explorer, PractisingExplorer, practice_noise
from jepa_robot_sim.scenes import NOMINAL, Randomisation
from jepa_robot_sim.tasks import TASKS, make_task
from jepa_robot_sim.world import ArmWorld, Frame

BACKENDS = ("loky", "ray")
ROUND = 8  # episodes a process that Ray is asked for at a time
PACKAGES = ("jepa_robot", "numpy", "pybullet", "h5py")

Columns = dict[str, np.ndarray]


class Recorder(Protocol):
    """Records episodes of one kind, one at a time."""

    about: About

    def record(self, rng: np.random.Generator) -> Columns:
        """One episode, as `jepa_robot.dataset` lays it out."""
        ...


class Source(Protocol):
    """What is recorded: plain settings that go to another process, all of them in its ``repr``."""

    @property
    def episode_steps(self) -> int:
        """Of an episode, at most."""
        ...

    def open(self) -> Recorder:
        """A recorder in this process."""
        ...


@dataclass(frozen=True)
class ArmSource:
    """A simulated arm that explores a task's scene.

    ``image_size`` is that of stored pictures; ``steps`` those of an episode, 0 for the task's.
    ``model``: a bundle whose policy does the task, with noise, in place of exploration.
    """

    contract: RobotContract
    task: str = "reach"
    randomisation: Randomisation = NOMINAL
    image_size: tuple[int, int] = (64, 64)
    steps: int = 0
    model: str = ""

    @property
    def episode_steps(self) -> int:
        return self.steps or TASKS[self.task].recorded_steps

    def open(self) -> ArmRecorder:
        return ArmRecorder(self)


class ArmRecorder:
    """Exploration behind the same safety limiter as in deployment."""

    def __init__(self, source: ArmSource) -> None:
        self._source = source
        self._task = make_task(source.task, source.contract, source.randomisation)
        self._world = ArmWorld(source.contract, self._task, is_quick=True)
        interface = source.contract.interface()
        self._cameras = interface["cameras"]
        self.about = About(interface, source.task, self._task.goal_label)
        self._agent = None
        if source.model:
            bundle = Bundle(source.model, threads=1)
            self._agent = InProcessAgent(source.contract, bundle)
            self._reads_positions = bundle.reads_positions
            self._policy = replace(load_task(source.task), mode=MODE_1)

    def _explorer(self, rng: np.random.Generator, steps: int) -> Explorer:
        if self._agent is None:
            return self._task.explore(rng, steps)
        episode = self._task.practise(rng)
        noise = practice_noise(rng, steps, self._source.contract.actions.size)
        configurator = self._agent.configurator
        if self._reads_positions:
            task = configurator.with_position(self._policy, episode.goal)
        else:
            task = configurator.with_image(self._policy, self._world.goal_images(episode))
        self._agent.begin(task)
        return PractisingExplorer(episode, self._agent, noise)

    def record(self, rng: np.random.Generator) -> Columns:
        steps = self._source.episode_steps
        explorer = self._explorer(rng, steps)
        frame = self._world.reset(explorer.episode)
        frames, choices = [frame], []
        for _ in range(steps):
            choices.append(explorer.act(frame))
            frame = self._world.step(choices[-1].action)
            frames.append(frame)
        columns = self._columns(frames, choices)
        if self._task.demonstrations:
            columns |= _demonstrations(choices, len(explorer.episode.goal))
        return columns

    def _columns(self, frames: list[Frame], choices: list[Choice]) -> Columns:
        seen = [frame.observation for frame in frames]
        has_gripper = self._source.contract.moves_gripper
        size = self._source.image_size
        pictures = [preprocess(o.images, self._cameras, size) for o in seen]
        labels = {
            name: np.stack([f.labels[name] for f in frames]).astype(np.float32)
            for name in frames[0].labels
        }
        return {
            "pixels": np.stack([np.concatenate(list(one), axis=1) for one in pictures]),
            "action": with_last([choice.action for choice in choices]),
            "proprio": np.stack([o.felt(has_gripper) for o in seen]),
            "scripted": np.array([*([c.is_scripted] for c in choices), [False]], np.uint8),
            **labels,
        }


def _demonstrations(choices: list[Choice], size: int) -> Columns:
    """What was shown, ``[T + 1, A]``, and what was aimed at, ``[T + 1, G]``: NaN for nothing."""
    nothing, nowhere = np.full_like(choices[0].action, np.nan), np.full(size, np.nan)
    shown = [nothing if c.demonstrated is None else c.demonstrated for c in choices]
    aims = [nowhere if c.aim is None else c.aim for c in choices]
    return {"demonstrated": with_last(shown), "demonstrated_goal": with_last(aims)}


def with_last(actions: list[np.ndarray]) -> np.ndarray:
    """``[T + 1, A]`` float32: nothing is done at the last frame, which is NaN."""
    taken = np.stack(actions).astype(np.float32)
    return np.concatenate([taken, np.full_like(taken[:1], np.nan)])


def collect(
    source: Source,
    path: str | Path,
    transitions: int,
    seed: int = 0,
    processes: int = 1,
    backend: str = BACKENDS[0],
    append: bool = False,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Record episodes into a file, which appears or grows when all of them are there.

    Finished episodes wait beside it, in a folder ``.parts``: the same call goes on where an earlier
    one was stopped or killed.

    Args:
        source: what is recorded.
        path: the file to make.
        transitions: at least so many more; episodes are completed.
        seed: the same seed gives the same data, whatever ``processes`` is.
        processes: how many record at once.
        backend: ``loky``, processes of this machine, or ``ray``, a Ray cluster.
        append: add to a file that exists. With the seed that it was recorded with it goes on
            as if it had not ended.
        command: kept with the data.
        progress: called with the number of transitions done and wanted.

    Returns:
        How many transitions were added.

    Raises:
        FileExistsError: there is such a file and nothing is to be appended.
        InvalidDataset: the file, or what an earlier call left, is of another robot or task.
        ValueError: names the argument that is out of range.
        OSError: the disk is full, for example. Finished episodes stay.
    """
    path = Path(path)
    for name, value, least in (("transitions", transitions, 1), ("processes", processes, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}, expected a whole number above 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(BACKENDS)}")
    if path.exists() and not append:
        raise FileExistsError(f"{path}: exists, expected the name of a new file, or --append")
    about = _recorder(source).about
    before = check_same(path, about) if path.exists() else about
    first = sum(run["episodes"] for run in before.runs if run.get("seed") == seed)
    parts = _Parts(path, about, source, seed, first)
    numbers = range(first, first)
    done = 0
    with parts.kept():
        while done < transitions:  # episodes may end before their time
            begin = numbers.stop
            numbers = range(first, begin + math.ceil((transitions - done) / source.episode_steps))
            missing = [number for number in numbers[begin - first :] if not parts.has(number)]
            done += sum(parts.steps(n) for n in numbers[begin - first :] if n not in missing)
            for number, columns in _record_all(source, seed, missing, processes, backend):
                parts.put(number, columns)
                done += len(columns["action"]) - 1
                if progress is not None:
                    progress(min(done, transitions), transitions)
        parts.check_space(path, numbers)
    run = {
        "command": command,
        "seed": seed,
        "episodes": len(numbers),
        "scripted": parts.share_scripted(numbers),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "versions": _versions(),
    }
    old = read_episodes(path) if path.exists() else iter(())
    added = itertools.chain(old, parts.episodes(numbers))
    write_dataset(path, replace(about, runs=(*before.runs, run)), added)
    parts.remove()
    return done


def _record_all(
    source: Source, seed: int, numbers: list[int], processes: int, backend: str
) -> Iterator[tuple[int, Columns]]:
    """Episodes by number, as they are done."""
    if processes == 1 and backend == BACKENDS[0]:
        yield from (_record(source, seed, number) for number in numbers)
        return
    form, at_once = "generator", max(1, len(numbers))
    if backend == "ray":  # gives nothing before all that it was asked for is done
        _register_ray()
        form, at_once = "list", ROUND * processes
    with joblib.parallel_config(backend=backend, n_jobs=processes):
        run = joblib.Parallel(return_as=form, batch_size=1)
        for begin in range(0, len(numbers), at_once):
            some = numbers[begin : begin + at_once]
            yield from run(joblib.delayed(_record)(source, seed, number) for number in some)


def _register_ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError as error:
        raise ValueError(f"backend is 'ray', expected ray to be installed ({error})") from error
    register_ray()


def _record(source: Source, seed: int, number: int) -> tuple[int, Columns]:
    return number, _recorder(source).record(np.random.default_rng([seed, number]))


_recorders: dict[str, Recorder] = {}


def _recorder(source: Source) -> Recorder:
    """One a process: a simulator takes longer to start than an episode."""
    key = repr(source)
    if key not in _recorders:
        _recorders.clear()
        _recorders[key] = source.open()
    return _recorders[key]


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class _Parts:
    """Finished episodes, a file each, in a folder beside the data until that is written."""

    def __init__(self, path: Path, about: About, source: Source, seed: int, first: int) -> None:
        self.folder = path.with_name(f"{path.name}.parts")
        self._about = about
        self._settings = {
            "about": json.loads(about.to_json()),
            "source": hashlib.sha256(repr(source).encode()).hexdigest(),
            "seed": seed,
            "first": first,
        }

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is finished, whatever happens."""
        note = self.folder / "about.json"
        if note.exists():
            found = json.loads(note.read_text())
            if found != self._settings:
                raise InvalidDataset(
                    f"{self.folder}: holds episodes of another recording "
                    f"(seed {found.get('seed')}), expected the command that began it, or no folder"
                )
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(note, json.dumps(self._settings))
        try:
            yield
        except OSError as error:
            raise OSError(
                f"{error}; {len(list(self.folder.glob('*.h5')))} finished episodes are kept in "
                f"{self.folder}, the same command goes on from there"
            ) from error

    def has(self, number: int) -> bool:
        return self._file(number).exists()

    def put(self, number: int, columns: Columns) -> None:
        write_atomically(self._file(number), dataset_bytes(self._about, [columns]))

    def steps(self, number: int) -> int:
        episodes = self.episodes([number], ["action"])
        return sum(len(columns["action"]) - 1 for columns in episodes)

    def check_space(self, path: Path, numbers: Sequence[int]) -> None:
        """Whether a file of these episodes, and of those that it has, can be written.

        Raises:
            OSError: it cannot.
        """
        old = [path] if path.exists() else []
        wanted = sum(file.stat().st_size for file in [*old, *map(self._file, numbers)])
        free = shutil.disk_usage(path.parent).free
        if free < wanted:
            text = f"{free} bytes are free, expected about {wanted}"
            raise OSError(errno.ENOSPC, text, str(path))

    def episodes(self, numbers: Sequence[int], columns: Sequence[str] = ()) -> Iterator[Columns]:
        for number in numbers:
            yield from read_episodes(self._file(number), columns)

    def share_scripted(self, numbers: Sequence[int]) -> float:
        episodes = self.episodes(numbers, ["scripted"])
        shares = [columns["scripted"][:-1].mean() for columns in episodes]
        return round(float(np.mean(shares)), 4)

    def remove(self) -> None:
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:08d}.h5"
