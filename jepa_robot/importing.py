"""Makes a recording out of ROS 2 bags and LeRobot datasets: frames at the contract's rate."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pinocchio

from jepa_robot.bags import ACTION, Bag, InvalidBag, Segment, Stream, read_bag
from jepa_robot.dataset import About, check_same, read_episodes, write_dataset
from jepa_robot.lerobot_data import is_lerobot, read_lerobot
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import GRIPPER_CHANNEL, RobotContract
from jepa_robot.robot.kinematics import Kinematics

TOPIC, COMMANDS, MOTION = SOURCES = (ACTION, "commands", "motion")
AUTO = "auto"
NEAR = 0.6  # time steps that a picture may be from its frame
JOINTS_NEAR = 0.1  # s between two joint states that a frame lies between
PIECE = 50  # transitions of an episode, at most: some are to be held out
LEAST = 2  # transitions that an episode is worth
HAND = "hand_position"
COMMON = 0.05  # of actions beyond the contract's scale, from which on it is told


@dataclass
class Imported:
    """What came of bags: counts, and what was left out, in words."""

    frames: int = 0
    episodes: int = 0
    actions: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class BagSettings:
    """How bags are read.

    ``size``: height and width of pictures. ``topics``: by our name the bag's. ``namespace``: in
    front of our names. ``actions``: where they are from: our own topic ``action``, positions that
    were commanded, or how the arm moved; ``auto`` is the first of these that there is.

    Raises:
        ValueError: there is no such source of actions.
    """

    size: tuple[int, int] = (64, 64)
    topics: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    actions: str = AUTO
    in_degrees: bool = False

    def __post_init__(self) -> None:
        if self.actions not in (AUTO, *SOURCES):
            raise ValueError(
                f"actions is {self.actions!r}, expected one of {', '.join((AUTO, *SOURCES))}"
            )


def import_bags(
    bags: Sequence[Path],
    path: Path,
    contract: RobotContract,
    task: str = "reach",
    settings: BagSettings | None = None,
    append: bool = False,
    command: str = "",
) -> Imported:
    """Write a recording, which appears or grows when all bags are read.

    A frame is where every camera has a picture near, and joint states lie on both sides. Where
    frames are missing, or time jumps, another episode begins.

    Args:
        bags: folders of rosbag2 or of LeRobot datasets, or MCAP files.
        path: the file to make.
        contract: of the robot.
        task: that was done; says what goals are of.
        settings: how they are read.
        append: add to a file that exists.
        command: kept with the data.

    Raises:
        FileExistsError: there is such a file and nothing is to be appended.
        InvalidBag: one cannot be taken over, or nothing usable is in any.
        InvalidDataset: the file is of another robot or task.
    """
    settings, done = settings or BagSettings(), Imported()
    if path.exists() and not append:
        raise FileExistsError(f"{path}: exists, expected the name of a new file, or --append")
    about = About(contract.interface(), task, load_task(task).goal_label)
    before = check_same(path, about) if path.exists() else about
    episodes = _episodes(bags, contract, settings, done)
    first = next(episodes, None)
    if first is None:
        raise InvalidBag(
            f"{', '.join(map(str, bags))}: nothing can be learned from: "
            f"{'; '.join(done.problems) or 'no two frames follow each other'}"
        )
    run = {
        "command": command,
        "bags": [str(bag.name) for bag in bags],
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
    }
    old = read_episodes(path) if path.exists() else iter(())
    new = itertools.chain(old, [first], episodes)
    write_dataset(path, replace(about, runs=(*before.runs, run)), new)
    return done


def _episodes(
    bags: Sequence[Path], contract: RobotContract, settings: BagSettings, done: Imported
) -> Iterator[dict[str, np.ndarray]]:
    """Columns of each episode, as `jepa_robot.dataset` lays them out."""
    kinematics = Kinematics(contract)
    for bag in bags:
        read = _read(bag, contract, settings)
        done.problems += read.problems
        for segment in read.segments:
            frames = _Frames(bag, segment, contract, kinematics, settings.actions)
            done.problems += frames.problems
            done.actions.add(frames.source)
            for begin, end in frames.runs():
                yield frames.columns(begin, end)
                done.episodes += 1
                done.frames += end - begin


def _read(path: Path, contract: RobotContract, settings: BagSettings) -> Bag:
    if is_lerobot(path):
        names, in_degrees = settings.topics, settings.in_degrees
        return read_lerobot(path, contract, settings.size, names, in_degrees)
    return read_bag(path, contract, settings.size, settings.topics, settings.namespace)


class _Frames:
    """A segment at the contract's rate."""

    def __init__(
        self,
        bag: Path,
        segment: Segment,
        contract: RobotContract,
        kinematics: Kinematics,
        actions: str,
    ) -> None:
        self._contract, self._segment = contract, segment
        self._bag, self.problems = bag, []
        self._step = contract.rates.time_step
        pictures = list(segment.cameras.values())
        self.source = _source(bag, segment, actions)
        if not all(stream.stamps for stream in pictures):
            self._times, self._usable = np.zeros(0, np.int64), np.zeros(0, bool)
            self.problems.append(f"{bag}: an episode lacks the pictures of a camera")
            return
        streams = [*pictures, segment.joints]
        begin = max(stream.stamps[0] for stream in streams)
        end = min(stream.stamps[-1] for stream in streams)
        count = max(int((end - begin) // (1e9 * self._step)) + 1, 0)
        self._times = begin + (1e9 * self._step * np.arange(count)).astype(np.int64)
        near = [_nearest(stream, self._times) for stream in pictures]
        self._near = [rows for rows, _ in near]
        sees = np.all([away <= 1e9 * NEAR * self._step for _, away in near], axis=0)
        self._joints, feels = self._felt()
        self._usable = sees & feels
        self._note_gaps(sees, feels)
        if not count:
            return
        joints = len(contract.joints)
        poses = [kinematics.pose(row) for row in self._joints[:, :joints]]
        self._hands = np.array([position for position, _ in poses])
        self._actions, acts = self._acted(kinematics, np.array([turn for _, turn in poses]))
        self._usable[:-1] &= acts
        beyond = np.abs(self._actions[acts]) > 1 + 1e-6
        if beyond.size and beyond.any(axis=1).mean() > COMMON:
            self.problems.append(
                f"{bag}: {100 * beyond.any(axis=1).mean():.0f} % of the actions are beyond the "
                "contract's scale, and are cut off there"
            )

    def runs(self) -> Iterator[tuple[int, int]]:
        """Frames that follow each other, in pieces: from, to."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self._usable.view(np.int8), [0]])))
        for begin, end in edges.reshape(-1, 2).tolist():
            for first in range(begin, end - LEAST, PIECE):
                yield first, min(first + PIECE + 1, end)

    def columns(self, begin: int, end: int) -> dict[str, np.ndarray]:
        """Of frames from ``begin`` to before ``end``."""
        pictures = [
            np.stack([stream.values[row] for row in rows[begin:end]])
            for stream, rows in zip(self._segment.cameras.values(), self._near, strict=True)
        ]
        actions = np.clip(self._actions[begin : end - 1], -1, 1).astype(np.float32)
        nothing = np.full((1, actions.shape[1]), np.nan, np.float32)
        return {
            "pixels": np.concatenate(pictures, axis=2),
            "action": np.concatenate([actions, nothing]),
            "proprio": self._joints[begin:end].astype(np.float32),
            "scripted": np.zeros((end - begin, 1), np.uint8),
            HAND: self._hands[begin:end].astype(np.float32),
        }

    def _felt(self) -> tuple[np.ndarray, np.ndarray]:
        """Joints ``[n, 2J (+ 1)]`` at each frame, and where they are known ``[n]``."""
        stream, joints = self._segment.joints, len(self._contract.joints)
        stamps, values = np.array(stream.stamps), np.array(stream.values)
        positions = values[:, :joints]
        extra = len(self._contract.joints) + self._contract.moves_gripper
        if values.shape[1] < joints + extra:  # velocities are not told
            seconds = 1e-9 * (stamps - stamps[0])
            several = len(np.unique(seconds)) > 1
            rates = np.gradient(positions, seconds, axis=0) if several else 0 * positions
            values = np.concatenate([positions, rates, values[:, joints:]], axis=1)
        at = np.array([np.interp(self._times, stamps, column) for column in values.T]).T
        last = len(stamps) - 1
        after = np.clip(np.searchsorted(stamps, self._times), 0, last)
        before = np.clip(np.searchsorted(stamps, self._times, side="right") - 1, 0, last)
        return at, stamps[after] - stamps[before] <= 1e9 * JOINTS_NEAR

    def _acted(self, kinematics: Kinematics, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was done at each frame but the last ``[n - 1, A]``, and where that is known."""
        times, segment = self._times[:-1], self._segment
        known = np.ones(len(times), bool)
        if self.source == TOPIC:
            rows, away = _nearest(segment.actions, times)
            actions = np.array(segment.actions.values)[rows]
            return actions, away <= 1e9 * NEAR * self._step
        positions, hands = self._joints[:, : len(self._contract.joints)], self._hands
        if self.source == COMMANDS:
            rows, away = _nearest(segment.commands, self._times)
            positions = np.array(segment.commands.values)[rows]
            poses = [kinematics.pose(row) for row in positions]
            hands, turns = np.array([p for p, _ in poses]), np.array([t for _, t in poses])
            known = (away <= 1e9 * JOINTS_NEAR)[:-1]
        velocities = {
            **dict(zip(("vx", "vy", "vz"), np.diff(hands, axis=0).T, strict=True)),
            **dict(zip(("wx", "wy", "wz"), _turned(turns).T, strict=True)),
            **dict(zip(self._contract.joint_names, np.diff(positions, axis=0).T, strict=True)),
            GRIPPER_CHANNEL: np.diff(self._joints[:, -1]),
        }
        channels = self._contract.actions.channels
        rates = [velocities[one.name] / (self._step * one.scale) for one in channels]
        return np.array(rates).T, known

    def _note_gaps(self, sees: np.ndarray, feels: np.ndarray) -> None:
        for what, is_there in (("pictures", sees), ("joint states", feels)):
            missing = int((~is_there).sum())
            if missing:
                first = self._step * int(np.argmin(is_there))
                self.problems.append(
                    f"{self._bag}: {missing} of {len(is_there)} frames lack {what}, the first "
                    f"{first:.1f} s after the begin; episodes end there"
                )


def _source(bag: Path, segment: Segment, wanted: str) -> str:
    """Where actions are from.

    Raises:
        InvalidBag: there are none of what was asked for.
    """
    there = {TOPIC: segment.actions, COMMANDS: segment.commands, MOTION: segment.joints}
    if wanted == AUTO:
        return next(name for name in SOURCES if there[name].stamps)
    if not there[wanted].stamps:
        raise InvalidBag(f"{bag}: has no {wanted} to take actions from, expected --actions auto")
    return wanted


def _nearest(stream: Stream, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``[n]`` nearest to times ``[n]`` (ns), and how far away they are (ns)."""
    stamps = np.array(stream.stamps)
    after = np.clip(np.searchsorted(stamps, times), 0, len(stamps) - 1)
    before = np.maximum(after - 1, 0)
    is_before = np.abs(stamps[before] - times) <= np.abs(stamps[after] - times)
    rows = np.where(is_before, before, after)
    return rows, np.abs(stamps[rows] - times)


def _turned(turns: np.ndarray) -> np.ndarray:
    """Rotation vectors ``[n - 1, 3]`` (rad, base frame) from each of ``[n, 3, 3]`` to the next."""
    pairs = itertools.pairwise(turns)
    return np.array([pinocchio.log3(after @ before.T) for before, after in pairs]).reshape(-1, 3)
