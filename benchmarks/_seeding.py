"""How many iterations Mode-2 needs where the policy seeds it, and where it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from _report import Row
from _seeds import Results

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.models import Bundle
from jepa_robot.modules.configurator import load_task
from jepa_robot.robot.contract import load_contract

CELLS = {  # robot, bundle, kind of goal, and iterations: the most is what others are compared with
    "reach": ("panda", "reach_panda", "image", (1, 2, 3, 5)),
    "push": ("panda_push", "push_panda", "position", (1, 2, 5, 10)),
}
CANDIDATES, SEEDED = 128, 112  # as push has them
GOALS, QUICK_GOALS = 100, 2
TEST_SEED = 8000
MARGIN = 5  # points of success


class Seeding:
    """Success by iterations, with seeds and without."""

    def __init__(self, folder: Path, is_quick: bool) -> None:
        self._is_quick, self._results = is_quick, Results(folder)

    def run(self) -> None:
        """Measure what was not yet."""
        for task, (_, _, _, iterations) in CELLS.items():
            for count in iterations[:1] if self._is_quick else iterations:
                for name, seeds in (("seeded", SEEDED), ("not seeded", 0)):
                    self._judge(task, f"{count} iteration(s), {name}", count, seeds)

    def _judge(self, name: str, policy: str, iterations: int, seeds: int) -> None:
        cell = f"planning {name}"
        if self._results.has(cell, policy, 0):
            return
        robot, bundle, goal, _ = CELLS[name]
        contract, task = load_contract(robot), load_task(name)
        budget = {"candidates": CANDIDATES, "iterations": iterations, "seeds": seeds}
        task = replace(task, planner={**task.planner, **budget})
        goals = QUICK_GOALS if self._is_quick else GOALS
        judge, episodes = sample_episodes(contract, name, goals, TEST_SEED)
        runner = InProcessRunner(contract, Bundle(bundle), task, judge, "2", goal)
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        self._results.put(
            cell,
            policy,
            0,
            result["successes"],
            distances=[100 * distance for distance in result["distances"]],
            decision_ms=result["decision_ms"]["median"],
        )

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {"distances": ("distance", "cm"), "decision_ms": ("a decision", "ms")}
        rows = self._results.rows(figures)
        for name, (_, _, _, iterations) in CELLS.items():
            reference = f"{iterations[-1]} iteration(s), not seeded"
            differences = self._results.differences(reference, MARGIN)
            rows += [row for row in differences if row.metric.startswith(f"planning {name}:")]
        return rows
