"""CEM: finds optima, repeats to the bit, starts warm, keeps its deadline."""

import time

import numpy as np
import pytest

from jepa_robot.planning.cem import CEM, CEMConfig


def towards(target):
    return lambda actions: ((actions - target) ** 2).sum(axis=(1, 2))


def test_it_finds_the_optimum_of_a_quadratic():
    target = np.array([[0.5, -0.3], [0.1, 0.9], [-0.7, 0.0]], np.float32)
    plan = CEM(CEMConfig(horizon=3, iterations=12), 2).plan(towards(target))
    assert np.abs(plan.actions - target).max() < 0.1


def test_actions_stay_within_bounds_when_the_optimum_is_outside():
    plan = CEM(CEMConfig(iterations=8), 2).plan(towards(3.0))
    assert plan.actions.max() <= 1 and plan.actions.min() > 0.9


def test_the_same_seed_repeats_to_the_bit_and_another_does_not():
    def plans(seed):
        planner = CEM(CEMConfig(), 3, seed)
        return [planner.plan(towards(0.3)).actions for _ in range(3)]

    assert np.array_equal(plans(1), plans(1))
    assert not np.array_equal(plans(1), plans(2))


def test_a_warm_start_continues_the_shifted_plan():
    target = np.linspace(-0.8, 0.8, 6, dtype=np.float32)[:, None]
    config = CEMConfig(horizon=5, iterations=2, std=0.05, min_std=0.01, correlation=0.0)
    warm = CEM(config, 1)
    warm._mean = target[:5].copy()
    ahead = warm.plan(towards(target[1:]), shift=1)
    cold = CEM(config, 1).plan(towards(target[1:]), shift=1)
    assert ahead.cost < 0.2 * cold.cost


def test_a_deadline_ends_it_after_the_iteration_in_progress():
    seen = []

    def evaluate(actions):
        seen.append(len(actions))
        return (actions**2).sum(axis=(1, 2))

    plan = CEM(CEMConfig(iterations=50), 2).plan(evaluate, deadline=time.monotonic())
    assert plan.iterations == len(seen) == 1


def test_candidates_without_a_finite_cost_lose():
    def evaluate(actions):
        costs = ((actions - 0.5) ** 2).sum(axis=(1, 2))
        return np.where(actions[:, 0, 0] < 0, np.nan, costs)

    plan = CEM(CEMConfig(iterations=10), 1).plan(evaluate)
    assert np.abs(plan.actions - 0.5).max() < 0.15


def test_no_candidate_without_a_finite_cost_is_an_elite():
    config = CEMConfig(candidates=50, elites=24, iterations=1, smoothing=0.0)

    def evaluate(actions):
        costs = np.full(len(actions), -np.inf)
        costs[7], costs[9] = 1.0, 2.0
        evaluate.finite = actions[[7, 9]]
        return costs

    plan = CEM(config, 2).plan(evaluate)
    assert plan.cost == 1.0
    assert np.allclose(plan.actions, evaluate.finite.mean(axis=0))


def test_what_the_policy_does_is_among_the_first_candidates():
    config = CEMConfig(candidates=20, elites=1, horizon=3, iterations=1, seeds=4, smoothing=0.0)
    away, seen = np.full((3, 2), 0.9, np.float32), []

    def follow(noise):
        assert noise.shape == (4, 3, 2) and not noise[0].any() and noise[-1].any()
        return np.clip(away + noise, -1, 1)

    def evaluate(actions):
        seen.append(actions)
        return np.square(actions - away).sum(axis=(1, 2))

    plan = CEM(config, 2).plan(evaluate, follow=follow)
    np.testing.assert_array_equal(plan.actions, away)
    assert not np.allclose(CEM(config, 2).plan(evaluate).actions, away, atol=0.05)
    assert [len(actions) for actions in seen] == [20, 20]


def test_the_answer_may_be_the_best_sample():
    """Between two good ways there may be none."""

    def costs(actions):
        return np.abs(np.abs(actions[:, 0, 0]) - 0.8)

    settings = {"horizon": 1, "iterations": 1, "elites": 100, "std": 1.0}
    best = CEM(CEMConfig(answer="best", **settings), 1).plan(costs)
    mean = CEM(CEMConfig(**settings), 1).plan(costs)
    assert abs(abs(best.actions[0, 0]) - 0.8) < 0.05
    assert abs(mean.actions[0, 0]) < 0.5


def test_no_finite_cost_at_all_is_an_error():
    with pytest.raises(ValueError, match="finite cost"):
        CEM(CEMConfig(), 1).plan(lambda actions: np.full(len(actions), np.nan))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"elites": 300}, "planner.elites is 300, expected at most candidates, 256"),
        ({"horizon": 0}, "planner.horizon is 0, expected a whole number from 1"),
        ({"iterations": 2.5}, "planner.iterations is 2.5"),
        ({"correlation": 1.5}, "planner.correlation is 1.5, expected 0 to 0.999"),
        ({"seeds": 256}, "planner.seeds is 256, expected a whole number from 0 to 255"),
        ({"answer": "worst"}, "planner.answer is 'worst', expected one of"),
    ],
)
def test_settings_out_of_range_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        CEMConfig(**settings)
