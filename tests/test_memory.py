"""Short-term memory: what is kept, for how long, what is like it, what followed, what is drawn."""

import numpy as np
import pytest

from jepa_robot.modules import memory
from jepa_robot.modules.memory import FIELDS, Memory

SIZES = {"state": 3, "action": 2, "cost": 1, "prediction": 3, "surprise": 1}
STEP = 50_000_000  # ns


def make(capacity=100):
    return Memory(capacity, SIZES, 0.05)


def value(field, number):
    return np.full((1, SIZES[field]), number, np.float32)


def live(kept, numbers, surprise=None, without=()):
    """Steps at their number times the time step, whose fields are that number."""
    for number in numbers:
        for field in FIELDS:
            if field not in without:
                new = surprise if field == "surprise" and surprise is not None else number
                kept.store(STEP * number, field, value(field, new))


def test_fields_meet_by_their_stamp_in_whatever_order_they_come():
    kept = make()
    for field in reversed(FIELDS):
        for number in (1, 2, 3):
            kept.store(STEP * number, field, value(field, number))
    steps = kept.steps()
    assert steps["stamp"].tolist() == [STEP, 2 * STEP, 3 * STEP]
    assert steps["episode"].tolist() == [1, 1, 1]
    for field in FIELDS:
        assert (steps[field] == np.array([[1], [2], [3]])).all()
    assert kept.steps(since=2)["stamp"].tolist() == [3 * STEP]


def test_the_first_step_was_not_predicted_and_what_never_came_is_not_waited_for():
    kept = make()
    live(kept, [1], without=["surprise"])
    live(kept, [2], without=["cost"])
    assert len(kept) == 0
    live(kept, range(3, 3 + memory.WAITING))
    steps = kept.steps()
    assert np.isnan(steps["surprise"][0]) and steps["stamp"][:2].tolist() == [STEP, 3 * STEP]
    assert kept.incomplete == 1
    kept.store(2 * STEP, "cost", value("cost", 2))  # too late
    live(kept, range(3 + memory.WAITING, 6 + memory.WAITING))
    assert 2 * STEP not in kept.steps()["stamp"]


def test_episodes_end_where_one_begins_where_time_has_a_gap_and_where_it_jumps_back():
    kept = make()
    live(kept, [1, 2], without=["cost"])
    kept.begin_episode(3 * STEP)
    live(kept, [1, 2], without=FIELDS[:2] + FIELDS[3:])  # what comes late is of the episode before
    live(kept, [3, 4, 6, 7])
    live(kept, [-900, -899])
    assert kept.steps()["episode"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert kept.gaps == 2
    assert kept.follow(np.arange(8), 2).tolist() == [
        [n + 1, -1] if n % 2 == 0 else [-1, -1] for n in range(8)
    ]


def test_the_oldest_goes_first_and_nothing_follows_into_what_was_forgotten():
    kept = make(4)
    live(kept, range(6))
    steps = kept.steps()
    assert steps["state"][:, 0].tolist() == [2, 3, 4, 5]
    rows = kept.recall(value("state", 2), 1)[0][0]
    followed = kept.follow(rows, 4)[0]
    assert kept.at(followed[:3])["state"][:, 0].tolist() == [3, 4, 5] and followed[3] == -1


def test_what_was_surprising_stays_longer():
    kept = make(400)
    live(kept, range(200), surprise=1.0)
    live(kept, [200], surprise=50.0)
    live(kept, range(201, 650), surprise=1.0)
    numbers = kept.steps()["state"][:, 0]
    assert 200 in numbers and numbers.min() == 200 and np.sort(numbers)[1] == 251
    states = kept.at(np.arange(400))["state"][:, 0]
    rows = np.array([states.tolist().index(number) for number in (200, 300)])
    assert kept.follow(rows, 1)[0, 0] == -1  # what followed was forgotten
    assert states[kept.follow(rows, 1)[1, 0]] == 301
    live(kept, range(650, 2300), surprise=1.0)
    assert 200 not in kept.steps()["state"][:, 0]  # but not for ever


def test_what_was_recalled_stays_longer():
    kept = make(10)
    live(kept, range(10))
    rows, _ = kept.recall(value("state", 3), 1)
    assert kept.at(rows[0])["state"][0, 0] == 3
    live(kept, range(10, 16))
    assert kept.steps()["state"][:, 0].tolist() == [3, *range(7, 16)]


@pytest.mark.parametrize("count", [40, 3000])  # before and after there is an index
def test_the_nearest_are_found_as_by_looking_at_all(count):
    rng = np.random.default_rng(0)
    kept = Memory(2000, {**SIZES, "state": 9}, 0.05)
    spread = np.array([1, 10, 1, 1, 0.1, 1, 1, 1, 1e-9])  # the last tells nothing
    states = rng.standard_normal((count, 9)) * spread
    for number, state in enumerate(states):
        for field in FIELDS:
            kept.store(STEP * number, field, state[None] if field == "state" else value(field, 0))
    remembered, scale = kept.steps()["state"], states[: memory.MEASURED].std(axis=0)
    asked = rng.standard_normal((50, 9)) * spread
    rows, distances = kept.recall(asked, 10)
    assert rows.shape == distances.shape == (50, 10) and (np.diff(distances) >= 0).all()
    away = np.linalg.norm(((asked[:, None] - remembered) / scale)[..., :8], axis=2)
    found = np.linalg.norm(((asked[:, None] - kept.at(rows)["state"]) / scale)[..., :8], axis=2)
    assert (found < np.sort(away, axis=1)[:, [9]] * 1.001).mean() > 0.95
    np.testing.assert_allclose(distances, found, rtol=0.01, atol=1e-2)


def test_of_nothing_nothing_is_recalled():
    rows, distances = make().recall(np.zeros((2, 3)), 5)
    assert rows.shape == distances.shape == (2, 0)


def test_drawing_prefers_what_it_says():
    kept, rng = make(1000), np.random.default_rng(0)
    for number in range(1000):
        if number == 900:
            kept.begin_episode(900 * STEP)
        live(kept, [number], surprise=float(number % 100 == 7))

    def drawn(kind):
        return kept.at(kept.sample(4000, kind, rng))

    assert abs(drawn("uniform")["state"].mean() - 499) < 20
    assert drawn("recency")["state"].mean() > 800
    assert drawn("surprise")["surprise"].mean() > 5 * drawn("uniform")["surprise"].mean()
    assert 0.45 < (drawn("episode")["episode"] == 2).mean() < 0.55
    for kind in memory.KINDS:
        rows = kept.sample(500, kind, rng)
        after = kept.follow(rows, 1)[:, 0]
        np.testing.assert_array_equal(kept.at(after)["state"], kept.at(rows)["state"] + 1)


def test_memory_says_what_it_takes_and_is_bounded():
    kept = make(10)
    live(kept, range(1000))
    assert len(kept) == 10 and kept.came == 1000
    assert kept.bytes_per_step == 4 * 10 + 33 + 4 * 3 + memory.LINKS


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Memory(0, SIZES, 0.05), "capacity is 0, expected at least 1"),
        (lambda: Memory(1, {"state": 1}, 0.05), r"sizes are of \['state'\], expected"),
        (lambda: make().store(0, "goal", np.zeros(1)), "field is 'goal', expected one of"),
        (lambda: make().store(0, "state", np.zeros(2)), "state has 2 numbers, expected 3"),
        (lambda: make().sample(1, "luck", np.random.default_rng(0)), "by 'luck', expected one of"),
        (lambda: make().sample(1, "uniform", np.random.default_rng(0)), "holds no step that is"),
    ],
)
def test_what_is_wrong_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_it_tells_how_it_was_so_long_ago():
    kept = make(capacity=20)
    assert not len(kept.at_ages(np.array([1.0])))
    live(kept, range(1, 41))  # the ring has turned over
    steps = kept.at(kept.at_ages(np.array([0.0, 0.5, 0.512, 60.0])))
    newest = kept.newest // STEP
    oldest = kept.steps()["stamp"].min() // STEP
    assert (steps["stamp"] // STEP).tolist() == [newest, newest - 10, newest - 10, oldest]
