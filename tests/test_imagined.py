"""Candidates in a bundle's fused graphs, by one thread or by several."""

import numpy as np
import pytest

from jepa_robot.models import LEAST_ROWS, Bundle
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.world_model import WorldModel

BUNDLE, HORIZON = "reach_panda", 3


def imagined(name, threads, contract, starts):
    bundle = Bundle(name, threads, "cpu")
    cost = Cost(bundle, contract)
    section = {
        "weights": {"goal_distance": 1.0, "effort": 0.1, "jerk": 0.5},
        "goal": {"position": [0.5, 0.1, 0.3]},
    }
    cost.configure(CostConfig.for_bundle(section, bundle))
    states = 0.3 * np.random.default_rng(0).standard_normal((starts, bundle.state_size))
    weights = np.linspace(1, 2, HORIZON, dtype=np.float32)
    known = (bundle, WorldModel(bundle), cost, states.astype(np.float32), None, weights)
    return Imagined(*known)


@pytest.mark.parametrize(
    ("starts", "count"), [(1, 5), (1, 2 * LEAST_ROWS), (1, 7 * LEAST_ROWS + 5), (3, LEAST_ROWS)]
)
def test_candidates_cost_the_same_by_any_number_of_threads(contract, starts, count):
    alone, shared = (imagined(BUNDLE, threads, contract, starts) for threads in (1, 3))
    size = Bundle(BUNDLE).action_size
    actions = np.random.default_rng(1).uniform(-1, 1, (starts, count, HORIZON, size))
    costs = alone.costs(actions)
    assert len(np.unique(costs)) == costs.size  # an order that is wrong would be seen
    np.testing.assert_allclose(shared.costs(actions), costs, rtol=1e-5)
    for mine, theirs in zip(shared.gradients(actions), alone.gradients(actions), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
