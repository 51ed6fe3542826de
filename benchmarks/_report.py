"""Rows of a benchmark: printed, and written as CSV or JSON with when, where and how."""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa_robot.files import write_atomically

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measurement; ``low`` and ``high`` bound it with 95 % confidence where that is known."""

    metric: str
    value: float
    unit: str
    baseline: str = ""
    n: int = 1
    low: float | None = None
    high: float | None = None


class Report:
    """Collects rows and prints each as it comes."""

    def __init__(self, name: str) -> None:
        self._name, self._rows = name, []

    def add(self, row: Row) -> None:
        self._rows.append(row)
        interval = "" if row.low is None else f"  [{row.low:.3g}, {row.high:.3g}]"
        against = f"  (against {row.baseline})" if row.baseline else ""
        print(
            f"{row.metric:55} {row.value:9.4g} {row.unit}{interval}  n={row.n}{against}", flush=True
        )

    def write(self, full: bool, json_file: Path | None) -> None:
        """Write JSON if asked for, and the committed CSV after a full run."""
        about = {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "commit": _commit(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, no GPU used",
            "command": " ".join(["jepa-robot bench", Path(sys.argv[0]).stem, *_measured_with()]),
        }
        rows = [asdict(row) for row in self._rows]
        if json_file is not None:
            write_atomically(json_file, json.dumps({**about, "rows": rows}, indent=2) + "\n")
        if full:
            RESULTS.mkdir(exist_ok=True)
            text = io.StringIO()
            writer = csv.DictWriter(text, [*rows[0], *about], lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, **about} for row in rows)
            write_atomically(RESULTS / f"{self._name}.csv", text.getvalue())


def _measured_with() -> list[str]:
    """The options, but for the file that the result goes to: a path of one machine."""
    options = sys.argv[1:]
    if "--json" in options:
        place = options.index("--json")
        del options[place : place + 2]
    return options


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
