"""Planners: find optima, repeat to the bit, start warm, keep limits and deadlines."""

import itertools

import numpy as np
import pytest

from jepa_robot.planning import PLANNERS, make_planner, read_planner
from jepa_robot.planning.cem import CEM, CEMConfig
from jepa_robot.planning.mppi import smoothing
from jepa_robot.planning.noise import coloured
from jepa_robot.planning.tree_search import primitives
from tests.toy_problems import PointMass, Towards

SAMPLING = ("random_shooting", "cem", "icem", "mppi", "tree_search")
# Enough to get somewhere on the point mass; the share of the way from no action to the optimum.
ENOUGH = {
    "random_shooting": ({"candidates": 400, "iterations": 10}, 0.85),
    "cem": ({"candidates": 200, "iterations": 12}, 0.9),
    "icem": ({"candidates": 200, "iterations": 12}, 0.9),
    "mppi": ({"candidates": 200, "iterations": 12}, 0.9),
    "gradient": ({"iterations": 60}, 0.99),
    "cem_gradient": ({"iterations": 6, "descents": 5}, 0.95),
    "ilqr": ({"iterations": 5}, 0.999),
    "tree_search": ({"candidates": 200, "iterations": 10}, 0.7),
}


def planner(name, seed=0, channels=2, **settings):
    return make_planner(name, PLANNERS[name].Config(**settings), channels, seed)


def two_masses():
    return PointMass([[0, 0, 0, 0], [1, -1, 0, 0.5]], [0.8, -0.4])


@pytest.mark.parametrize("name", PLANNERS)
def test_every_planner_finds_its_way_from_several_starts(name):
    problem, (settings, share) = two_masses(), ENOUGH[name]
    best = planner("gradient", horizon=6, iterations=600, step=0.05).plan(problem).cost
    nothing = problem.costs(np.zeros((2, 1, 6, 2), np.float32))[:, 0]
    plan = planner(name, horizon=6, answer="best", **settings).plan(problem)
    assert plan.actions.shape == (2, 6, 2) and plan.actions.dtype == np.float32
    assert plan.iterations == settings["iterations"]
    np.testing.assert_allclose(plan.cost, problem.costs(plan.actions[:, None])[:, 0], rtol=1e-4)
    assert ((nothing - plan.cost) > share * (nothing - best))[0]
    assert (plan.cost <= nothing).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_the_same_seed_repeats_to_the_bit(name):
    def plans(seed):
        made = planner(name, seed, horizon=4, candidates=20, **(few(name)))
        return [made.plan(two_masses()).actions for _ in range(3)]

    assert np.array_equal(plans(1), plans(1))
    if name not in ("ilqr", "tree_search"):  # these draw nothing
        assert not np.array_equal(plans(1), plans(2))


def few(name):
    return {"elites": 5} if name in ("cem", "icem", "cem_gradient") else {}


@pytest.mark.parametrize("name", PLANNERS)
def test_actions_keep_within_bounds_and_rate(name):
    before = np.full((2, 2), 0.4, np.float32)
    made = planner(name, horizon=5, candidates=30, rate=0.3, **few(name))
    far = PointMass([[0, 0, 0, 0], [9, -9, 0, 0]], [5, 5])
    seen = []
    costs = far.costs
    far.costs = lambda actions: seen.append(actions.copy()) or costs(actions)
    for _ in range(2):
        actions = made.plan(far, before=before).actions
        for tried in (*seen, actions[:, None]):
            assert np.abs(tried).max() <= 1
            steps = np.diff(np.insert(tried, 0, before[:, None], axis=2), axis=2)
            assert np.abs(steps).max() <= 0.3 + 1e-6
    assert np.abs(actions).max() > 0.9


@pytest.mark.parametrize("name", PLANNERS)
def test_a_warm_start_goes_on_from_the_shifted_plan(name):
    problem = two_masses()
    settings = {**ENOUGH[name][0], "horizon": 6, "answer": "best"}
    made = planner(name, **settings)
    first = made.plan(problem)
    kept = made.plan(problem, shift=2, deadline=0.0, clock=lambda: 1.0)
    assert kept.iterations == 0 and np.isinf(kept.cost).all()
    center = first.actions if name not in ("cem", "icem", "mppi", "cem_gradient") else None
    if center is not None:
        np.testing.assert_array_equal(kept.actions[:, :4], center[:, 2:])
        np.testing.assert_array_equal(kept.actions[:, 4], kept.actions[:, 5])
    again = planner(name, **settings)
    again.plan(problem)
    assert (again.plan(problem, shift=0).cost <= first.cost * 1.02 + 1e-3).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_no_iteration_starts_that_would_end_too_late(name):
    class Clock:
        now = 0.0

        def __call__(self):
            return self.now

    clock, problem = Clock(), two_masses()
    costs, gradients = problem.costs, problem.gradients

    def slow(actions):
        clock.now += 1.0
        return costs(actions)

    problem.costs = slow
    problem.gradients = lambda actions: (slow(actions), gradients(actions)[1])
    made = planner(name, horizon=3, candidates=10, iterations=50, **few(name))
    made.plan(problem, deadline=clock() + 1.0, clock=clock)  # now it knows how long they take
    for _ in range(3):
        late = clock() + 20.5
        plan = made.plan(problem, deadline=late, clock=clock)
        assert 3 <= plan.iterations < 50 and clock() <= late


def masses_that_take(times):
    """A problem whose costs take so many s, one after the other, and the clock of that."""
    now, problem = [0.0], two_masses()
    costs = problem.costs

    def slow(actions):
        now[0] += next(times)
        return costs(actions)

    problem.costs = slow
    return problem, lambda: now[0]


def test_a_slow_moment_does_not_stop_planning_for_ever():
    problem, clock = masses_that_take(iter([1.0, 500.0, *[1.0] * 100]))
    made = planner("cem", iterations=2)
    done = [made.plan(problem, deadline=clock() + 5.0, clock=clock).iterations for _ in range(9)]
    assert done[0] == 2 and 0 in done and done[-3:] == [2, 2, 2]


def test_interruptions_now_and_then_leave_every_plan_an_iteration():
    """A busy machine: one iteration of ten takes too long. The others would have been in time."""
    problem, clock = masses_that_take(itertools.cycle([1.0] * 9 + [50.0]))
    made = planner("cem", iterations=3)
    done = [made.plan(problem, deadline=clock() + 8.0, clock=clock).iterations for _ in range(60)]
    assert min(done) == 1


@pytest.mark.parametrize("name", PLANNERS)
def test_candidates_without_a_finite_cost_lose(name):
    problem = two_masses()
    costs = problem.costs
    problem.costs = lambda actions: np.where(actions[:, :, 0, 0] > 0.5, np.nan, costs(actions))
    plan = planner(name, horizon=4, candidates=40, **few(name)).plan(problem)
    assert np.isfinite(plan.cost).all() and np.isfinite(plan.actions).all()


@pytest.mark.parametrize("name", PLANNERS)
def test_no_finite_cost_at_all_is_an_error(name):
    problem = two_masses()
    problem.costs = lambda actions: np.full(actions.shape[:2], np.inf)
    problem.gradients = lambda actions: (problem.costs(actions), np.full_like(actions, np.nan))
    with pytest.raises(ValueError, match="no candidate has a finite cost"):
        planner(name, horizon=4, candidates=20, **few(name)).plan(problem)


@pytest.mark.parametrize("name", PLANNERS)
def test_one_candidate_is_enough(name):
    settings = {"elites": 1} if few(name) else {}
    plan = planner(name, horizon=1, candidates=1, **settings).plan(two_masses())
    assert plan.actions.shape == (2, 1, 2) and np.isfinite(plan.cost).all()


@pytest.mark.parametrize("name", [name for name in PLANNERS if PLANNERS[name].needs_gradients])
def test_gradients_that_are_not_there_are_named(name):
    problem = two_masses()
    problem.has_gradients = False
    with pytest.raises(ValueError, match="needs gradients, expected a bundle that has them"):
        planner(name).plan(problem)


@pytest.mark.parametrize("name", PLANNERS)
def test_what_the_policy_does_is_among_the_candidates(name):
    away = np.full((2, 5, 2), 0.9, np.float32)
    problem = two_masses()
    costs = problem.costs
    problem.has_policy = True
    problem.follow = lambda noise: np.clip(away[:, None] + noise, -1, 1)
    problem.costs = lambda actions: np.where(
        (np.abs(actions - away[:, None]) < 1e-6).all(axis=(2, 3)), -9.0, costs(actions)
    )
    problem.gradients = lambda actions: (problem.costs(actions), np.zeros_like(actions))
    settings = {"horizon": 5, "candidates": 20, "iterations": 1, "answer": "best", **few(name)}
    assert planner(name, seeds=4, **settings).plan(problem).cost.tolist() == [-9.0, -9.0]
    assert (planner(name, **settings).plan(problem).cost > 0).all()


def test_steps_count_as_much_as_their_weights_say():
    config = CEMConfig(horizon=3, step_weights=[1.0, 0.5, 0.0], final=2.0)
    assert config.weights().tolist() == [1.0, 0.5, 2.0]
    assert CEMConfig(horizon=2, final=1.0).weights().tolist() == [1.0, 2.0]


def test_no_candidate_without_a_finite_cost_is_an_elite():
    problem = Towards(0.0)

    def costs(actions):
        result = np.full(actions.shape[:2], -np.inf)
        result[0, 7], result[0, 9] = 1.0, 2.0
        problem.finite = actions[0, [7, 9]]
        return result

    problem.costs = costs
    config = CEMConfig(candidates=50, elites=24, iterations=1, smoothing=0.0)
    plan = CEM(config, 2).plan(problem)
    assert plan.cost.tolist() == [1.0]
    assert np.allclose(plan.actions[0], problem.finite.mean(axis=0))


def test_the_answer_may_be_the_best_sample():
    """Between two good ways there may be none."""
    problem = Towards(0.0)
    problem.costs = lambda actions: np.abs(np.abs(actions[:, :, 0, 0]) - 0.8)
    settings = {"horizon": 1, "iterations": 1, "elites": 100, "std": 1.0}
    best = CEM(CEMConfig(answer="best", **settings), 1).plan(problem)
    mean = CEM(CEMConfig(**settings), 1).plan(problem)
    assert abs(abs(best.actions[0, 0, 0]) - 0.8) < 0.05
    assert abs(mean.actions[0, 0, 0]) < 0.5


def test_icem_draws_ever_fewer_samples_and_keeps_elites():
    problem = two_masses()
    counts = []
    costs = problem.costs
    problem.costs = lambda actions: counts.append(actions.shape[1]) or costs(actions)
    made = planner("icem", candidates=100, elites=10, iterations=4, decay=2.0, kept=0.5)
    made.plan(problem)
    made.plan(problem)
    assert counts == [100, 55, 30, 25, 105, 55, 30, 25]


@pytest.mark.parametrize("exponent", [0.0, 2.0])
@pytest.mark.parametrize("horizon", [1, 2, 7, 8])
def test_coloured_noise_has_unit_variance_and_its_colour(exponent, horizon):
    noise = coloured(np.random.default_rng(0), (20_000, horizon, 2), exponent)
    np.testing.assert_allclose(noise.std(axis=0), 1, atol=0.03)
    if horizon > 2:
        neighbours = np.mean(noise[:, 1:] * noise[:, :-1])
        assert neighbours > 0.3 if exponent else abs(neighbours) < 0.02


def test_smoothing_keeps_parabolas_and_takes_noise_away():
    matrix, time = smoothing(9, 5), np.arange(9)
    np.testing.assert_allclose(matrix @ (time**2 - 3 * time), time**2 - 3 * time, atol=1e-4)
    noise = np.random.default_rng(0).standard_normal((9, 2000))
    assert (matrix @ noise)[2:-2].std() < 0.8
    np.testing.assert_array_equal(smoothing(4, 1), np.eye(4))


def test_primitives_are_all_combinations_or_one_channel_at_a_time():
    assert len(primitives(2, 5)) == 25 and len(primitives(7, 5)) == 36
    assert np.count_nonzero(primitives(7, 5), axis=1).max() == 1


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"elites": 300}, "planner.elites is 300, expected at most candidates, 256"),
        ({"horizon": 0}, "planner.horizon is 0, expected a whole number from 1"),
        ({"iterations": 2.5}, "planner.iterations is 2.5"),
        ({"correlation": 1.5}, "planner.correlation is 1.5, expected 0 to 0.999"),
        ({"seeds": 257}, "planner.seeds is 257, expected a whole number from 0 to 256"),
        ({"answer": "worst"}, "planner.answer is 'worst', expected one of"),
        ({"rate": 0}, "planner.rate is 0, expected 0.001 to 2"),
        ({"step_weights": [1, 2]}, r"planner.step_weights is \(1, 2\), expected 5 numbers"),
        ({"name": "magic"}, "planner.name is 'magic', expected one of"),
        ({"window": 5}, "planner.window is unknown to cem, expected one of"),
        ({"name": "mppi", "window": 4}, "planner.window is 4, expected an odd number"),
        ({"name": "mppi", "temperature": 0}, "planner.temperature is 0, expected 1e-06"),
        ({"name": "icem", "kept": 2}, "planner.kept is 2, expected 0 to 1"),
        ({"name": "gradient", "step": 3}, "planner.step is 3, expected 1e-06 to 2"),
        ({"name": "ilqr", "damping": 0}, "planner.damping is 0"),
        ({"name": "tree_search", "levels": 1}, "planner.levels is 1, expected a whole number"),
    ],
)
def test_settings_out_of_range_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        read_planner(settings)
