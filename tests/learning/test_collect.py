"""Collecting data: the same in any number of processes, and nothing that was finished is lost."""

import dataclasses
import itertools
import json

import joblib
import numpy as np
import pytest
from joblib._parallel_backends import LokyBackend

import jepa_robot_sim.collect as collecting
from jepa_robot.dataset import About, InvalidDataset, open_dataset, read_about
from jepa_robot.models import Bundle, InvalidBundle
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.collect import ArmSource, collect, with_last
from jepa_robot_sim.exploration import explore
from jepa_robot_sim.scenes import Randomisation
from jepa_robot_sim.tasks import Reach
from tests import tiny_bundle


@dataclasses.dataclass(frozen=True)
class CheapSource:
    """Episodes of random numbers, some of which end early: what is tested is not the simulator."""

    task: str = "count"
    episode_steps: int = 10
    fails_at: int = dataclasses.field(default=1000, repr=False)

    def open(self):
        return CheapRecorder(self)


class CheapRecorder:
    def __init__(self, source):
        self._source, self._count = source, itertools.count()
        camera = {"name": "camera"}
        self.about = About({"joints": [], "cameras": [camera]}, source.task, "")

    def record(self, rng):
        if next(self._count) == self._source.fails_at:
            raise OSError(28, "No space left on device")
        steps = int(rng.integers(5, 11))
        return {
            "pixels": rng.integers(0, 255, (steps + 1, 32, 32, 3), np.uint8),
            "action": with_last(list(rng.uniform(-1, 1, (steps, 2)))),
            "scripted": np.ones((steps + 1, 1), np.uint8),
        }


@pytest.fixture(autouse=True)
def fresh_recorders():
    collecting._recorders.clear()


def actions(path):
    return open_dataset(path).columns["action"]


def test_the_same_seed_gives_the_same_data_in_any_number_of_processes(contract, data, tmp_path):
    collect(ArmSource(contract), tmp_path / "again.h5", transitions=100, seed=7, processes=1)
    again = open_dataset(tmp_path / "again.h5")
    rows = np.arange(4 * (Reach.recorded_steps + 1))
    np.testing.assert_array_equal(again.images(rows), data.images(rows))
    for name, column in again.columns.items():
        np.testing.assert_array_equal(column, data.columns[name][rows], err_msg=name)


def test_a_backend_that_gives_all_at_once_is_asked_in_rounds(tmp_path, monkeypatch):
    class AllAtOnce(LokyBackend):  # as Ray's
        supports_return_generator = False

    monkeypatch.setattr(
        collecting, "_register_ray", lambda: joblib.register_parallel_backend("ray", AllAtOnce)
    )
    done = []
    for backend in ("loky", "ray"):
        report = done.append if backend == "ray" else lambda count: None
        collect(
            CheapSource(),
            tmp_path / f"{backend}.h5",
            300,
            processes=2,
            backend=backend,
            progress=lambda count, _, report=report: report(count),
        )
    np.testing.assert_array_equal(actions(tmp_path / "ray.h5"), actions(tmp_path / "loky.h5"))
    assert len(done) > 2 * collecting.ROUND


def test_randomised_scenes_are_recorded(contract, tmp_path):
    pictures = []
    for strength in (0.0, 1.0):
        source = ArmSource(contract, randomisation=Randomisation.full(strength))
        collect(source, tmp_path / f"{strength}.h5", Reach.recorded_steps)
        pictures.append(open_dataset(tmp_path / f"{strength}.h5").images(np.arange(1)))
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 10


def test_the_opening_of_a_gripper_is_recorded_behind_the_joints(tmp_path):
    contract = load_contract("panda_table")
    collect(ArmSource(contract, "pick_and_place", steps=15), tmp_path / "a.h5", transitions=60)
    columns = open_dataset(tmp_path / "a.h5", contract.interface()).columns
    assert columns["proprio"].shape[1] == 15
    np.testing.assert_allclose(columns["proprio"][:, 14:], columns["gripper_opening"], atol=1e-6)
    assert np.ptp(columns["proprio"][:, 14]) > 0.005


def test_another_seed_gives_other_data(tmp_path):
    for seed in (7, 8):
        collect(CheapSource(), tmp_path / f"{seed}.h5", transitions=10, seed=seed)
    assert not np.array_equal(actions(tmp_path / "7.h5")[:5], actions(tmp_path / "8.h5")[:5])


def test_there_are_enough_transitions_where_episodes_end_early(tmp_path):
    calls = []
    count = collect(
        CheapSource(), tmp_path / "data.h5", 100, progress=lambda *call: calls.append(call)
    )
    data = open_dataset(tmp_path / "data.h5")
    assert count == data.transitions >= 100
    assert data.episodes > 10
    assert calls[-1] == (100, 100)
    assert not (tmp_path / "data.h5.parts").exists()


def test_appending_with_the_same_seed_goes_on(tmp_path):
    whole, grown = tmp_path / "whole.h5", tmp_path / "grown.h5"
    collect(CheapSource(), whole, 100, seed=3)
    collect(CheapSource(), grown, 40, seed=3)
    collect(CheapSource(), grown, 50, seed=3, append=True, command="the second")
    shared = len(actions(grown))
    np.testing.assert_array_equal(actions(whole)[:shared], actions(grown)[: len(actions(whole))])
    assert [run["command"] for run in read_about(grown).runs] == ["", "the second"]


def test_a_recording_that_was_stopped_goes_on_where_it_was(tmp_path):
    path, whole = tmp_path / "data.h5", tmp_path / "whole.h5"
    with pytest.raises(OSError, match=r"6 finished episodes are kept in .*parts, the same command"):
        collect(CheapSource(fails_at=6), path, 100, seed=3)
    assert not path.exists()
    collecting._recorders.clear()
    recorded = []
    honest = collecting._record
    collecting._record = lambda *a: recorded.append(a[2]) or honest(*a)
    try:
        collect(CheapSource(), path, 100, seed=3)
    finally:
        collecting._record = honest
    assert min(recorded) == 6
    collect(CheapSource(), whole, 100, seed=3)
    np.testing.assert_array_equal(actions(path), actions(whole))


def test_a_disk_too_full_for_the_file_is_named_and_episodes_stay(tmp_path, monkeypatch):
    path, none = tmp_path / "data.h5", type("Usage", (), {"free": 1000})
    with monkeypatch.context() as full:
        full.setattr(collecting.shutil, "disk_usage", lambda folder: none)
        with pytest.raises(OSError, match=r"1000 bytes are free.*finished episodes are kept"):
            collect(CheapSource(), path, 50, seed=3)
    assert not path.exists()
    collect(CheapSource(fails_at=0), path, 50, seed=3)
    assert open_dataset(path).transitions >= 50


def test_what_another_command_left_is_not_mixed_in(tmp_path):
    path = tmp_path / "data.h5"
    with pytest.raises(OSError, match="No space left"):
        collect(CheapSource(fails_at=2), path, 100, seed=3)
    for other in ({"seed": 4}, {"seed": 3, "source": CheapSource(episode_steps=9)}):
        with pytest.raises(InvalidDataset, match=r"another recording \(seed 3\), expected the"):
            collect(**{"source": CheapSource(), "path": path, "transitions": 100, **other})


def test_provenance_tells_command_seed_versions_and_the_share_of_scripts(tmp_path):
    collect(CheapSource(), tmp_path / "data.h5", 20, seed=5, command="jepa-robot collect")
    run = read_about(tmp_path / "data.h5").runs[0]
    assert (run["command"], run["seed"], run["scripted"]) == ("jepa-robot collect", 5, 1.0)
    assert run["versions"]["numpy"] == np.__version__
    json.dumps(run)


def test_an_existing_file_is_not_written_into(tmp_path):
    (tmp_path / "data.h5").write_text("mine")
    with pytest.raises(FileExistsError, match="expected the name of a new file, or --append"):
        collect(CheapSource(), tmp_path / "data.h5", 20)
    assert (tmp_path / "data.h5").read_text() == "mine"


def test_nothing_is_appended_to_data_of_another_task(tmp_path):
    collect(CheapSource(), tmp_path / "data.h5", 20)
    with pytest.raises(InvalidDataset, match="task is 'count', expected 'other'"):
        collect(CheapSource(task="other"), tmp_path / "data.h5", 20, append=True)


def test_nothing_is_appended_to_data_of_another_robot(contract, tmp_path):
    collect(ArmSource(contract), tmp_path / "data.h5", transitions=Reach.recorded_steps)
    slower = dataclasses.replace(contract, rates=dataclasses.replace(contract.rates, image=10))
    with pytest.raises(InvalidDataset, match=r"time_step is 0\.05 in the data, 0\.1 on the robot"):
        collect(ArmSource(slower), tmp_path / "data.h5", transitions=25, append=True)


def test_episodes_stay_in_the_workspace_and_cover_it(contract, data):
    lower, upper = contract.workspace
    places = data.columns["hand_position"]
    assert (places > np.array(lower) - 0.03).all()
    assert (places < np.array(upper) + 0.03).all()
    assert (np.ptp(places, axis=0) > 0.9 * np.subtract(upper, lower)).all()


def test_actions_are_bounded_and_smooth():
    rng = np.random.default_rng(0)
    actions = np.stack([explore(rng, 25, 3) for _ in range(300)])
    assert np.abs(actions).max() <= 1
    assert np.corrcoef(actions[:, 1:].ravel(), actions[:, :-1].ravel())[0, 1] > 0.6


@pytest.mark.parametrize(
    ("field", "value"), [("transitions", 0), ("processes", -1), ("seed", -3), ("seed", 0.5)]
)
def test_a_bad_number_is_named(tmp_path, field, value):
    arguments = {"transitions": 25, "seed": 0, "processes": 1, field: value}
    with pytest.raises(ValueError, match=f"{field} is {value}"):
        collect(CheapSource(), tmp_path / "data.h5", **arguments)
    assert not list(tmp_path.iterdir())


def test_practice_is_what_the_policy_does_for_the_goal_and_noise(contract, tmp_path, monkeypatch):
    """The tiny policy is tanh((goal - latent) w): undone, what is left is the goal's, all along."""
    model = str(tiny_bundle.build(tmp_path / "tiny", contract))
    source, bundle = ArmSource(contract, steps=12, model=model), Bundle(model)

    def goals(name):
        """``[episodes, steps, A]``: goal w, and noise."""
        collecting._recorders.clear()
        collect(source, tmp_path / name, transitions=36, seed=1)
        data = open_dataset(tmp_path / name)
        assert not data.columns["scripted"].any()
        rows = data.windows(1)
        state = bundle.session("encoder")(
            images=data.images(rows), proprioception=data.proprioception(rows).astype(np.float32)
        )
        nowhere = np.zeros((len(rows), bundle.latent_size), np.float32)
        alone = bundle.session("policy")(state=state, goal_latent=nowhere)
        acted = np.clip(data.columns["action"][rows], -0.999, 0.999)
        return (np.arctanh(acted) - np.arctanh(alone)).reshape(3, 12, -1)

    assert goals("noisy.h5").std(axis=1).max() > 0.05
    monkeypatch.setattr("jepa_robot_sim.exploration.PRACTICE_NOISE", 0.0)
    plain = goals("plain.h5")
    assert plain.std(axis=1).max() < 1e-3
    assert plain.mean(axis=1).std(axis=0).min() > 1e-3  # each episode has its own
    pictured = tiny_bundle.build(tmp_path / "pictured", contract, goal="")  # reads no positions
    source = ArmSource(contract, steps=12, model=str(pictured))
    assert goals("pictured.h5").std(axis=1).max() < 1e-3
    with pytest.raises(InvalidBundle, match="does not fit robot iiwa"):
        ArmSource(load_contract("iiwa"), model=model).open()
