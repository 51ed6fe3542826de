"""Learning while the agent lives: memory, critic, policy, and how it adapts to a changed world.

`jepa-robot bench learning` fills a memory with a million states of a push bundle's size, and
measures what it takes and how long looking up takes, beside looking at all of them. It plans with
and without the critic, over short and long horizons, and with critics of several origins, and
compares what they foresee with what came; plans with and without seeds of the policy; compiles
Mode-2 into a policy that knew nothing, round by round; and swaps bundles while the arm moves. Then
it changes the world under the agent, lets it live there for ten minutes, learn from that, and
compares it with one that does not learn, on the same goals. That takes hours; what is done is kept
under runs/learning and not done again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from _compiling import Compiling
from _foresight import Foresight
from _lives import TASK, live
from _report import Report, Row
from _seeding import Seeding
from _seeds import Results
from _swaps import measure_swaps

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.export import write_version
from jepa_robot.learning.learner import LearnerConfig, learn
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.modules.memory import FIELDS, KINDS, Memory
from jepa_robot.modules.memory_files import MemoryFiles, read_memory
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.scenes import Variation

BUNDLE = "push_panda"
STEPS, QUICK_STEPS = 1_000_000, 20_000
REPLACED = 500  # steps that come when memory is full
ASKED = 300  # questions, each alone
NEAREST = 10
EPISODE = 50  # steps
CAUSES = 10  # of what a state is a smooth function of: two of a block, the rest of an arm
SECOND = 20  # steps of a second, that are written at once
RUNS = Path("runs/learning")
ROBOT = "panda_push"
TEST_SEED, LIFE_SEED = 8000, 9000  # of goals: to judge by, and to live with
GOALS, QUICK_GOALS = 50, 2
ROUNDS, QUICK_ROUNDS = 3, 1  # of living and learning
LIVED, QUICK_LIVED = 80, 12  # episodes of a round: three are ten minutes of the robot's time
ITERATIONS, QUICK_ITERATIONS = 1500, 20  # of a round's learning
ELBOW = 3  # of the joints
NOISE = 0.6  # of what is added to an agent that practises
UNIT = 0.1  # m
DEGREE = np.pi / 180


class Part(str, Enum):
    """What is measured."""

    memory = "memory"
    critic = "critic"
    seeding = "seeding"
    compiling = "compiling"
    swaps = "swaps"
    adaptation = "adaptation"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps.")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Repeat it; all by default.")] = None,
    change: Annotated[list[str] | None, typer.Option(help="Of the world; repeat it.")] = None,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure."""
    torch.set_num_threads(1)
    report, parts = Report("learning"), part or list(Part)
    if Part.memory in parts:
        measure_memory(report, QUICK_STEPS if quick else STEPS, seed)
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    contract = load_contract(ROBOT)
    foresight = Foresight(contract, Bundle(BUNDLE), folder / "critic", seed, quick)
    if Part.critic in parts:
        foresight.run()
    seeding = Seeding(folder / "seeding", quick)
    if Part.seeding in parts:
        seeding.run()
    compiling = Compiling(folder / "compiling", seed, quick)
    if Part.compiling in parts:
        compiling.run()
    if Part.swaps in parts:
        measure_swaps(report, quick)
    adaptation = Adaptation(folder, seed, quick)
    if Part.adaptation in parts:
        for one in change or adaptation.changes:
            adaptation.run(one)
    for row in [*foresight.rows(), *seeding.rows(), *compiling.rows(), *adaptation.rows()]:
        report.add(row)
    report.write(full=not quick, json_file=json_file, merge=True)


class Lives:
    """Steps of episodes in which causes wander and states follow."""

    def __init__(self, bundle: Bundle, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._mix = self._rng.standard_normal((CAUSES, bundle.state_size)).astype(np.float32)
        widths = {"action": bundle.action_size, "cost": len(bundle.terms), "surprise": 1}
        self.sizes = {**dict.fromkeys(FIELDS, bundle.state_size), **widths}
        self._step = round(1e9 * bundle.manifest["time_step"])
        self._now = 0

    def states(self, count: int) -> np.ndarray:
        """``[count, S]``"""
        episodes = -(-count // EPISODE)
        begin = self._rng.standard_normal((episodes, 1, CAUSES))
        way = np.cumsum(0.1 * self._rng.standard_normal((episodes, EPISODE, CAUSES)), axis=1)
        causes = (begin + way).reshape(-1, CAUSES)[:count].astype(np.float32)
        return np.tanh(0.3 * causes @ self._mix)

    def live(self, memory: Memory, count: int) -> float:
        """Seconds that a memory took for so many steps."""
        states = self.states(count)
        fields = {
            name: self._rng.standard_normal((count, size)).astype(np.float32)
            for name, size in self.sizes.items()
        }
        fields["state"] = states
        begin = time.perf_counter()
        for number in range(count):
            if self._now % EPISODE == 0:
                memory.begin_episode((self._now + 1) * self._step)
            self._now += 1
            for name, rows in fields.items():
                memory.store(self._now * self._step, name, rows[number])
        return time.perf_counter() - begin


def measure_memory(report: Report, steps: int, seed: int) -> None:
    """What a memory takes when it is full and some more came, and how long it looks."""
    bundle = Bundle(BUNDLE)
    lives = Lives(bundle, seed)
    before = _resident()
    memory = Memory(steps, lives.sizes, bundle.manifest["time_step"])
    title = f"memory, {steps} states of {bundle.state_size} numbers"
    filling = lives.live(memory, steps)
    report.add(Row(f"{title}: a new step", 1e6 * filling / steps, "us", n=steps))
    more = REPLACED
    replacing = lives.live(memory, more)
    report.add(Row(f"{title}: a new step in place of an old one", 1e6 * replacing / more, "us"))
    taken, stated = _resident() - before, memory.bytes_per_step
    report.add(Row(f"{title}: of RAM", taken / steps, "bytes a step", f"{stated} stated"))
    asked = lives.states(ASKED)
    known = memory.at(np.arange(len(memory)))["state"]
    scale = memory.spread
    flat, squares = known / scale, ((known / scale) ** 2).sum(axis=1)

    def look_at_all(state: np.ndarray) -> np.ndarray:
        away = squares - 2 * flat @ (state / scale)
        some = np.argpartition(away, NEAREST)[:NEAREST]
        return some[np.argsort(away[some])]

    tried: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "recalled": lambda state: memory.recall(state[None], NEAREST)[0][0],
        "by looking at all": look_at_all,
    }
    times, found = {name: [] for name in tried}, {name: [] for name in tried}
    for state in asked:
        for name, look in tried.items():
            begin = time.perf_counter()
            found[name].append(set(look(state).tolist()))
            times[name].append(time.perf_counter() - begin)
    for name, taken in times.items():
        report.add(Row(f"{title}: the 10 nearest, {name}", 1e3 * np.median(taken), "ms", n=ASKED))
    report.add(
        Row(
            f"{title}: the 10 nearest, recalled, 99 of 100 within",
            1e3 * np.quantile(times["recalled"], 0.99),
            "ms",
            n=ASKED,
        )
    )
    pairs = zip(found["recalled"], found["by looking at all"], strict=True)
    hits = 100 * np.mean([len(one & other) / NEAREST for one, other in pairs])
    report.add(Row(f"{title}: of the 10 nearest are recalled", hits, "%", n=ASKED))
    rng = np.random.default_rng(seed)
    for kind in KINDS:
        memory.sample(256, kind, rng)
        begin = time.perf_counter()
        for _ in range(20):
            memory.sample(256, kind, rng)
        report.add(
            Row(f"{title}: 256 drawn by {kind}", 1e3 * (time.perf_counter() - begin) / 20, "ms")
        )
    _measure_disk(report, bundle, memory)


def _measure_disk(report: Report, bundle: Bundle, memory: Memory) -> None:
    steps = memory.steps(since=memory.came - 3000)
    with tempfile.TemporaryDirectory() as folder:
        files, times = MemoryFiles(Path(folder), bundle, 1 << 40), []
        for begin in range(0, 3000, SECOND // 2):
            some = {name: rows[begin : begin + SECOND // 2] for name, rows in steps.items()}
            start = time.perf_counter()
            files.add(some)
            times.append(time.perf_counter() - start)
        start = time.perf_counter()
        read_memory(Path(folder), bundle)
        reading = time.perf_counter() - start
    report.add(Row("memory, half a second of steps to disk", 1e3 * np.median(times), "ms"))
    report.add(Row("memory, 3,000 steps from disk", 1e3 * reading, "ms"))


class Adaptation:
    """Success in a changed world, of a push bundle in Mode-1 on goal pictures taken there."""

    def __init__(self, folder: Path, seed: int, is_quick: bool) -> None:
        self._folder, self._seed, self._is_quick = folder, seed, is_quick
        self._results = Results(folder)
        self._contract = load_contract(ROBOT)
        joints = np.zeros(len(self._contract.joints))
        joints[ELBOW] = 3 * DEGREE
        moved = (0.03, 0.0, 0.0, 0.0, 0.0, 3 * DEGREE)
        self.changes = {
            "nothing": Variation(),
            "cameras moved by 3 cm and turned by 3 degrees": Variation(
                cameras=(moved,) * len(self._contract.cameras)
            ),
            "friction doubled": Variation(friction=2.0),
            "a payload of 2 kg": Variation(payload=2.0),
            "the elbow off by 3 degrees": Variation(miscalibration=tuple(joints.tolist())),
        }

    def run(self, change: str) -> None:
        """Judge the frozen agent, and where something changed one that lives and learns there."""
        bundle, variation = Bundle(BUNDLE), self.changes[change]
        self._judge(change, "frozen", bundle, variation)
        if variation == Variation() or self._results.has(change, "learned", self._seed):
            return
        rounds = QUICK_ROUNDS if self._is_quick else ROUNDS
        lived, taken, seconds = [], 0, 0.0
        for number in range(rounds):
            count = QUICK_LIVED if self._is_quick else LIVED
            life = LIFE_SEED + 1000 * self._seed + 100 * number
            lived += live(self._contract, bundle, count, life, NOISE, variation=variation)
            begin = time.process_time()
            config = LearnerConfig.of(
                QUICK_ITERATIONS if self._is_quick else ITERATIONS, self._seed
            )
            candidate, scores = learn(revive(bundle), lived, config, UNIT)
            print(f"{change}, round {number}: {scores.told()}", flush=True)
            if scores.is_better:
                taken += 1
                name = f"{change.replace(' ', '_')}_{self._seed}_{number}"
                path = self._folder / name
                shutil.rmtree(path, ignore_errors=True)
                write_version(candidate, bundle, Lived.of(lived), path, {"scores": scores.told()})
                bundle = Bundle(path)
            seconds += time.process_time() - begin
        more = {"taken": taken, "minutes": seconds / 60}
        self._judge(change, "learned", bundle, variation, **more)

    def _judge(
        self, change: str, who: str, bundle: Bundle, variation: Variation, **more: float
    ) -> None:
        if self._results.has(change, who, self._seed):
            return
        count = QUICK_GOALS if self._is_quick else GOALS
        judge, plain = sample_episodes(self._contract, TASK, count, TEST_SEED)
        episodes = [replace(one, variation=variation) for one in plain]
        task = load_task(TASK)
        runner = InProcessRunner(self._contract, bundle, task, judge, "1", "image")
        try:
            result = evaluate(runner, self._contract, episodes, TEST_SEED)
        finally:
            runner.close()
        distances = [100 * distance for distance in result["distances"]]
        self._results.put(change, who, self._seed, result["successes"], distances=distances, **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {
            "distances": ("distance", "cm"),
            "taken": ("versions taken", ""),
            "minutes": ("learning, of one processor", "min"),
        }
        return self._results.rows(figures, lambda _: ("distances", 3.0, "within 3 cm"))


def _resident() -> int:
    """Bytes of RAM that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    typer.run(main)
