"""Reads LeRobot datasets (v3.0 and v2.1) as streams over time; neither lerobot nor torch is needed.

Tables are read by pyarrow, videos by PyAV. An episode is a segment: its frames come at the data
set's rate, its states are joints, its actions are the positions that joints were sent to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from jepa_robot.bags import Bag, InvalidBag, Segment, Stream
from jepa_robot.modules.perception import preprocess
from jepa_robot.robot.contract import Camera, RobotContract

INFO = Path("meta") / "info.json"
STATE, ACTION, PICTURES = "observation.state", "action", "observation.images."
VERSIONS = ("v2.", "v3.")
SUFFIX = ".pos"  # that LeRobot's own robots have behind the names of joints


@dataclass(frozen=True)
class _Episode:
    """Where an episode is: rows of a table, and seconds of a video a camera."""

    index: int
    length: int
    table: Path
    videos: dict[str, tuple[Path, float]]


def is_lerobot(path: Path) -> bool:
    """Whether a folder is a LeRobot dataset."""
    return (path / INFO).is_file()


def read_lerobot(
    path: Path,
    contract: RobotContract,
    size: tuple[int, int],
    names: Mapping[str, str] | None = None,
    in_degrees: bool = False,
) -> Bag:
    """Read a dataset from its folder.

    Args:
        path: with ``meta/info.json`` in it.
        contract: names cameras and joints. Joints are found by their names (with or without
            ``.pos``), or where there are none by as many in the contract's order.
        size: height and width of pictures.
        names: by our topic (``camera_side/image``) the data set's feature, where that is not
            ``observation.images.`` and the camera's name.
        in_degrees: angles are in degrees.

    Raises:
        InvalidBag: it lacks a feature, a joint or a file, or is of another version; names it.
    """
    try:
        info = json.loads((path / INFO).read_text(encoding="utf-8"))
        version, features, rate = info["codebase_version"], info["features"], float(info["fps"])
    except (OSError, ValueError, KeyError) as error:
        raise InvalidBag(f"{path / INFO}: cannot be read: {error!r}") from error
    if not str(version).startswith(VERSIONS):
        raise InvalidBag(f"{path}: is of version {version}, expected v2 or v3")
    pictures = {}
    for camera in contract.cameras:
        feature = (names or {}).get(camera.topic, f"{PICTURES}{camera.name}")
        _check_feature(path, features, feature)
        pictures[camera.name] = feature
    columns = {name: _columns(path, features, name, contract) for name in (STATE, ACTION)}
    reader = _Reader(path, info, contract, size, pictures)
    segments, problems = [], []
    for episode in reader.episodes():
        try:
            segment = reader.read(episode, columns, rate, in_degrees)
            segments.append(segment)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, InvalidBag):
                raise
            problems.append(f"{path}: episode {episode.index} is left out: {error}")
    return Bag(segments, problems)


class _Reader:
    """Tables and videos of one dataset."""

    def __init__(
        self,
        path: Path,
        info: dict[str, Any],
        contract: RobotContract,
        size: tuple[int, int],
        pictures: dict[str, str],
    ) -> None:
        self._path, self._info, self._contract, self._size = path, info, contract, size
        self._pictures = pictures
        self._described = {one["name"]: one for one in contract.interface()["cameras"]}
        self._table: tuple[Path, Any] | None = None  # the one that was read last

    def episodes(self) -> Iterator[_Episode]:
        """All of them, in turn."""
        try:
            known = list(self._listed())
        except (OSError, ValueError, KeyError) as error:
            raise InvalidBag(f"{self._path / 'meta'}: cannot be read: {error!r}") from error
        for one in known:
            yield self._episode(one)

    def read(
        self,
        episode: _Episode,
        columns: Mapping[str, list[int]],
        rate: float,
        in_degrees: bool,
    ) -> Segment:
        """An episode as streams."""
        table = self._rows(episode)
        stamps = (1e9 * np.arange(episode.length) / rate).astype(np.int64) + 1
        values = {
            name: np.array(table[name].to_pylist(), float)[:, columns[name]] for name in columns
        }
        joints = len(self._contract.joints)
        if in_degrees:
            for rows in values.values():
                rows[:, :joints] = np.radians(rows[:, :joints])
        segment = Segment({camera.name: Stream() for camera in self._contract.cameras})
        finite = np.isfinite(values[STATE]).all(axis=1)
        for stamp, state, action, fits in zip(
            stamps.tolist(), values[STATE], values[ACTION], finite, strict=True
        ):
            if fits:
                segment.joints.add(stamp, state)
            if np.isfinite(action[:joints]).all():
                segment.commands.add(stamp, action[:joints])
        for camera in self._contract.cameras:
            stream = segment.cameras[camera.name]
            frames = self._frames(episode, table, camera)
            for stamp, picture in zip(stamps.tolist(), frames, strict=False):
                stream.add(stamp, self._small(picture, camera))
        return segment

    def _listed(self) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet

        if str(self._info["codebase_version"]).startswith("v2"):
            lines = (self._path / "meta" / "episodes.jsonl").read_text(encoding="utf-8")
            yield from map(json.loads, filter(None, lines.splitlines()))
            return
        for file in sorted((self._path / "meta" / "episodes").rglob("*.parquet")):
            yield from pyarrow.parquet.read_table(file).to_pylist()

    def _episode(self, one: Mapping[str, Any]) -> _Episode:
        index, length = int(one["episode_index"]), int(one["length"])
        videos = {}
        if "data/chunk_index" in one:  # v3
            where = {"chunk_index": one["data/chunk_index"], "file_index": one["data/file_index"]}
        else:
            chunk = index // int(self._info.get("chunks_size", 1000))
            where = {"episode_chunk": chunk, "episode_index": index}
        for name, feature in self._pictures.items():
            if self._info["features"][feature]["dtype"] != "video":
                continue
            begin, at = 0.0, {**where, "video_key": feature}
            if "data/chunk_index" in one:
                begin = float(one[f"videos/{feature}/from_timestamp"])
                at["chunk_index"] = one[f"videos/{feature}/chunk_index"]
                at["file_index"] = one[f"videos/{feature}/file_index"]
            videos[name] = (self._path / self._info["video_path"].format(**at), begin)
        return _Episode(index, length, self._path / self._info["data_path"].format(**where), videos)

    def _rows(self, episode: _Episode) -> Any:
        """The episode's rows of its table."""
        import pyarrow.compute
        import pyarrow.parquet

        if self._table is None or self._table[0] != episode.table:
            self._table = (episode.table, pyarrow.parquet.read_table(episode.table))
        table = self._table[1]
        rows = table.filter(pyarrow.compute.equal(table["episode_index"], episode.index))
        if len(rows) != episode.length:
            raise ValueError(f"{episode.table} has {len(rows)} rows, expected {episode.length}")
        return rows

    def _frames(self, episode: _Episode, table: Any, camera: Camera) -> Iterator[np.ndarray]:
        """Pictures ``[h, w, 3]`` uint8, RGB."""
        if camera.name not in episode.videos:
            for one in table[self._pictures[camera.name]].to_pylist():
                encoded = one["bytes"] or (self._path / one["path"]).read_bytes()
                picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
                if picture is None:
                    raise ValueError(f"a picture of {camera.name} cannot be decoded")
                yield cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            return
        file, begin = episode.videos[camera.name]
        yield from _decoded(file, begin, episode.length, float(self._info["fps"]))

    def _small(self, picture: np.ndarray, camera: Camera) -> np.ndarray:
        if picture.shape != (camera.height, camera.width, 3):
            raise InvalidBag(
                f"{self._path}: {self._pictures[camera.name]} is "
                f"{picture.shape[1]}x{picture.shape[0]}, expected {camera.width}x{camera.height}, "
                f"as the contract has {camera.name}"
            )
        described = {**self._described[camera.name], "encoding": "rgb8"}
        return preprocess([picture], [described], self._size)[0]


def _decoded(file: Path, begin: float, count: int, rate: float) -> Iterator[np.ndarray]:
    """So many pictures of a video from ``begin`` (s) on.

    Raises:
        ValueError: there are fewer, or the codec is not there.
    """
    import av

    found = 0
    try:
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            container.seek(int(begin / stream.time_base), stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.time < begin - 0.5 / rate:
                    continue
                if found == count:
                    return
                found += 1
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise ValueError(f"{file}: cannot be decoded: {error}") from error
    if found < count:
        raise ValueError(f"{file} has {found} pictures from {begin:.2f} s on, expected {count}")


def _check_feature(path: Path, features: Mapping[str, Any], feature: str) -> None:
    if feature not in features:
        raise InvalidBag(
            f"{path}: has no feature {feature}, expected one; it has {', '.join(sorted(features))} "
            "(name another by --topic CAMERA/image=FEATURE)"
        )


def _columns(
    path: Path, features: Mapping[str, Any], feature: str, contract: RobotContract
) -> list[int]:
    """Which columns of a feature are the contract's joints, and its gripper's where that moves."""
    _check_feature(path, features, feature)
    wanted = list(contract.joint_names)
    if contract.moves_gripper:
        wanted.append(contract.gripper.joints[0])
    names = features[feature].get("names")
    if isinstance(names, Mapping):
        names = next(iter(names.values()), None)
    known = [str(name).removesuffix(SUFFIX) for name in names or ()]
    if set(wanted) <= set(known):
        return [known.index(name) for name in wanted]
    count = int(features[feature]["shape"][0])
    if count == len(wanted):
        return list(range(count))
    raise InvalidBag(
        f"{path}: {feature} is of {known or count}, expected the contract's {wanted}, by name, or "
        "as many in that order"
    )
