"""Two levels against one: a block is brought behind a wall, where the straight way ends at that.

Agents are those of `jepa-robot bench worldmodel --cell panda_table:push_around`. One level pursues
the goal, the same goals and the same agent; two levels find places on the way; and a script that
sees everything gives the lower level the places.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _report import Row
from _seeds import Results
from worldmodel import RUNS, TEST_SEED, Bench

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.training import Devices
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import Task, load_task
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.world import Frame

ROBOT, TASK = "panda_table", "push_around"
CELL = f"{ROBOT}:{TASK}"
GOALS, QUICK_GOALS = 100, 2
TRANSITIONS, QUICK_TRANSITIONS = 40_000, 1000
SAME = 0.005  # m by which a place that is asked for is the same
ONE, TWO, GIVEN = "one level", "two levels", "places given by the script"


class Levels:
    """Success of one level and of two."""

    def __init__(self, folder: Path, seeds: Sequence[int], is_quick: bool) -> None:
        self._seeds, self._is_quick = seeds, is_quick
        self._results = Results(folder)
        self._goals = QUICK_GOALS if is_quick else GOALS
        size = (QUICK_TRANSITIONS, 50) if is_quick else (TRANSITIONS, 0)
        runs = folder / "agents" if is_quick else RUNS
        self._bench = Bench(runs, seeds, self._goals, *size, Devices())

    def run(self) -> None:
        """Measure what was not yet."""
        for seed in self._seeds:
            bundle = self._bench.agent(CELL, seed)
            for mode in ("1", "2"):
                for levels in (TWO, ONE, GIVEN):
                    self._judge(f"mode {mode}, {levels}", mode, levels, seed, bundle)

    def _judge(self, policy: str, mode: str, levels: str, seed: int, bundle: Bundle) -> None:
        if self._results.has(CELL, policy, seed):
            return
        contract = load_contract(ROBOT)
        task = replace(load_task(TASK), levels=2 if levels == TWO else 1)
        judge, episodes = sample_episodes(contract, TASK, self._goals, TEST_SEED)
        kind = _Led if levels == GIVEN else InProcessRunner
        runner = kind(contract, bundle, task, judge, mode, "position")
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        made = bundle.manifest["results"]
        more = {
            "distances": [100 * distance for distance in result["distances"]],
            "decision_ms": result["decision_ms"]["median"],
            "mean_ms": result["decision_ms"]["mean"],
            "p99_ms": result["decision_ms"]["p99"],
        }
        if levels == TWO:
            more["upper_error"] = 100 * made["upper_error"]
            more["no_change"] = 100 * made["upper_error_if_nothing_changed"]
            more["readout_error"] = 100 * made["readout_error"]
        self._results.put(CELL, policy, seed, result["successes"], **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {
            "distances": ("distance", "cm"),
            "decision_ms": ("a decision", "ms"),
            "mean_ms": ("a decision, mean", "ms"),
            "p99_ms": ("a decision, 99 of 100 within", "ms"),
            "readout_error": ("readout error", "cm"),
            "upper_error": ("a place 1.6 s ahead is foretold with an error of", "cm"),
            "no_change": ("the same if nothing changed", "cm"),
        }
        return self._results.rows(figures)


class _Led(InProcessRunner):
    """The lower level alone, led from place to place by who sees everything."""

    def _decider(
        self, episode: Episode, images: list[np.ndarray], seed: int
    ) -> Callable[[Frame], np.ndarray]:
        task, last = replace(self._task, mode=int(self._mode)), np.full(3, np.inf)

        def decide(frame: Frame) -> np.ndarray:
            nonlocal last
            place = self.judge.next_place(frame.labels, episode)
            if np.linalg.norm(place - last) > SAME:
                last = place
                self._ask(task, place)
            return self._agent.act(frame.observation)

        self._agent.begin(self._agent.configurator.with_position(task, episode.goal))
        return decide

    def _ask(self, task: Task, place: np.ndarray) -> None:
        self._agent.configure(self._agent.configurator.with_position(task, place.tolist()))
