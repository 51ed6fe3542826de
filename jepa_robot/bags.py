"""Reads ROS 2 bags: what a robot saw, felt and was told, as streams over time. No ROS needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jepa_robot.modules.perception import preprocess
from jepa_robot.robot.contract import Camera, RobotContract

JOINTS, ACTION = "joint_states", "action"
JUMP = int(1e6)  # ns that a stamp may go back before time is taken to have jumped
POSITIONS = {"std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory"}
PICTURES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
ENCODINGS = {"rgb8": None, "bgr8": cv2.COLOR_BGR2RGB, "mono8": cv2.COLOR_GRAY2RGB}
ENCODINGS |= {"rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB}


class InvalidBag(ValueError):
    """A recording that cannot be taken over; the message names file, topic and expectation."""


@dataclass
class Stream:
    """Values over time; ``stamps`` in ns, which never go back."""

    stamps: list[int] = field(default_factory=list)
    values: list[np.ndarray] = field(default_factory=list)

    def add(self, stamp: int, value: np.ndarray) -> None:
        self.stamps.append(stamp)
        self.values.append(value)


@dataclass
class Segment:
    """Streams in which time does not jump.

    ``cameras``: pictures ``[h, w, 3]`` uint8 as they are learned from, by name. ``joints``: rows of
    positions (rad) ``[J]``, velocities (rad/s) ``[J]`` where they are told, and an opening (m)
    where actions move a gripper. ``actions``: ``[A]`` in [-1, 1]. ``commands``: ``[J]`` rad.
    """

    cameras: dict[str, Stream]
    joints: Stream = field(default_factory=Stream)
    actions: Stream = field(default_factory=Stream)
    commands: Stream = field(default_factory=Stream)


@dataclass(frozen=True)
class Bag:
    """What is in a recording, and what was wrong with it."""

    segments: list[Segment]
    problems: list[str]


def read_bag(
    path: Path,
    contract: RobotContract,
    size: tuple[int, int],
    topics: Mapping[str, str] | None = None,
    namespace: str = "",
) -> Bag:
    """Read a recording: a folder of rosbag2 (SQLite or MCAP), or one MCAP file.

    Args:
        path: of the recording.
        contract: names cameras, joints and the command topic.
        size: height and width of pictures.
        topics: by our name (``camera_side/image``) the bag's, where that is another.
        namespace: that is in front of our names.

    Raises:
        InvalidBag: it cannot be opened, lacks a topic or a joint, or has pictures that cannot be
            read; names what was expected.
    """
    reader = _Reader(path, contract, size, topics or {}, namespace)
    try:
        for topic, time, message in _messages(path, reader.wants):
            reader.take(topic, time, message)
    except _CutOff as error:
        if not reader.time:
            raise InvalidBag(f"{path}: cannot be read: {error}, expected a ROS 2 bag") from error
        reader.problems.append(
            f"{path}: is cut off {reader.seconds:.1f} s after its begin: {error}"
        )
    segments = reader.finished()
    return Bag(segments, reader.problems)


class _CutOff(Exception):
    """The file ends, or is damaged, before its end."""


class _Reader:
    """Sorts messages into streams."""

    def __init__(
        self,
        path: Path,
        contract: RobotContract,
        size: tuple[int, int],
        topics: Mapping[str, str],
        namespace: str,
    ) -> None:
        self._path, self._contract, self._size = path, contract, size
        self._described = {one["name"]: one for one in contract.interface()["cameras"]}
        self._takers: dict[str, Callable[[Any], tuple[Stream, np.ndarray]]] = {}
        self._topics, self._prefix = topics, f"/{namespace.strip('/')}".rstrip("/")
        self._last: dict[str, int] = {}
        self._begin = 0
        self.time = 0  # ns, of the newest message
        self.problems: list[str] = []
        self._others = ""  # joint states that are of other joints
        self._spoilt: dict[str, int] = {}  # messages with what is no number, by topic
        self._segments = [self._new_segment()]

    @property
    def seconds(self) -> float:
        return 1e-9 * (self.time - self._begin)

    def wants(self, known: Mapping[str, str]) -> list[str]:
        """The topics that are read, of those that there are with their types.

        Raises:
            InvalidBag: one is missing, or is of another type.
        """
        contract = self._contract
        for camera in contract.cameras:
            name = self._find(known, camera.topic, PICTURES, is_picture=True)
            self._takers[name] = lambda message, camera=camera: self._picture(message, camera)
        name = self._find(known, JOINTS, ("sensor_msgs/msg/JointState",))
        self._takers[name] = self._joint_state
        for ours, kinds, take in (
            (ACTION, ("sensor_msgs/msg/Image",), self._action),
            (contract.controller.topic, tuple(POSITIONS), self._command),
        ):
            name = self._name(ours)
            if known.get(name) in kinds:
                self._takers[name] = take
            elif ours in self._topics:
                self._find(known, ours, kinds)
        return list(self._takers)

    def take(self, topic: str, time: int, message: Any) -> None:
        """A message that was recorded at ``time`` (ns)."""
        header = getattr(message, "header", None)
        stamp = 0
        if header is not None:
            stamp = int(1e9) * header.stamp.sec + header.stamp.nanosec
        stamp = stamp or time
        before = self._last.get(topic, stamp)
        if stamp < before - JUMP:
            self.problems.append(
                f"{self._path}: {topic}: the clock jumps back by {1e-9 * (before - stamp):.3f} s "
                f"{self.seconds:.1f} s after the begin; what follows is another episode"
            )
            self._segments.append(self._new_segment())
            self._last = {}
        self._last[topic] = stamp
        self._begin = self._begin or time
        self.time = max(time, self.time)
        stream, value = self._takers[topic](message)
        if value is None or stamp < (stream.stamps[-1] if stream.stamps else 0):
            return
        is_alike = not stream.values or len(value) == len(stream.values[0])
        if is_alike and np.isfinite(value).all():
            stream.add(stamp, value)
        else:
            self._spoilt[topic] = self._spoilt.get(topic, 0) + 1

    def finished(self) -> list[Segment]:
        """What came, in segments.

        Raises:
            InvalidBag: no joint states were of the contract's joints.
        """
        if self._others and not any(segment.joints.stamps for segment in self._segments):
            raise InvalidBag(f"{self._path}: {self._others}")
        self.problems += [
            f"{self._path}: {topic}: {count} message(s) with what is no number are left out"
            for topic, count in self._spoilt.items()
        ]
        return [segment for segment in self._segments if segment.joints.stamps]

    def _new_segment(self) -> Segment:
        return Segment({camera.name: Stream() for camera in self._contract.cameras})

    def _name(self, ours: str) -> str:
        return self._topics.get(ours, f"{self._prefix}/{ours.lstrip('/')}")

    def _find(
        self, known: Mapping[str, str], ours: str, kinds: Sequence[str], is_picture: bool = False
    ) -> str:
        name = self._name(ours)
        if is_picture and name not in known and f"{name}/compressed" in known:
            name = f"{name}/compressed"
        if name not in known:
            raise InvalidBag(
                f"{self._path}: has no topic {name}, expected {' or '.join(kinds)} there; it has "
                f"{', '.join(sorted(known)) or 'none'} (name another by --topic {ours}=NAME)"
            )
        if known[name] not in kinds:
            raise InvalidBag(
                f"{self._path}: {name} is {known[name]}, expected {' or '.join(kinds)}"
            )
        return name

    def _picture(self, message: Any, camera: Camera) -> tuple[Stream, np.ndarray]:
        picture = _decode(message, f"{self._path}: {camera.topic}")
        described = {**self._described[camera.name], "encoding": "rgb8"}
        if picture.shape != (camera.height, camera.width, 3):
            raise InvalidBag(
                f"{self._path}: {camera.topic} is {picture.shape[1]}x{picture.shape[0]}, expected "
                f"{camera.width}x{camera.height}, as the contract has it"
            )
        small = preprocess([picture], [described], self._size)[0]
        return self._segments[-1].cameras[camera.name], small

    def _joint_state(self, message: Any) -> tuple[Stream, np.ndarray | None]:
        contract, names = self._contract, list(message.name)
        wanted = list(contract.joint_names)
        fingers = list(contract.gripper.joints) if contract.moves_gripper else []
        missing = [name for name in (*wanted, *fingers) if name not in names]
        stream = self._segments[-1].joints
        if missing:  # others may publish there, too: a gripper, for example
            self._others = f"{JOINTS} has {names}, expected {[*wanted, *fingers]} among them"
            return stream, None
        order = [names.index(name) for name in wanted]
        positions = np.asarray(message.position, float)
        velocities = np.asarray(message.velocity, float)
        if len(positions) != len(names):
            return stream, np.array([np.nan])
        rates = velocities[order] if len(velocities) == len(names) else np.zeros(0)
        opening = [positions[[names.index(name) for name in fingers]].mean()] if fingers else []
        row = np.concatenate([positions[order], rates, opening])
        return stream, row

    def _action(self, message: Any) -> tuple[Stream, np.ndarray | None]:
        size, stream = self._contract.actions.size, self._segments[-1].actions
        if (message.encoding, message.width, message.height) != ("32FC1", size, 1):
            raise InvalidBag(
                f"{self._path}: {ACTION} is {message.height}x{message.width} {message.encoding}, "
                f"expected 1x{size} 32FC1, an action of this contract"
            )
        return stream, np.frombuffer(message.data, "<f4").astype(np.float32)

    def _command(self, message: Any) -> tuple[Stream, np.ndarray | None]:
        stream, wanted = self._segments[-1].commands, list(self._contract.joint_names)
        if hasattr(message, "points"):
            names = list(message.joint_names)
            if not message.points or not set(wanted) <= set(names):
                return stream, None
            return stream, np.asarray(message.points[0].positions)[[names.index(n) for n in wanted]]
        values = np.asarray(message.data, float)
        return stream, values if len(values) == len(wanted) else None


def _decode(message: Any, where: str) -> np.ndarray:
    """A picture ``[h, w, 3]`` uint8, RGB."""
    if hasattr(message, "format"):  # CompressedImage
        picture = cv2.imdecode(np.asarray(message.data, np.uint8), cv2.IMREAD_COLOR)
        if picture is None:
            raise InvalidBag(
                f"{where}: a compressed picture of format {message.format!r} cannot be decoded, "
                "expected jpeg or png: videos are to be turned into pictures first"
            )
        return cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    if message.encoding not in ENCODINGS:
        raise InvalidBag(f"{where} is {message.encoding}, expected one of {', '.join(ENCODINGS)}")
    channels = {"mono8": 1, "rgba8": 4, "bgra8": 4}.get(message.encoding, 3)
    rows = np.asarray(message.data, np.uint8)
    step = message.step or channels * message.width
    if len(rows) != step * message.height or step < channels * message.width:
        raise InvalidBag(f"{where} has {len(rows)} bytes, expected {step * message.height}")
    rows = rows.reshape(message.height, step)[:, : channels * message.width]
    picture = rows.reshape(message.height, message.width, channels)
    code = ENCODINGS[message.encoding]
    return picture if code is None else cv2.cvtColor(picture, code)


def _messages(
    path: Path, wants: Callable[[Mapping[str, str]], list[str]]
) -> Iterator[tuple[str, int, Any]]:
    """Topic, time (ns) and message of each message that is wanted, in the order of recording.

    Raises:
        _CutOff: it is damaged from here on.
    """
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.rosbag2 import ReaderError
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise InvalidBag(
            "bags are read by the packages rosbags and mcap, expected them installed: "
            "pip install 'jepa_robot[import]'"
        ) from error
    if not path.exists():
        raise InvalidBag(f"{path}: is missing, expected a ROS 2 bag")
    store = get_typestore(Stores.LATEST)
    try:
        reader = AnyReader([path], default_typestore=store)
        reader.open()
    except (AnyReaderError, ReaderError, OSError, ValueError) as error:
        yield from _salvaged(path, wants, store, error)
        return
    try:
        chosen = wants({one.topic: one.msgtype for one in reader.connections})
        messages = reader.messages([one for one in reader.connections if one.topic in chosen])
        while True:
            try:
                connection, time, raw = next(messages)
            except StopIteration:
                return
            except Exception as error:  # of sqlite, lz4, zstd, struct: the file ends here
                raise _CutOff(_words(error)) from error
            yield connection.topic, time, reader.deserialize(raw, connection.msgtype)
    finally:
        reader.close()


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _salvaged(
    path: Path, wants: Callable[[Mapping[str, str]], list[str]], store: Any, why: Exception
) -> Iterator[tuple[str, int, Any]]:
    """What can be read of an MCAP file that was never closed, as a killed process leaves it."""
    from mcap.reader import NonSeekingReader

    files = [path] if path.is_file() else sorted(path.glob("*.mcap"))
    if not files or files[0].suffix != ".mcap":
        raise _CutOff(_words(why))
    ended: list[Exception] = []

    def read() -> Iterator[tuple[str, str, int, bytes]]:
        for file in files:
            with file.open("rb") as stream:
                try:
                    messages = NonSeekingReader(stream).iter_messages(log_time_order=False)
                    for schema, channel, message in messages:
                        yield channel.topic, schema.name, message.log_time, message.data
                except Exception as error:  # whatever the end of a file makes of its last record
                    ended.append(error)

    kinds = {topic: kind for topic, kind, _, _ in read()}
    if kinds:
        chosen = set(wants(kinds))
        for topic, kind, time, data in read():
            if topic in chosen:
                yield topic, time, store.deserialize_cdr(data, kind)
    raise _CutOff(_words(ended[0] if ended else why))
