"""`jepa-robot doctor`: is this world model fit to plan with?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from jepa_robot.cli.progress import progress
from jepa_robot.dataset import open_dataset
from jepa_robot.files import write_atomically
from jepa_robot.learning.doctor import SHOWN, DoctorConfig, Examination, examine
from jepa_robot.models import Bundle

QUICK = {"windows": 600, "frames": 2000, "probe": 200, "supervised": 200}
LOOKS = {"fit": "green", "doubtful": "yellow", "unfit": "bold red"}
NARROWEST = 120  # columns where the output is no terminal


def run_doctor(
    bundle: str,
    data_file: Path,
    quick: bool = False,
    supervised: bool = True,
    seed: int = 0,
    json_file: Path | None = None,
    page: Path | None = None,
    warn: Callable[[str], None] = print,
) -> Examination:
    """Examine, print, and write what was asked for."""
    draw = None if page is None else _drawing()  # before minutes are spent
    torch.set_num_threads(1)
    settings = {
        "seed": seed,
        **(QUICK if quick else {}),
        **({} if supervised else {"supervised": 0}),
    }
    model, data = Bundle(bundle), open_dataset(data_file)
    if data.problems:
        warn(data.report())
    with progress("examining") as report:
        examination = examine(model, data, DoctorConfig(**settings), report)
    for text in examination.warnings:
        warn(text)
    show(examination)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(json_file, json.dumps(examination.to_dict(), indent=2) + "\n")
    if draw is not None:
        draw(examination, page)
    return examination


def _drawing() -> Callable[[Examination, Path], None]:
    try:
        from jepa_robot.learning.doctor_page import draw
    except ModuleNotFoundError as error:
        raise ValueError(
            "--page needs matplotlib, expected it installed: pip install matplotlib"
        ) from error
    return draw


def show(examination: Examination) -> None:
    """The findings, a line of figures, and the verdict."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, NARROWEST)
    title = f"jepa-robot doctor: {examination.bundle}, {examination.frames} frames"
    table = Table(title=title, title_justify="left")
    for column in ("", "gauge", "found", "what to change"):
        table.add_column(column, overflow="fold")
    for finding in examination.findings:
        style = LOOKS[finding.status]
        row = (finding.gauge, finding.found, finding.todo)
        table.add_row(f"[{style}]{finding.status}[/]", *row)
    console.print(table)
    prediction = examination.prediction
    steps = [step for step in SHOWN if step <= len(prediction.error)]
    ratios = ", ".join(f"{prediction.ratio(step):.3f} at {step}" for step in steps)
    console.print(f"Prediction error to that of the copy, by step: {ratios}.", highlight=False)
    if examination.readings:
        console.print(_readings(examination))
    console.print(f"Verdict: {examination.verdict}.", style=LOOKS[examination.verdict])


def _readings(examination: Examination) -> Table:
    table = Table(title="Labels read, R² and mean error", title_justify="left")
    shares = sorted({r.share for r in examination.readings if r.share})
    for column in ("label", "from", *(f"{100 * share:g} % of the labels" for share in shares)):
        table.add_column(column)
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for r in examination.readings:
        if r.share:
            text = f"{r.r2:.3f}  {examination.unit.text(r.error, 2)}  ({r.labels})"
            cells.setdefault((r.label, r.method), {})[r.share] = text
    for (label, method), row in cells.items():
        table.add_row(label, method, *(row[share] for share in shares))
    return table
