"""The shipped bundle through the whole system: images in, joint commands out, goals reached."""

import json

import pytest

from jepa_robot.cli.demo import DEMOS, run_demo, run_scene_demo
from jepa_robot.cli.evaluate import run_evaluation

GOALS = 6


@pytest.mark.parametrize(
    ("mode", "goal", "composition"),
    [("2", "image", "processes"), ("1", "position", "single")],
)
def test_unseen_goals_are_reached_through_ros(domain, mode, goal, composition):
    result = run_evaluation(
        *("panda", "reach_panda", "reach", mode, goal, GOALS, 77, True, composition),
        progress=lambda done, total: None,
    )
    assert result["success_rate"] >= 5 / GOALS
    assert result["low"] < result["success_rate"] <= result["high"] <= 1
    assert len(result["distances"]) == GOALS
    json.dumps(result)


@pytest.mark.parametrize(("mode", "reached"), [("random", 0), ("hold", 0), ("oracle", GOALS)])
def test_baselines_bound_the_task(mode, reached):
    result = run_evaluation(
        *("panda", "reach_panda", "reach", mode, "image", GOALS, 77, False, ""),
        progress=lambda done, total: None,
    )
    assert result["success_rate"] == reached / GOALS


def test_the_demo_shows_a_table_and_pictures(domain, tmp_path, capsys):
    run_demo("panda", "reach_panda", goals=1, seed=0, gui=False, out=tmp_path)
    shown = capsys.readouterr().out
    assert "within 3 cm" in shown and "command_echo" in shown
    assert (tmp_path / "episode.png").stat().st_size > 10_000
    assert (tmp_path / "logs" / "actor.log").is_file()


def test_the_demo_of_pushing_shows_a_table_and_pictures(domain, tmp_path, capsys):
    robot, model, _ = DEMOS["push"]
    run_scene_demo("push", robot, model, goals=1, seed=0, gui=False, out=tmp_path)
    shown = capsys.readouterr().out
    assert "within 5 cm" in shown and "at any time" in shown
    assert (tmp_path / "episode.png").stat().st_size > 10_000
