"""LeRobot datasets become recordings: v3.0 and v2.1, videos and pictures."""

import json

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jepa_robot.bags import InvalidBag
from jepa_robot.dataset import open_dataset
from jepa_robot.importing import BagSettings, import_bags
from jepa_robot.robot.kinematics import Kinematics

LENGTHS, RATE = (12, 20, 9), 20
DEGREES = BagSettings(in_degrees=True)


@pytest.fixture(scope="module")
def lived(contract):
    """Joints ``[T, J]`` (rad) that wander, and smooth pictures ``[T, cameras, h, w, 3]``."""
    rng = np.random.default_rng(0)
    episodes = []
    for number, length in enumerate(LENGTHS):
        walk = 0.004 * rng.standard_normal((length, len(contract.joints))).cumsum(axis=0)
        tone = 20 * number + 3 * np.arange(length)[:, None, None, None, None]
        slope = np.arange(64)[:, None, None] + 60 * np.arange(2)[:, None, None, None]
        pictures = np.broadcast_to(tone + slope, (length, 2, 64, 64, 3)).astype(np.uint8)
        episodes.append((np.array(contract.home) + walk, pictures))
    return episodes


def write(root, contract, lived, version="v3.0", is_video=True, features=None):
    """A dataset in degrees, as lerobot lays it out; actions are the joints of the next frame."""
    keys = [f"observation.images.{camera.name}" for camera in contract.cameras]
    names = [f"{name}.pos" for name in reversed(contract.joint_names)]
    vector = {"dtype": "float32", "shape": [len(names)], "names": names}
    picture = {"dtype": "video" if is_video else "image", "shape": [64, 64, 3]}
    is_v3 = version.startswith("v3")
    info = {
        "codebase_version": version,
        "fps": RATE,
        "chunks_size": 1000,
        "features": features
        or {"observation.state": vector, "action": vector, **dict.fromkeys(keys, picture)},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        if is_v3
        else "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        if is_v3
        else "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tables, listed, begin = [], [], 0.0
    for number, (joints, pictures) in enumerate(lived):
        degrees = np.degrees(joints)[:, ::-1].astype(np.float32)
        after = np.concatenate([degrees[1:], degrees[-1:]])
        columns = {
            "observation.state": degrees.tolist(),
            "action": after.tolist(),
            "episode_index": [number] * len(joints),
        }
        if not is_video:
            for camera, key in enumerate(keys):
                encoded = [cv2.imencode(".png", one[camera, ..., ::-1])[1] for one in pictures]
                columns[key] = [{"bytes": e.tobytes(), "path": None} for e in encoded]
        tables.append(pa.table(columns))
        about = {"episode_index": number, "length": len(joints)}
        if is_v3:
            about |= {"data/chunk_index": 0, "data/file_index": 0}
            for key in keys:
                about |= {f"videos/{key}/{name}_index": 0 for name in ("chunk", "file")}
                about[f"videos/{key}/from_timestamp"] = begin
        listed.append(about)
        begin += len(joints) / RATE
    if is_v3:
        put(root / "data/chunk-000/file-000.parquet", pa.concat_tables(tables))
        put(root / "meta/episodes/chunk-000/file-000.parquet", pa.Table.from_pylist(listed))
    else:
        (root / "meta/episodes.jsonl").write_text("\n".join(map(json.dumps, listed)))
        for number, table in enumerate(tables):
            put(root / f"data/chunk-000/episode_{number:06d}.parquet", table)
    for camera, key in enumerate(keys if is_video else ()):
        films = [pictures[:, camera] for _, pictures in lived]
        if is_v3:
            film(root / f"videos/{key}/chunk-000/file-000.mp4", np.concatenate(films))
        else:
            for number, one in enumerate(films):
                film(root / f"videos/chunk-000/{key}/episode_{number:06d}.mp4", one)
    return root


def put(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def film(path, pictures):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.bit_rate = 4_000_000
        for one in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("version", "is_video"), [("v3.0", True), ("v3.0", False), ("v2.1", True), ("v2.1", False)]
)
def test_what_was_lived_comes_back(tmp_path, contract, lived, version, is_video):
    root = write(tmp_path / "set", contract, lived, version, is_video)
    done = import_bags([root], tmp_path / "data.h5", contract, settings=DEGREES)
    assert (done.episodes, done.frames) == (len(LENGTHS), sum(LENGTHS))
    assert done.actions == {"commands"} and not done.problems
    data = open_dataset(tmp_path / "data.h5", contract.interface())
    kinematics = Kinematics(contract)
    for offset, (joints, pictures) in zip(data.offsets, lived, strict=True):
        rows = np.arange(offset, offset + len(joints))
        felt = data.columns["proprio"][rows]
        assert np.allclose(felt[:, :7], joints, atol=1e-5)
        rates = np.gradient(joints, 1 / RATE, axis=0)
        assert np.allclose(felt[:, 7:], rates, atol=1e-4)
        away = np.abs(data.images(rows).astype(int) - pictures)
        assert away.mean() < (4 if is_video else 1e-9)
        speeds = np.diff(kinematics.position(joints), axis=0) * RATE / contract.actions.scale
        assert np.allclose(data.columns["action"][rows][:-2], np.clip(speeds[1:], -1, 1), atol=1e-3)


def broken(root, what):
    """The same dataset with something wrong."""
    if what == "version":
        info = json.loads((root / "meta/info.json").read_text())
        (root / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v1.6"}))
    elif what == "info":
        (root / "meta/info.json").write_text("{")
    elif what == "video":
        file = next((root / "videos").rglob("*side*/**/*000.mp4"))
        file.write_bytes(file.read_bytes()[:500])
    elif what == "table":
        next((root / "data").rglob("*.parquet")).unlink()


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("version", "is of version v1.6, expected v2 or v3"),
        ("info", "info.json: cannot be read"),
        ("video", "episode 0 is left out: .*cannot be decoded"),
        ("table", "episode 0 is left out: .*parquet"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, contract, lived, what, complaint):
    root = write(tmp_path / "set", contract, lived)
    broken(root, what)
    with pytest.raises(InvalidBag, match=complaint):
        import_bags([root], tmp_path / "data.h5", contract, settings=DEGREES)


def test_one_bad_episode_leaves_the_others(tmp_path, contract, lived):
    root = write(tmp_path / "set", contract, lived, "v2.1")
    (root / "data/chunk-000/episode_000001.parquet").unlink()
    done = import_bags([root], tmp_path / "data.h5", contract, settings=DEGREES)
    assert done.episodes == 2 and "episode 1 is left out" in done.problems[0]


def test_features_are_found_by_name_or_refused(tmp_path, contract, lived):
    vector = {"dtype": "float32", "shape": [3], "names": ["a", "b", "c"]}
    side, front = (f"observation.images.{camera.name}" for camera in contract.cameras)
    picture = {"dtype": "video", "shape": [64, 64, 3]}
    features = {"observation.state": vector, "action": vector, side: picture}
    root = write(tmp_path / "one", contract, lived, features=features)
    with pytest.raises(InvalidBag, match=f"has no feature {front}, expected one; it has action"):
        import_bags([root], tmp_path / "data.h5", contract)
    root = write(tmp_path / "two", contract, lived, features={**features, front: picture})
    with pytest.raises(InvalidBag, match=r"observation.state is of \['a', 'b', 'c'\], expected"):
        import_bags([root], tmp_path / "data.h5", contract)
