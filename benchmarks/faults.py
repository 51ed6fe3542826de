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
from _fault_cases import Case, all_cases, short_cases
from _report import Report, Row

from jepa_robot.cli.evaluate import own_domain
from jepa_robot.robot.contract import load_contract

LATE = 0.020  # s that a hold may come after its topic's timeout
RECOVERY = 5.0  # s until the task goes on after a node was killed


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
    _summarise(report, verdicts)
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


def _summarise(report: Report, verdicts: list[Verdict]) -> None:
    report.add(Row("cases", len(verdicts), "", n=len(verdicts)))
    count = sum(verdict.commands for verdict in verdicts)
    report.add(Row("commands judged", count, "", n=len(verdicts)))
    violations = sum(len(verdict.violations) for verdict in verdicts)
    report.add(Row("commands outside the limits", violations, "", n=len(verdicts)))
    problems = sum(bool(verdict.problems) for verdict in verdicts)
    report.add(Row("cases with another problem", problems, "", n=len(verdicts)))
    by_name = defaultdict(list)
    for verdict in verdicts:
        by_name[verdict.case.name].append(verdict)
    for name, group in by_name.items():
        holds = [v.hold for v in group if v.hold is not None]
        if holds:
            within = group[0].case.within
            against = f"{1000 * (within + LATE):.0f} ms"
            for what, value in (("median", np.median(holds)), ("max", max(holds))):
                row = Row(f"{name}: hold, {what}", 1000 * value, "ms", against, len(holds))
                report.add(row)
        if name.startswith("node"):
            times = [v.recovery for v in group if v.recovery is not None]
            if times:
                for what, value in (("median", np.median(times)), ("max", max(times))):
                    row = Row(f"{name}: on again, {what}", value, "s", f"{RECOVERY} s", len(times))
                    report.add(row)


if __name__ == "__main__":
    typer.run(main)
