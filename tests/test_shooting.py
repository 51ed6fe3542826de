"""Shooting around a policy: near what it does, for the better, repeatably."""

import numpy as np
import pytest

from jepa_robot.planning.shooting import PolicyShooting, ShootingConfig


def follow(noise):
    """A policy that always acts 0.5."""
    return np.clip(0.5 + noise, -1, 1)


def towards(target):
    return lambda actions: ((actions - target) ** 2).sum(axis=(1, 2))


def test_it_does_better_than_the_policy_and_stays_near_it():
    costs = towards(0.7)
    plan = PolicyShooting(ShootingConfig(horizon=4, std=0.3), 2).plan(costs, follow)
    policy = follow(np.zeros((1, 4, 2), np.float32))
    assert plan.cost < costs(policy)[0]
    assert costs(plan.actions[None])[0] < costs(policy)[0]
    assert np.abs(plan.actions - 0.5).max() < 0.9


def test_without_room_for_improvement_it_does_what_the_policy_does():
    config = ShootingConfig(horizon=3, temperature=1e-6)
    plan = PolicyShooting(config, 2).plan(towards(0.5), follow)
    np.testing.assert_array_equal(plan.actions, np.full((3, 2), 0.5, np.float32))


def test_the_same_seed_repeats_to_the_bit_and_another_does_not():
    def plans(seed):
        planner = PolicyShooting(ShootingConfig(), 3, seed)
        return [planner.plan(towards(0.1), follow).actions for _ in range(2)]

    assert np.array_equal(plans(1), plans(1))
    assert not np.array_equal(plans(1), plans(2))
    assert not np.array_equal(*plans(1))


def test_candidates_without_a_finite_cost_lose():
    def evaluate(actions):
        costs = towards(0.9)(actions)
        costs[actions[:, 0, 0] > 0.5] = np.nan
        return costs

    plan = PolicyShooting(ShootingConfig(), 2).plan(evaluate, follow)
    assert plan.actions[0, 0] <= 0.5
    plan = PolicyShooting(ShootingConfig(), 2).plan(
        lambda a: np.where(np.arange(len(a)) == 0, 1.0, np.nan), follow
    )
    np.testing.assert_array_equal(plan.actions, np.full((20, 2), 0.5, np.float32))
    with pytest.raises(ValueError, match="no candidate has a finite cost"):
        PolicyShooting(ShootingConfig(), 2).plan(lambda a: np.full(len(a), np.inf), follow)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("candidates", 0, "a whole number from 1 to 100000"),
        ("elites", 65, "at most candidates, 64"),
        ("temperature", 0, "1e-06 to 1e"),
        ("final", -1, "0 to 1000"),
    ],
)
def test_a_bad_setting_is_named(field, value, expected):
    with pytest.raises(ValueError, match=rf"planner.{field} is {value}, expected {expected}"):
        ShootingConfig(**{field: value})
