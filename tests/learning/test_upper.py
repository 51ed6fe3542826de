"""The upper level: it learns what comes of asking, and finds ways that asking straight does not."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jepa_robot.dataset import InvalidDataset
from jepa_robot.dataset_checks import SHOWN
from jepa_robot.learning.jepa import JEPAConfig
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.pipeline import TrainConfig
from jepa_robot.learning.upper import (
    UpperConfig,
    UpperLevel,
    check_asked_for,
    train_upper,
    upper_errors,
)
from jepa_robot.modules.guide import Guide, Levels
from jepa_robot.modules.tasks import Task

CONFIG = UpperConfig(stride=2, steps=2, horizon=6, latent=16, width=128, iterations=1500, batch=128)
HALF, THICK = 0.08, 0.03  # m, of a wall along x at y = 0, grown by the block
FURTHEST = 0.12  # m that a macro-action brings the block
ROOM = 0.2  # m from the middle to where reach ends


def pushed(block, asked):
    """Where a block comes to be that is pushed straight to a place, until the wall stops it."""
    way = asked - block
    end = block + way * min(1.0, FURTHEST / max(np.linalg.norm(way), 1e-9))
    side = np.sign(block[1])
    if side * block[1] >= THICK > side * end[1]:
        share = (block[1] - side * THICK) / (block[1] - end[1])
        stop = block + share * (end - block)
        if abs(stop[0]) < HALF:
            return stop
    return end


def recording(episodes, seed):
    """What was asked for at random, and what came of it, as `Encoded` has it."""
    rng, states, asked = np.random.default_rng(seed), [], []
    for _ in range(episodes):
        block = rng.uniform(-ROOM, ROOM, 2)
        while (np.abs(block) < (HALF, THICK)).all():
            block = rng.uniform(-ROOM, ROOM, 2)
        for _ in range(2):
            goal = block + rng.uniform(-0.15, 0.15, 2)
            end = pushed(block, goal)
            for place in (block, (block + end) / 2):
                states.append([*place, *rng.standard_normal(2)])
                asked.append(goal)
            block = end
        states.append([*block, *rng.standard_normal(2)])
        asked.append([np.nan, np.nan])
    states, asked = np.array(states, np.float32), np.array(asked, np.float32)
    lengths = np.full(episodes, 5)
    return SimpleNamespace(
        states=states,
        latents=states,
        data=SimpleNamespace(columns={SHOWN[1]: asked}),
        label=lambda name: asked,
        lived=Lived(states, np.zeros((len(states), 1), np.float32), lengths),
    )


def agent():
    torch.manual_seed(0)
    return SimpleNamespace(readout=lambda latent: latent[:, :2], upper=UpperLevel(4, 2, CONFIG))


@pytest.fixture(scope="module")
def learned():
    whole = agent()
    train_upper(whole, recording(3000, 0), CONFIG)
    return whole


def bundle_of(upper):
    def run(state, macros):
        with torch.no_grad():
            found = upper(torch.from_numpy(state), torch.from_numpy(macros))
        return dict(zip(("places", "asked"), (part.numpy() for part in found), strict=True))

    session = SimpleNamespace(inputs={"macros": ["N", CONFIG.horizon, 2]}, run=run)
    manifest = {"upper_stride": CONFIG.stride}
    return SimpleNamespace(session=lambda name: session, manifest=manifest)


def test_what_comes_of_asking_is_foretold_and_so_is_the_wall(learned):
    error, if_nothing_changed = upper_errors(learned, recording(300, 1), CONFIG)
    assert error < 0.25 * if_nothing_changed
    below = torch.tensor([[0.0, -0.06, 0.0, 0.0], [0.14, -0.06, 0.0, 0.0]])
    up = torch.tensor([0.0, 0.1]) / learned.upper.reach
    with torch.no_grad():
        places, asked = learned.upper(below, up.expand(2, 1, 2))
    assert asked[:, 0, 1].tolist() == pytest.approx([0.04, 0.04], abs=0.02)
    assert places[0, 1, 1] < 0 < places[1, 1, 1]  # the wall, and beside it


def test_subgoals_lead_around_where_the_goal_itself_does_not(learned):
    guide = Guide(bundle_of(learned.upper), [-ROOM] * 2, [ROOM] * 2)
    for goal, begin in (([0.0, 0.1], [0.0, -0.1]), ([-0.03, -0.08], [0.03, 0.1])):
        block = np.array(begin)
        for _ in range(20):
            block = pushed(block, np.array(goal))
        assert np.linalg.norm(block - goal) > 0.05
        block = np.array(begin)
        guide.reset(0)
        for _ in range(20):
            state = np.array([[*block, 0.0, 0.0]], np.float32)
            block = pushed(block, guide.next(state, np.array(goal)).subgoal)
        assert np.linalg.norm(block - goal) < 0.03


def test_a_subgoal_is_asked_for_once_a_macro_action_and_anew_when_time_is_set_back(learned):
    guide = Guide(bundle_of(learned.upper), [-ROOM] * 2, [ROOM] * 2)
    task = Task("around", levels=2, goal_position=(0.0, 0.1))
    levels, state = Levels(guide, task, step=10), np.array([[0, -0.1, 0, 0]], np.float32)
    asked = [levels.observe(stamp, state) for stamp in (1000, 1010, 1020, 1030, 1040, 500)]
    assert [one is not None for one in asked] == [True, False, True, False, True, True]
    assert asked[0].goal_position != task.goal_position and levels.task is task
    assert np.abs(asked[0].goal_position).max() <= ROOM + 1e-6


def test_nothing_that_was_asked_for_is_refused_before_anything_is_trained(data):
    config = TrainConfig(upper=UpperConfig(iterations=10))
    with pytest.raises(InvalidDataset, match="no columns demonstrated_goal and hand_position, exp"):
        check_asked_for(data, config.upper)
    asked = np.full((len(data.columns["action"]), 3), np.nan, np.float32)
    told = dataclasses.replace(data, columns={**data.columns, SHOWN[1]: asked})
    with pytest.raises(InvalidDataset, match="nothing was asked for during 4 steps"):
        check_asked_for(told, CONFIG)
    asked[:] = 0.5
    check_asked_for(told, CONFIG)
    asked[::3] = 0.6  # another place all the time
    with pytest.raises(InvalidDataset, match="nothing was asked for during 4 steps"):
        check_asked_for(told, CONFIG)
    with pytest.raises(ValueError, match=r"upper\.stride is 0, expected a whole number"):
        UpperConfig(stride=0)
    with pytest.raises(ValueError, match=r"upper\.where is 0, expected a number above 0"):
        UpperConfig(where=0)
    with pytest.raises(ValueError, match=r"labels is 0, and upper\.iterations 10: expected labels"):
        dataclasses.replace(config, labels=0, jepa=JEPAConfig(prevention_sees="residual"))
