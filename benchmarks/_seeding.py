"""How many iterations Mode-2 needs where the policy seeds it, and where it does not.

For pushing: to reach, a single iteration of as many samples is enough without seeds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from _report import Row
from _seeds import Results

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import load_contract

ROBOT, BUNDLE, TASK, CELL = "panda_push", "push_panda", "push", "seeding"
ITERATIONS = (1, 2, 5)  # the most without seeds is what others are compared with
CANDIDATES, SEEDED = 128, 112  # as the task has them
GOALS, QUICK_GOALS = 100, 2
TEST_SEED = 8000
MARGIN = 5  # points of success


class Seeding:
    """Success by iterations, with seeds and without."""

    def __init__(self, folder: Path, is_quick: bool) -> None:
        self._is_quick, self._results = is_quick, Results(folder)

    def run(self) -> None:
        """Measure what was not yet."""
        for count in ITERATIONS[:1] if self._is_quick else ITERATIONS:
            for name, seeds in (("seeded", SEEDED), ("not seeded", 0)):
                self._judge(f"{count} iteration(s), {name}", count, seeds)

    def _judge(self, policy: str, iterations: int, seeds: int) -> None:
        if self._results.has(CELL, policy, 0):
            return
        contract, task = load_contract(ROBOT), load_task(TASK)
        budget = {"candidates": CANDIDATES, "iterations": iterations, "seeds": seeds}
        task = replace(task, planner={**task.planner, **budget})
        goals = QUICK_GOALS if self._is_quick else GOALS
        judge, episodes = sample_episodes(contract, TASK, goals, TEST_SEED)
        runner = InProcessRunner(contract, Bundle(BUNDLE), task, judge, "2", "position")
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        more = {
            "distances": [100 * distance for distance in result["distances"]],
            "decision_ms": result["decision_ms"]["median"],
        }
        self._results.put(CELL, policy, 0, result["successes"], **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {"distances": ("distance", "cm"), "decision_ms": ("a decision", "ms")}
        reference = f"{ITERATIONS[-1]} iteration(s), not seeded"
        return self._results.rows(figures) + self._results.differences(reference, MARGIN)
