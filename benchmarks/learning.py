"""Learning while the agent lives: its short-term memory.

`jepa-robot bench learning` fills a memory with a million states of a push bundle's size, and
measures what it takes and how long looking up takes, beside looking at all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _report import Report, Row

from jepa_robot.models import Bundle
from jepa_robot.modules.memory import FIELDS, KINDS, Memory
from jepa_robot.modules.memory_files import MemoryFiles, read_memory

BUNDLE = "push_panda"
STEPS, QUICK_STEPS = 1_000_000, 20_000
ASKED = 300  # questions, each alone
NEAREST = 10
EPISODE = 50  # steps
CAUSES = 10  # of what a state is a smooth function of: two of a block, the rest of an arm
SECOND = 20  # steps of a second, that are written at once


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few steps.")] = False,
    seed: int = 0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure."""
    report = Report("learning")
    measure_memory(report, QUICK_STEPS if quick else STEPS, seed)
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
                memory.begin_episode()
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
    more = steps // 20
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


def _resident() -> int:
    """Bytes of RAM that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    typer.run(main)
