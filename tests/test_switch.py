"""Mode auto: plans where the world surprises or policy and plan disagree, else reacts."""

import dataclasses

import numpy as np
import pytest

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import AUTO, Actor, ActorConfig
from jepa_robot.modules.cost import Cost, CostConfig, InvalidConfiguration
from jepa_robot.modules.switch import Switch, SwitchConfig
from jepa_robot.modules.tasks import load_task, task_text
from jepa_robot.modules.world_model import WorldModel


def seen(switch, disagreement, surprise=0.0, count=1):
    """Whether each of some observations was planned from, and acted on by plan."""
    told = []
    for _ in range(count):
        wanted = switch.wants_plan(surprise)
        if wanted:
            switch.compare(disagreement)
        told.append((wanted, switch.is_engaged))
    return told


def test_it_looks_now_and_then_while_policy_and_plan_agree():
    switch = Switch(SwitchConfig(disagreement=0.3, look=4))
    told = seen(switch, disagreement=0.1, count=8)
    assert [wanted for wanted, _ in told] == [True, False, False, False] * 2
    assert not any(engaged for _, engaged in told)
    assert (switch.plans, switch.decisions) == (2, 8)


def test_disagreement_engages_until_it_was_calm_for_a_while():
    switch = Switch(SwitchConfig(disagreement=0.3, calm=0.5, hold=2, look=0))
    assert seen(switch, 0.1, count=3) == [(False, False)] * 3  # nobody looks
    switch = Switch(SwitchConfig(disagreement=0.3, calm=0.5, hold=2, look=5))
    assert seen(switch, 0.4) == [(True, True)]
    assert seen(switch, 0.2, count=4) == [(True, True)] * 4  # below the threshold, and not calm
    assert seen(switch, 0.1) == [(True, True)]
    assert seen(switch, 0.2) == [(True, True)]  # calm begins anew
    assert seen(switch, 0.1, count=2) == [(True, True), (True, False)]
    assert seen(switch, 0.1, count=5) == [(False, False)] * 4 + [(True, False)]


def test_surprise_engages_at_once():
    switch = Switch(SwitchConfig(surprise=1.0, disagreement=0.0, hold=1, look=0))
    assert seen(switch, 0.0, surprise=0.9) == [(False, False)]
    assert seen(switch, 0.0, surprise=1.1) == [(True, True)]
    assert seen(switch, 0.0, surprise=0.9) == [(True, True)]
    assert seen(switch, 0.0, surprise=0.1) == [(True, False)]


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"magic": 1}, "auto.magic is unknown, expected one of"),
        ({"surprise": -1}, "auto.surprise is -1, expected a number from 0 to 1e"),
        ({"hold": 0.5}, "auto.hold is 0.5, expected a whole number from 0 to 10000"),
        ({"disagreement": "much"}, "auto.disagreement is 'much'"),
    ],
)
def test_thresholds_out_of_range_are_named(section, says):
    with pytest.raises(ValueError, match=says):
        SwitchConfig.from_section(section)


def test_a_task_may_be_in_mode_auto():
    task = load_task("{name: a, mode: auto, auto: {look: 7}}")
    assert task.mode == AUTO and task.auto == {"look": 7}
    assert load_task(task_text(task)) == task
    with pytest.raises(ValueError, match=r"auto\.magic is unknown"):
        load_task("{name: a, mode: auto, auto: {magic: 7}}")


@pytest.fixture
def make(tiny, contract):
    bundle = Bundle(tiny)

    def actor(mode=AUTO, **auto):
        goal = [0.3, -0.2, 0.1, 0.0, 0.2, 0.1]
        cost = Cost(bundle, contract)
        section = {"weights": {"goal_latent": 1.0}, "goal": {"latent": goal}}
        cost.configure(CostConfig.for_bundle(section, bundle))
        made = Actor(bundle, WorldModel(bundle), cost)
        section = {"mode": mode, "goal_latent": goal, "auto": auto}
        made.configure(ActorConfig.from_section(section, bundle.latent_size))
        return made

    return actor


def states(contract, count, size):
    rows = np.zeros((count, 1, size), np.float32)
    rows[:, :, :7] = contract.home
    return rows


def test_what_acts_is_the_policy_or_the_plan(make, contract):
    size = make()._bundle.state_size
    for threshold, acts in ((2.0, 1), (1e-6, 2)):
        actor, alone = make(disagreement=threshold, look=1), make(mode=acts)
        for state in states(contract, 4, size):
            assert np.array_equal(actor.act(state)[:1], alone.act(state)[:1])
        assert actor.planned == 1.0 and actor.switch.is_engaged == (acts == 2)


def test_a_state_that_was_not_foreseen_is_planned_from(make, contract):
    actor = make(surprise=0.01, disagreement=0.0, look=0)
    state = states(contract, 1, actor._bundle.state_size)[0]
    for _ in range(3):
        rows = actor.act(state)
        assert rows.shape == (1, 3) and not actor.switch.is_engaged
        state = actor._world_model.predict(state, rows)
    moved = state.copy()
    moved[:, 14:] += 1.0
    assert actor.act(moved).shape == (5, 3) and actor.switch.is_engaged
    assert actor.planned == 0.25


def test_mode_auto_needs_a_goal_for_the_policy():
    with pytest.raises(
        InvalidConfiguration, match="goal_latent is missing, expected one in mode 3"
    ):
        ActorConfig.from_section({"mode": AUTO}, 6)


def test_the_rate_limit_counts_from_what_was_done_last(make, contract):
    actor, last = make(mode=2), None
    planner = dataclasses.replace(actor.config.planner, rate=0.1)
    actor.configure(dataclasses.replace(actor.config, planner=planner))
    state = states(contract, 1, actor._bundle.state_size)[0]
    for turn in range(8):  # what is best changes its sign every other time
        state[:, 14:] = 5.0 if turn // 2 % 2 else -5.0
        action = actor.act(state)[0]
        if last is not None:
            assert np.abs(action - last).max() <= 0.1 + 1e-6
        last = action
