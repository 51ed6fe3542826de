"""Recordings: what is written is read, and what cannot be learned from is named and left out."""

import dataclasses
import os
import pickle

import h5py
import numpy as np
import pytest

from jepa_robot.dataset import (
    About,
    InvalidDataset,
    StoredPixels,
    open_dataset,
    read_about,
    read_episodes,
    write_dataset,
)

CAMERAS = ("left", "right")
INTERFACE = {
    "joints": ["one"],
    "actions": {"kind": "joint_velocity", "channels": [{"name": "one", "scale": 1.0}]},
    "cameras": [{"name": name} for name in CAMERAS],
    "time_step": 0.05,
}
ABOUT = About(INTERFACE, "reach", "hand_position", ({"seed": 3, "command": "collect"},))


def episode(length, value=0):
    rng = np.random.default_rng(value)
    return {
        "pixels": rng.integers(0, 255, (length, 8, 2 * 8, 3), np.uint8),
        "action": np.vstack([rng.uniform(-1, 1, (length - 1, 2)), np.full((1, 2), np.nan)]).astype(
            np.float32
        ),
        "proprio": rng.normal(size=(length, 2)).astype(np.float32),
        "hand_position": rng.normal(size=(length, 3)).astype(np.float32),
    }


@pytest.fixture
def episodes():
    return [episode(length, length) for length in (6, 9, 4, 7)]


@pytest.fixture
def path(tmp_path, episodes):
    write_dataset(tmp_path / "data.h5", ABOUT, episodes)
    return tmp_path / "data.h5"


def damage(path, column, row, value):
    with h5py.File(path, "r+") as file:
        file[column][row] = value


def test_what_was_written_is_read(path, episodes):
    for written, read in zip(episodes, read_episodes(path), strict=True):
        for name, array in written.items():
            np.testing.assert_array_equal(read[name], array)
    data = open_dataset(path)
    assert (data.episodes, data.transitions, data.cameras) == (4, 22, 2)
    assert data.image_size == (8, 8)
    assert data.labels == ("hand_position",)
    assert read_about(path) == ABOUT


def test_pictures_are_split_into_cameras(path, episodes):
    images = open_dataset(path).images(np.array([[0, 7]]))
    assert images.shape == (1, 2, 2, 8, 8, 3)
    np.testing.assert_array_equal(images[0, 0, 1], episodes[0]["pixels"][0, :, 8:])
    np.testing.assert_array_equal(images[0, 1, 0], episodes[1]["pixels"][1, :, :8])


def test_pictures_that_do_not_fit_into_memory_are_read_when_needed(path):
    whole, streamed = open_dataset(path), open_dataset(path, in_memory=0)
    assert isinstance(whole.pixels, np.ndarray)
    assert isinstance(streamed.pixels, StoredPixels)
    streamed = pickle.loads(pickle.dumps(streamed))  # as a process that prepares batches gets it
    rows = np.random.default_rng(0).integers(0, 26, (5, 4))
    np.testing.assert_array_equal(streamed.images(rows), whole.images(rows))


def test_windows_stay_within_an_episode(path):
    data = open_dataset(path)
    starts = data.windows(horizon=4, history=2)
    # Of 6, 9, 4 and 7 frames: a frame before, four steps after.
    assert starts.tolist() == [1, 7, 8, 9, 10, 20, 21]
    assert not np.isnan(data.columns["action"][starts[:, None] + np.arange(4)]).any()


def test_joints_of_another_number_are_named(tmp_path, episodes):
    gripper = {"name": "gripper", "scale": 1.0}
    channels = [*INTERFACE["actions"]["channels"], gripper]
    interface = {**INTERFACE, "actions": {**INTERFACE["actions"], "channels": channels}}
    about = dataclasses.replace(ABOUT, interface=interface)
    write_dataset(tmp_path / "other.h5", about, episodes)
    with pytest.raises(InvalidDataset, match=r"proprio has 2 columns, expected 3: .* a gripper"):
        open_dataset(tmp_path / "other.h5")


def test_too_long_a_window_is_named(path):
    with pytest.raises(InvalidDataset, match="longest usable episode has 9 frames, expected at "):
        open_dataset(path).windows(horizon=9)


def test_the_split_shares_no_frame(path):
    training, validation = open_dataset(path).split(0.25)
    assert (training.episodes, validation.episodes) == (3, 1)
    assert not set(training.rows) & set(validation.rows)


@pytest.mark.parametrize(
    ("column", "value", "text"),
    [
        ("proprio", np.nan, "episode 1, frame 2: proprio is not finite"),
        ("action", np.inf, "episode 1, frame 2: action is not finite"),
        ("action", 1.7, r"episode 1, frame 2: action has 1.7, expected values in \[-1, 1\]"),
        ("hand_position", np.nan, "episode 1, frame 2: hand_position is not finite"),
    ],
)
def test_a_bad_number_costs_its_episode_alone(path, column, value, text):
    damage(path, column, 6 + 2, value)
    data = open_dataset(path)
    assert data.episodes == 3
    assert data.offsets.tolist() == [0, 15, 19]
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(data.report())


def test_a_dead_camera_in_half_of_the_data_is_reported(path):
    with h5py.File(path, "r+") as file:
        pixels = file["pixels"][:]
        pixels[15:, :, 8:] = 0
        file["pixels"][:] = pixels
    data = open_dataset(path)
    assert data.episodes == 2
    assert "2 episode(s) are left out: episode 2, frame 0: camera right shows nothing" in (
        data.report()
    )


def test_constant_images_leave_nothing_to_learn_from(path):
    with h5py.File(path, "r+") as file:
        file["pixels"][:] = np.full(file["pixels"].shape, 9, np.uint8)
    with pytest.raises(InvalidDataset, match="no usable episode: episode 0, frame 0: camera left"):
        open_dataset(path)


def test_a_truncated_file_is_named(path):
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InvalidDataset, match=r"data\.h5: .*expected a whole HDF5 file"):
        open_dataset(path)


def test_a_column_that_is_too_short_is_named(path):
    with h5py.File(path, "r+") as file:
        file["action"].resize(20, axis=0)
    with pytest.raises(InvalidDataset, match="action has 20 rows, expected 26, the sum of ep_len"):
        open_dataset(path)


def test_another_robot_is_named(path):
    other = {**INTERFACE, "joints": ["two"]}
    with pytest.raises(InvalidDataset, match=r"joints\[0\] is 'one' in the data, 'two' on the"):
        open_dataset(path, other)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.h5: is missing, expected a recording"):
        open_dataset(tmp_path / "nothing.h5")


def test_a_failed_write_leaves_what_was_there(path, episodes):
    before = path.read_bytes()

    def broken():
        yield from episodes
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_dataset(path, ABOUT, broken())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_an_episode_with_other_columns_is_refused(tmp_path, episodes):
    del episodes[2]["proprio"]
    episodes[2]["extra"] = episodes[2]["action"]
    with pytest.raises(InvalidDataset, match="episode 2: extra is"):
        write_dataset(tmp_path / "data.h5", ABOUT, episodes)
    assert not list(tmp_path.iterdir())


def test_a_file_that_says_nothing_of_itself_has_one_camera_and_no_joints(path):
    with h5py.File(path, "r+") as file:
        del file.attrs["about"]
    data = open_dataset(path)
    assert (data.cameras, data.image_size, data.about.interface["joints"]) == (1, (8, 16), [])
    assert read_about(path) is None


def test_actions_of_unknown_scale_are_brought_into_range(path, episodes):
    with h5py.File(path, "r+") as file:
        del file.attrs["about"]
        file["action"][:] = file["action"][:] * [1, 40]
    data = open_dataset(path)
    assert data.episodes == 4
    assert "proprio" not in data.columns  # of joints that nobody names
    largest = max(np.nanmax(np.abs(e["action"][:, 1])) for e in episodes)
    scales = [c["scale"] for c in data.about.interface["actions"]["channels"]]
    assert scales == pytest.approx([1, 40 * largest])
    np.testing.assert_allclose(
        data.columns["action"][:5, 1], episodes[0]["action"][:5, 1] / largest, rtol=1e-5
    )


def test_a_later_format_is_refused(path):
    with h5py.File(path, "r+") as file:
        file.attrs["about"] = file.attrs["about"].replace('"format": 2', '"format": 3')
    with pytest.raises(InvalidDataset, match="format is 3, expected 2"):
        open_dataset(path)


def test_provenance_survives_the_file(path):
    assert dataclasses.asdict(open_dataset(path).about) == dataclasses.asdict(ABOUT)
