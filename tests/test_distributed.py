"""Mode-2 spread over processes: the same plans, and answers that are checked."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from jepa_robot.models import Bundle
from jepa_robot.modules.cost import Cost, CostConfig, InvalidConfiguration
from jepa_robot.modules.distributed import Distributed, check_distributable
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.nodes import messages, requests
from jepa_robot.nodes.messages import InvalidMessage
from jepa_robot.nodes.requests import Request, Requests
from jepa_robot.planning import PLANNERS, make_planner, read_planner

STAMP, VERSION = 5_000_000_007, 3
REQUEST = Request(VERSION, "abcd", 1)
WEIGHTS = (
    {"goal_latent": 1.0},
    {"goal_distance": 2.0, "effort": 0.1, "joint_limits": 1.0},
    {"goal_latent": 0.5, "goal_position": 1.0, "effort": 0.05, "cost_to_go": 3.0},
    {"goal_latent": 1.0, "speed": 1.0, "jerk": 0.3, "self_collision": 1.0, "workspace": 1.0},
)


@pytest.fixture(scope="module")
def bundle(tiny):
    return Bundle(tiny)


@pytest.fixture(scope="module")
def cost(bundle, contract):
    return Cost(bundle, contract)


@pytest.fixture(scope="module")
def states(bundle, contract):
    rows = 0.3 * np.random.default_rng(0).standard_normal((2, bundle.state_size))
    rows[:, :7] = contract.home
    return rows.astype(np.float32)


def configure(cost, bundle, weights):
    latent = [0.5] * bundle.latent_size
    goal = {"latent": latent, "position": [0.5, 0.1, 0.3], "encoded": latent}
    cost.configure(CostConfig.for_bundle({"weights": weights, "goal": goal}, bundle))


def over_the_wire(bundle, cost, told=None):
    """What the three nodes do, messages included, without ROS between them."""

    def ask(states, actions):
        sent = requests.candidates_message(states, actions, STAMP, bundle, REQUEST)
        states, actions = requests.read_candidates(sent, bundle)
        rollouts = WorldModel(bundle).rollout(states, actions)
        passed_on = requests.rollouts_message(states, rollouts, actions, sent.header)
        request, starts, states, actions = requests.read_rollouts(passed_on, bundle)
        answer = requests.costs_message(cost.steps(states, actions, starts), passed_on.header)
        assert request == requests.read_request(answer, "candidate_costs", bundle) == REQUEST
        assert messages.from_time(answer.header.stamp) == STAMP
        if told is not None:
            told.append(answer.height)
        return messages.read_tensor(answer, "candidate_costs", answer.width, None)

    return ask


def problems(bundle, cost, states, step_weights, told=None):
    known = (bundle, WorldModel(bundle), cost, states, None, step_weights)
    return Imagined(*known), Distributed(over_the_wire(bundle, cost, told), *known)


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: "+".join(weights))
@pytest.mark.parametrize(("count", "horizon"), [(1, 1), (7, 5), (256, 3)])
def test_candidates_cost_the_same_elsewhere(bundle, cost, states, weights, count, horizon):
    configure(cost, bundle, weights)
    step_weights = np.linspace(0.5, 3, horizon, dtype=np.float32)
    shape = (len(states), count, horizon, bundle.action_size)
    actions = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    here, elsewhere = problems(bundle, cost, states, step_weights)
    expected = here.costs(actions)
    assert np.ptp(expected) > 1e-3 or count == 1
    np.testing.assert_allclose(elsewhere.costs(actions), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [n for n, kind in PLANNERS.items() if not kind.needs_gradients])
def test_plans_are_the_same_elsewhere(bundle, cost, states, name):
    configure(cost, bundle, WEIGHTS[2])
    section, told = {"name": name, "horizon": 4, "candidates": 64}, []
    here, elsewhere = problems(bundle, cost, states, np.ones(4, np.float32), told)
    one, other = (make_planner(*read_planner(section), bundle.action_size) for _ in range(2))
    for _ in range(3):
        expected, plan = one.plan(here), other.plan(elsewhere)
        np.testing.assert_allclose(plan.actions, expected.actions, atol=1e-4)
        np.testing.assert_allclose(plan.cost, expected.cost, rtol=1e-4)
    assert len(told) >= 3


def test_without_an_answer_the_plan_is_made_here_to_the_bit(bundle, cost, states):
    configure(cost, bundle, WEIGHTS[1])
    known = (bundle, WorldModel(bundle), cost, states, None, np.ones(4, np.float32))
    section = read_planner({"horizon": 4, "candidates": 64})
    plans = [
        make_planner(*section, bundle.action_size).plan(problem)
        for problem in (Imagined(*known), Distributed(lambda *_: None, *known))
    ]
    assert np.array_equal(plans[0].actions, plans[1].actions)


@pytest.mark.parametrize("name", [n for n, kind in PLANNERS.items() if kind.needs_gradients])
def test_planners_that_need_gradients_are_refused_by_name(name):
    expected = rf"planner.name is '{name}', which needs gradients: expected one of .*'cem'"
    with pytest.raises(InvalidConfiguration, match=expected):
        check_distributable(name)


def test_what_is_no_candidate_is_refused_by_name(bundle):
    size, frame = bundle.state_size, f"{bundle.id}#{REQUEST}"
    for says, shape, frame_id, value in (
        ("candidates is of bundle 'other', expected 'tiny-", (4, size + 6), f"other#{REQUEST}", 0),
        ("candidates is of request '', expected version.asker.n", (4, size + 6), bundle.id, 0),
        ("is of request 'x.y.z'", (4, size + 6), f"{bundle.id}#x.y.z", 0),
        (f"candidates is 4x{size + 5} 32FC1", (4, size + 5), frame, 0),
        (f"expected nx{size + 3} 32FC1", (4, 2), frame, 0),
        ("candidates holds NaN", (4, size + 6), frame, np.nan),
    ):
        message = messages.tensor_message(np.full(shape, value), STAMP, frame_id)
        with pytest.raises(InvalidMessage, match=says):
            requests.read_candidates(message, bundle)
    rollouts = messages.tensor_message(np.zeros((4, size)), STAMP, frame)
    with pytest.raises(InvalidMessage, match=f"rollouts is 4x{size} .*expected nx{2 * size + 3}"):
        requests.read_rollouts(rollouts, bundle)


class Node:
    """As much of the actor's node as `Requests` uses: what it publishes is answered in a thread."""

    def __init__(self, bundle, answers):
        self.bundle, self.sent, self.refused = bundle, [], []
        self.diagnostics = SimpleNamespace(values={}, warn=lambda text: self.warned.append(text))
        self.warned = []
        self._answers = answers

    def publisher(self, *_):
        return SimpleNamespace(publish=self._publish)

    def subscribe(self, message_type, topic, callback, qos):
        self._callback = callback

    def hear(self, message):
        try:
            self._callback(message)
        except ValueError as error:
            self.refused.append(str(error))

    def _publish(self, message):
        self.sent.append(message)
        answers = list(self._answers(message))
        threading.Thread(target=lambda: [self.hear(answer) for answer in answers]).start()


def answered(bundle, answers, timeout=30.0, is_lockstep=False):
    node = Node(bundle, answers)
    node.is_lockstep = is_lockstep
    asked = Requests(node, timeout)
    asked.connect()
    asked.begin(STAMP, VERSION)
    return node, asked


def ask(asked, bundle, count=4):
    states = np.zeros((count, bundle.state_size), np.float32)
    return asked(states, np.zeros((count, 2, bundle.action_size), np.float32))


def reply(message, frame_id=None, shape=(4, 2), value=1.0):
    tensor = np.full(shape, value)
    return messages.tensor_message(tensor, STAMP, frame_id or message.header.frame_id)


def test_only_the_answer_to_the_request_is_taken(bundle):
    wrong = {
        "candidate_costs is of bundle 'other', expected 'tiny-": {"frame_id": "other#3.abcd.1"},
        "candidate_costs answers request 3.abcd.1, expected 3.": {
            "frame_id": f"{bundle.id}#{REQUEST}"
        },
        "candidate_costs is of request '', expected": {"frame_id": bundle.id},
        "candidate_costs is 3x2 32FC1 in 24 bytes, expected 4x2 32FC1": {"shape": (3, 2)},
        "candidate_costs holds NaN or infinity": {"value": np.nan},
    }

    def answers(message):
        for changes in wrong.values():
            yield reply(message, **{"value": 7.0, **changes})
        other = reply(message, value=7.0)
        other.encoding = "64FC1"
        yield other
        yield reply(message, value=2.0)

    node, asked = answered(bundle, answers)
    assert np.array_equal(ask(asked, bundle), np.full((4, 2), 2.0))
    for said, says in zip(node.refused, [*wrong, "64FC1"], strict=True):
        assert says in said
    values = node.diagnostics.values
    assert values["replies_refused"] == len(wrong) + 1
    assert values["requests_timed_out"] == values["plans_local"] == 0


def test_a_late_answer_is_counted_and_answers_nothing_else(bundle):
    kept = []

    def answers(message):
        kept.append(message)
        if len(kept) > 1:
            yield reply(kept[0], value=7.0)
            yield reply(message, value=2.0)

    node, asked = answered(bundle, answers, timeout=0.01)
    assert ask(asked, bundle) is None
    node.hear(reply(kept[0], value=7.0))
    asked.timeout, asked._pause_ends = 30.0, 0.0
    asked.begin(STAMP, VERSION)
    assert np.array_equal(ask(asked, bundle), np.full((4, 2), 2.0))
    assert node.diagnostics.values["replies_late"] == 2 and not node.refused


def test_on_simulated_time_a_request_that_was_lost_is_sent_again(bundle):
    came = []

    def answers(message):
        came.append(message.header.frame_id)
        if len(came) > 1:
            yield reply(message, value=2.0)

    node, asked = answered(bundle, answers, timeout=0.0, is_lockstep=True)
    assert np.array_equal(ask(asked, bundle), np.full((4, 2), 2.0))
    assert len(came) == 2 and came[0] == came[1]
    assert node.diagnostics.values["requests_timed_out"] == 0


def test_after_a_silence_nobody_is_asked_for_a_while_and_it_is_told(bundle, monkeypatch):
    monkeypatch.setattr(requests, "PAUSE", 1000.0)  # longer than any machine takes
    monkeypatch.setattr(requests, "LONGEST_PAUSE", 80_000.0)
    node, asked = answered(bundle, lambda message: (), timeout=0.01)
    pauses = []
    for count in range(1, 10):
        asked.begin(STAMP, VERSION)
        assert ask(asked, bundle) is None and ask(asked, bundle) is None
        asked.end()
        assert len(node.sent) == node.diagnostics.values["requests_timed_out"] == count
        assert "were not answered within 0.01 s" in node.warned[-1]
        assert node.diagnostics.values["plans_local"] == count
        pauses.append(asked._pause)
        asked._pause_ends = 0.0
    assert pauses == [2e3, 4e3, 8e3, 16e3, 32e3, 64e3, 8e4, 8e4, 8e4]


@pytest.mark.parametrize("ends", ["cancel", "close"])
def test_nobody_waits_for_an_answer_that_nobody_needs(bundle, ends):
    node, asked = answered(bundle, lambda message: (), timeout=3600.0)
    given = []
    thread = threading.Thread(target=lambda: given.append(ask(asked, bundle)), daemon=True)
    thread.start()
    while not node.sent:
        pass
    getattr(asked, ends)()
    thread.join(30)
    assert given == [None]
    assert ask(asked, bundle) is None and len(node.sent) == 1  # nor is anybody asked
    assert node.diagnostics.values["requests_timed_out"] == 0
