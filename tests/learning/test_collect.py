"""Collecting data, and refusing to learn from what does not fit."""

import dataclasses

import h5py
import numpy as np
import pytest

from jepa_robot.learning.dataset import InvalidDataset, load_dataset
from jepa_robot_sim.collect import EPISODE_STEPS, collect, explore


def test_the_same_seed_gives_the_same_data_in_any_number_of_processes(contract, data, tmp_path):
    collect(contract, tmp_path / "again", transitions=600, seed=7, processes=1)
    again = load_dataset(tmp_path / "again")
    for name in ("images", "proprioception", "actions", "ee_position"):
        np.testing.assert_array_equal(
            getattr(again, name)[:20], getattr(data, name)[:20], err_msg=name
        )


def test_another_seed_gives_other_data(contract, data, tmp_path):
    collect(contract, tmp_path / "other", transitions=EPISODE_STEPS, seed=8)
    assert not np.array_equal(load_dataset(tmp_path / "other").actions[0], data.actions[0])


def test_progress_ends_at_the_total_and_whole_episodes_are_stored(contract, tmp_path):
    calls = []
    count = collect(
        contract, tmp_path / "data", transitions=30, progress=lambda *call: calls.append(call)
    )
    assert count == 2 * EPISODE_STEPS
    assert calls[-1] == (count, count)


def test_episodes_stay_in_the_workspace_and_cover_it(contract, data):
    lower, upper = contract.workspace
    assert (data.ee_position > np.array(lower) - 0.03).all()
    assert (data.ee_position < np.array(upper) + 0.03).all()
    spread = np.ptp(data.ee_position.reshape(-1, 3), axis=0)
    assert (spread > 0.9 * np.subtract(upper, lower)).all()


def test_actions_are_bounded_and_smooth():
    rng = np.random.default_rng(0)
    actions = np.stack([explore(rng, 25, 3) for _ in range(300)])
    assert np.abs(actions).max() <= 1
    assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] > 0.6


@pytest.mark.parametrize(
    ("field", "value"), [("transitions", 0), ("processes", -1), ("seed", -3), ("seed", 0.5)]
)
def test_a_bad_number_is_named(contract, tmp_path, field, value):
    arguments = {"transitions": 25, "seed": 0, "processes": 1, field: value}
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        collect(contract, tmp_path / "data", **arguments)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_not_written_into(contract, tmp_path):
    with pytest.raises(FileExistsError, match="expected the name of a new dataset"):
        collect(contract, tmp_path, transitions=25)


def test_data_of_another_robot_is_refused_by_what_differs(contract, data_folder):
    slower = dataclasses.replace(contract, rates=dataclasses.replace(contract.rates, image=10))
    with pytest.raises(InvalidDataset, match=r"time_step is 0\.05 in the data, 0\.1 on the robot"):
        load_dataset(data_folder, slower.interface())
    other = dataclasses.replace(contract, joints=contract.joints[::-1])
    with pytest.raises(InvalidDataset, match=r"joints\[0\] is 'panda_joint1'"):
        load_dataset(data_folder, other.interface())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.h5 shards"):
        load_dataset(tmp_path)


def test_a_damaged_shard_is_named(contract, tmp_path):
    collect(contract, tmp_path / "data", transitions=25)
    shard = next((tmp_path / "data").glob("*.h5"))
    shard.write_bytes(shard.read_bytes()[:1000])
    with pytest.raises(InvalidDataset, match=r"block-00000\.h5: is no shard"):
        load_dataset(tmp_path / "data")


def test_shards_of_different_runs_do_not_mix(contract, tmp_path):
    collect(contract, tmp_path / "data", transitions=25, seed=0)
    collect(contract, tmp_path / "other", transitions=25, seed=1)
    (tmp_path / "other" / "block-00000.h5").rename(tmp_path / "data" / "block-00001.h5")
    with pytest.raises(InvalidDataset, match="another run"):
        load_dataset(tmp_path / "data")


def test_a_number_that_is_not_finite_is_refused(contract, tmp_path):
    collect(contract, tmp_path / "data", transitions=25)
    with h5py.File(next((tmp_path / "data").glob("*.h5")), "r+") as file:
        file["velocities"][0, 3, 2] = np.nan
    with pytest.raises(InvalidDataset, match="proprioception holds numbers that are not finite"):
        load_dataset(tmp_path / "data")
