"""A task is carried out: subgoals, progress, remedies, an end with a reason."""

import pytest

from jepa_robot.modules.execution import CANCELLED, FAILED, PAUSED, RUNNING, SUCCEEDED, Execution
from jepa_robot.modules.tasks import load_task

STEP = 50_000_000  # ns
TASK = """
name: places
success: {within: 0.03, hold: 0.2}
patience: {seconds: 1, least: 0.01, remedies: [replan, planner, later], planner: {name: icem}}
ORDER
subgoals:
  - {name: near, goal: {position: [0.1, 0, 0]}}
  - {name: far, goal: {position: [1.0, 0, 0]}}
  - {name: last, goal: {position: [0.5, 0, 0]}, after: [near, far]}
"""


class Run:
    """An execution, and a thing on a line that is observed."""

    def __init__(self, text=TASK, order="given", done=()):
        self.execution = Execution(load_task(text.replace("ORDER", f"order: {order}")), done)
        self.place, self.stamp = 0.0, STEP

    def see(self, place, steps=1, is_held=False):
        """Observe a place for some steps; whether what is in force changed in any."""
        changed = False
        for _ in range(steps):
            self.stamp += STEP
            changed |= self.execution.observe(
                self.stamp, lambda task: abs(task.goal_position[0] - place), is_held
            )
        return changed


def test_subgoals_follow_each_other_and_the_end_is_off():
    run = Run()
    for name, place in (("near", 0.1), ("far", 1.0), ("last", 0.5)):
        assert run.execution.subgoal == name and run.execution.in_force.mode == 2
        assert not run.see(place, 3)  # it has to stay there
        assert run.see(place, 3)
    assert run.execution.state == SUCCEEDED and run.execution.in_force.mode == 0
    assert run.execution.report()["done"] == ["near", "far", "last"]
    assert not run.see(0.0)


def test_who_only_passes_by_is_not_there():
    run = Run()
    for _ in range(5):
        assert not run.see(0.1, 2) and not run.see(0.2, 1)
    assert run.execution.subgoal == "near"


def test_the_nearest_is_first_but_not_before_what_it_needs():
    run = Run(order="nearest")
    assert run.see(0.6) and run.execution.subgoal == "far"
    run.see(1.0, 8)
    assert run.execution.subgoal == "near"
    run.see(0.1, 8)
    assert run.execution.subgoal == "last"


def test_remedies_come_one_after_the_other_and_then_it_fails():
    run = Run()
    seed, planner = run.execution.in_force.seed, run.execution.in_force.planner
    assert not run.see(0.5, 20) and run.see(0.5, 2)
    assert run.execution.in_force.seed == seed + 1
    assert run.see(0.5, 21) and run.execution.in_force.planner == {"name": "icem"} != planner
    assert run.see(0.5, 21) and run.execution.subgoal == "far"  # near comes later
    assert run.execution.report()["tried"] == []
    run.see(1.0, 8)
    assert run.execution.subgoal == "near"
    assert run.see(0.5, 80)
    assert run.execution.state == FAILED and run.execution.in_force.mode == 0
    assert run.execution.reason == (
        "near made no progress for 1 s, at a distance of 0.4, after replan, planner"
    )


def test_what_was_put_off_comes_after_all_others():
    parts = "".join(f"\n  - {{name: p{n}, goal: {{position: [{n}, 0, 0]}}}}" for n in range(3))
    text = "name: it\nsuccess: {within: 0.1}\npatience: {seconds: 1, remedies: [later]}\nsubgoals:"
    run = Run(text + parts)
    order = [run.execution.subgoal]
    for place in (9.0, 1.0, 2.0, 0.0):
        run.see(place, 25 if place == 9.0 else 1)
        order.append(run.execution.subgoal)
    assert order == ["p0", "p1", "p2", "p0", "p0"] and run.execution.state == SUCCEEDED


def test_progress_needs_no_remedy():
    run = Run()
    assert not any(run.see(0.9 - 0.01 * step, 5) for step in range(60))


def test_a_timeout_fails_with_its_reason():
    run = Run("name: it\ntimeout: 1\nsuccess: {within: 0.01}\ngoal: {position: [0.1, 0, 0]}")
    assert not run.see(1.0, 20) and run.see(1.0, 2)
    assert run.execution.reason == "it was not done within 1 s, at a distance of 0.9"


def test_no_time_passes_while_the_arm_is_held_or_nothing_is_seen():
    run = Run()
    assert not run.see(0.5, 200, is_held=True)
    run.stamp += 60 * 20 * STEP
    assert not run.see(0.5)


def test_pause_resume_cancel():
    run = Run()
    assert run.execution.pause() and not run.execution.pause()
    assert run.execution.state == PAUSED and run.execution.in_force.mode == 0
    assert not run.see(0.1, 100)
    assert run.execution.resume() and run.execution.state == RUNNING
    assert run.execution.in_force.mode == 2
    assert run.execution.cancel() and run.execution.state == CANCELLED
    assert not run.execution.cancel() and not run.execution.resume()


def test_another_mode_starts_nothing_that_is_paused_or_over():
    run = Run()
    run.execution.pause()
    other = load_task(TASK.replace("ORDER", "mode: 1"))
    run.execution.change(other)
    assert run.execution.state == PAUSED and run.execution.in_force.mode == 0
    run.execution.resume()
    assert run.execution.in_force.mode == 1
    for place in (0.1, 1.0, 0.5):
        run.see(place, 8)
    run.execution.change(other)
    assert run.execution.state == SUCCEEDED and run.execution.in_force.mode == 0


def test_what_was_done_before_is_not_done_again():
    run = Run(done=["near", "gone"])
    assert run.execution.subgoal == "far" and run.execution.done == ["near"]


def test_without_a_goal_or_a_success_it_just_goes_on():
    execution = Execution(load_task("reach"))
    for step in range(1, 100):
        assert not execution.observe(step * STEP, lambda task: None)
    assert execution.report()["distance"] is None and execution.state == RUNNING


@pytest.mark.parametrize("distance", [0.5, 0.0])
def test_a_task_without_success_never_ends(distance):
    execution = Execution(load_task("name: it\ngoal: {position: [0, 0, 0]}"))
    for step in range(1, 2000):
        assert not execution.observe(step * STEP, lambda task: distance)
    assert execution.report()["distance"] == distance
