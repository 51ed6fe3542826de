"""A policy from demonstrations: what was shown, where it was shown, and nothing else."""

import dataclasses

import numpy as np
import pytest
import torch

from jepa_robot.dataset import open_dataset
from jepa_robot.dataset_checks import find_problems
from jepa_robot.learning.encoded import encode
from jepa_robot.learning.imitation import ImitationConfig, demonstrated_rows, imitate
from jepa_robot.learning.jepa import JEPAConfig, new_agent
from jepa_robot.learning.networks import AgentShape, Policy, Readout
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.collect import ArmSource, collect


def with_demonstrations(data, right, goal):
    """The same data, half of whose frames say what was right."""
    rows = len(data.columns["action"])
    shown = np.full((rows, 3), np.nan, np.float32)
    places = np.full((rows, 3), np.nan, np.float32)
    shown[::2], places[::2] = right(data.columns)[::2], goal
    columns = {**data.columns, "demonstrated": shown, "demonstrated_goal": places}
    return dataclasses.replace(data, columns=columns)


def test_the_policy_does_what_was_shown_and_nothing_else_is_touched(data):
    goal = np.array([0.5, 0.0, 0.3], np.float32)
    joints = data.columns["proprio"][:, :3]
    middle = joints.mean(axis=0)
    shown = with_demonstrations(data, lambda columns: np.sign(joints - middle), goal)
    assert len(demonstrated_rows(shown)) == len(np.flatnonzero(shown.rows % 2 == 0))
    agent = new_agent(data, JEPAConfig(), load_contract("panda")).eval()
    encoded = encode(agent, shown)
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    told = []
    config = ImitationConfig(iterations=400, batch=128)
    assert imitate(agent, encoded, config, lambda *done: told.append(done)) < 0.15
    trained = {name for name, value in agent.state_dict().items() if not value.equal(before[name])}
    assert {".".join(name.split(".")[:2]) for name in trained} == {"policy.network"}
    assert told[-1] == (400, 400)
    with torch.no_grad():
        place = agent.goal_encoder(torch.from_numpy(goal)[None])
        states = torch.from_numpy(encoded.states)
        does = agent.policy(states, place.expand(len(states), -1)).numpy()
    right = np.sign(joints[encoded.rows] - middle)
    assert (np.sign(does) == right).mean() > 0.9


def test_half_a_demonstration_is_a_problem_and_none_is_not(data):
    shown = with_demonstrations(data, lambda columns: columns["proprio"][:, :3], 0.5)
    assert not len(demonstrated_rows(data)) and not list(find_problems(shown))
    shown.columns["demonstrated"][int(shown.offsets[2]) + 4, 1] = np.inf
    problem = next(find_problems(shown))
    assert problem.episode == 2 and "demonstrated is not finite" in problem.text


def test_what_is_shown_is_recorded_with_its_goal(tmp_path):
    path = tmp_path / "shown.h5"
    collect(ArmSource(load_contract("panda_table"), "pick_and_place", steps=6), path, 72)
    data = open_dataset(path)
    rows = demonstrated_rows(data)
    assert 0.2 < len(rows) / data.transitions < 0.95
    shown, goals = (data.columns[name] for name in ("demonstrated", "demonstrated_goal"))
    assert (np.abs(shown[rows]) <= 1).all()
    assert np.abs(shown[rows] - data.columns["action"][rows]).mean() > 0.02  # noise was added
    np.testing.assert_array_equal(np.isfinite(goals).all(axis=1), np.isfinite(shown).all(axis=1))
    assert np.ptp(goals[rows], axis=0)[2] < 1e-6 and "demonstrated" not in data.labels
    for offset in data.offsets:
        assert np.isnan(shown[offset + 6]).all()


def test_relations_are_those_of_hand_object_and_goal():
    """Told apart to the centimetre: the same relations anywhere are the same inputs."""
    shape = AgentShape(1, (64, 64), 20, 3, 4, joints=7, relations=True)
    policy = Policy(shape, Readout(shape)).eval()
    seen = []
    policy.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    state, goal = torch.randn(1, 24), torch.randn(1, 4)
    moved = state.clone()
    moved[:, 14] += 0.01  # m: the hand's x
    with torch.no_grad():
        policy(torch.cat([state, moved]), torch.cat([goal, goal]))
        hand, here, there = state[:, 14:17], policy.readout(state[:, 20:]), policy.readout(goal)
    inputs = seen[0]
    assert inputs.shape[1] == 20 + 4 + 4 + 6 + 18
    for scale, reach in enumerate((0.1, 0.03, 0.01)):
        near = torch.tanh(torch.cat([hand - here, there - here], dim=1) / reach)
        columns = torch.cat(
            [inputs[:, 34 + 3 * scale :][:, :3], inputs[:, 43 + 3 * scale :][:, :3]], 1
        )
        torch.testing.assert_close(columns[:1], near)
    changed = (inputs[0, 34:] != inputs[1, 34:]).nonzero().flatten()
    assert set(changed.tolist()) <= {0, 3, 6}
    plain = dataclasses.replace(shape, relations=False)
    assert Policy(plain, Readout(plain)).network[0].in_features == 34


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"imitation\.batch is 0, expected a whole number"):
        ImitationConfig(batch=0)
    with pytest.raises(ValueError, match=r"imitation\.learning_rate is 2, expected"):
        ImitationConfig(learning_rate=2)
