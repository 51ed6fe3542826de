"""The fault bench: what can go wrong around a moving arm, and whether it stays within its limits.

`jepa-robot bench faults` runs all cases in both modes on a fake robot and judges each.
"""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _fault_bench import FaultBench, Verdict
from _fault_cases import FRAMES, Case, all_cases, short_cases
from _report import Report, Row

from jepa_robot.cli.evaluate import own_domain
from jepa_robot.robot.contract import load_contract

INPUTS = {
    "camera stopped to hold": ("input camera stopped",),
    "joint_states stopped to hold": ("input joint_states stopped",),
}
CONTENT = tuple(f"content camera_{kind}" for kind in ("black", "half", "swapped", "frozen"))


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Each kind in each mode once.")] = False,
    short: Annotated[bool, typer.Option("--short", help="Some kinds, in two minutes.")] = False,
    seed: int = 0,
    repeats: Annotated[int, typer.Option(help="Times that each kind is drawn anew.")] = 4,
    only: Annotated[str, typer.Option(help="Cases whose name has this (a regex).")] = "",
    robot: str = "panda",
    bundle: str = "reach_panda",
    out: Path = Path("out/faults"),
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure what faults do."""
    own_domain()
    contract = load_contract(robot)
    if short:
        cases = short_cases(contract, seed)
    else:
        cases = all_cases(contract, seed, 1 if quick else repeats, only)
    verdicts = []
    begin = time.monotonic()
    for is_clocked in (False, True):
        part = [case for case in cases if case.is_clocked == is_clocked]
        verdicts += _run(part, contract, robot, bundle, out, is_clocked, len(cases), begin)
    report = Report("faults")
    _summarise(report, verdicts, contract.rates.time_step)
    is_full = not (quick or short or only) and len(verdicts) >= 500
    report.write(full=is_full, json_file=json_file)
    if any(verdict.violations for verdict in verdicts):
        raise typer.Exit(1)


def _run(
    cases: list[Case], contract, robot, bundle, out, is_clocked, total, begin
) -> list[Verdict]:
    """All cases on one graph; a new one after a case that left it broken."""
    verdicts: list[Verdict] = []
    while len(verdicts) < len(cases):
        folder = out / ("clocked" if is_clocked else "plain")
        with FaultBench(contract, robot, bundle, folder, is_clocked) as bench:
            for case in cases[len(verdicts) :]:
                verdict = bench.run(case)
                verdicts.append(verdict)
                _tell(verdict, time.monotonic() - begin)
                if verdict.problems:
                    break
    return verdicts


def _tell(verdict: Verdict, passed: float) -> None:
    case = verdict.case
    said = [f"mode {case.mode}", ",".join(verdict.codes) or "-"]
    if verdict.hold is not None:
        said.append(f"held after {1000 * verdict.hold:.0f} ms of {1000 * case.within:.0f}")
    if verdict.recovery is not None:
        said.append(f"on again after {verdict.recovery:.2f} s")
    for violation in verdict.violations[:3]:
        said.append(f"VIOLATION {violation}")
    said += [f"PROBLEM {problem}" for problem in verdict.problems]
    print(f"{passed:6.0f} s  {case.name:32} {case.seed:10}  {'; '.join(said)}", flush=True)


def _summarise(report: Report, verdicts: list[Verdict], time_step: float) -> None:
    report.add(Row("cases", len(verdicts), "", n=len(verdicts)))
    count = sum(verdict.commands for verdict in verdicts)
    report.add(Row("commands judged", count, "", n=len(verdicts)))
    violations = sum(len(verdict.violations) for verdict in verdicts)
    report.add(Row("commands outside the limits", violations, "", n=len(verdicts)))
    problems = sum(bool(verdict.problems) for verdict in verdicts)
    report.add(Row("cases with another problem", problems, "", n=len(verdicts)))
    for name, kinds in INPUTS.items():
        late = [v.hold - v.case.within for v in verdicts if v.case.name in kinds and v.hold]
        _spread(report, f"{name}, beyond its timeout", 1000 * np.array(late), "ms", "20 ms")
    holds = [v.hold for v in verdicts if v.case.name in CONTENT and v.hold]
    limit = f"{1000 * FRAMES * time_step:.0f} ms"
    _spread(report, "content fault can be told to hold", 1000 * np.array(holds), "ms", limit)
    killed = [v.recovery for v in verdicts if v.case.is_kill and v.recovery]
    _spread(report, "node killed to task going on", np.array(killed), "s", "5 s")
    by_name = defaultdict(list)
    for verdict in verdicts:
        by_name[verdict.case.name].append(verdict)
    for name, group in by_name.items():
        holds = [1000 * v.hold for v in group if v.hold is not None]
        against = f"{1000 * group[0].case.within:.0f} ms"
        _spread(report, f"{name}: hold", np.array(holds), "ms", against)
        times = [v.recovery for v in group if v.recovery is not None]
        _spread(report, f"{name}: on again", np.array(times), "s", "")


def _spread(report: Report, name: str, values: np.ndarray, unit: str, against: str) -> None:
    if len(values):
        report.add(Row(f"{name}, median", float(np.median(values)), unit, against, len(values)))
        report.add(
            Row(f"{name}, p95", float(np.percentile(values, 95)), unit, against, len(values))
        )
        report.add(Row(f"{name}, max", float(np.max(values)), unit, against, len(values)))


if __name__ == "__main__":
    typer.run(main)
