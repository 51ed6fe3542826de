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
    """One measurement; ``low`` and ``high`` bound it with 95 % confidence where that is known.

    ``machine`` is where it was measured, and ``commit`` of what, if not here and now.
    """

    metric: str
    value: float
    unit: str
    baseline: str = ""
    n: int = 1
    low: float | None = None
    high: float | None = None
    machine: str = ""
    commit: str = ""


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

    def write(self, full: bool, json_file: Path | None, merge: bool = False) -> None:
        """Write JSON if asked for, and the committed CSV after a full run.

        Args:
            full: it was one.
            json_file: where JSON goes.
            merge: rows of the committed CSV stay where nothing new was measured of what stands
                before their last colon, or less of it.
        """
        about = {
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            "command": " ".join(["jepa-robot bench", Path(sys.argv[0]).stem, *_measured_with()]),
        }
        here = {"machine": machine(), "commit": commit()}
        rows = [
            {**asdict(row), **{name: getattr(row, name) or here[name] for name in here}}
            for row in self._rows
        ]
        if json_file is not None:
            write_atomically(json_file, json.dumps({**about, "rows": rows}, indent=2) + "\n")
        if full:
            RESULTS.mkdir(exist_ok=True)
            path = RESULTS / f"{self._name}.csv"
            rows = [{**row, **about} for row in rows]
            if merge and path.exists():
                with path.open(newline="") as stream:
                    rows = merged(list(csv.DictReader(stream)), rows)
            text = io.StringIO()
            fields = [*Row.__dataclass_fields__, *about]
            writer = csv.DictWriter(text, fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(path, text.getvalue())


def merged(old: list[dict], new: list[dict]) -> list[dict]:
    """Old rows, or other ones where those are of as much, by what stands before the last colon."""
    groups = _groups(old)
    for name, rows in _groups(new).items():
        if name not in groups or int(rows[0]["n"]) > int(groups[name][0]["n"]):
            groups[name] = rows
        elif int(rows[0]["n"]) == int(groups[name][0]["n"]):
            if _figures(rows) != _figures(groups[name]):
                groups[name] = rows
        else:
            print(f"{name}: the committed rows stay, they are of more; delete them to replace them")
    return [row for name in sorted(groups) for row in groups[name]]


def _figures(rows: list[dict]) -> list[tuple[str, str]]:
    """What was measured, whenever and by whichever command it was written."""
    return sorted((row["metric"], str(row["value"])) for row in rows)


def _groups(rows: list[dict]) -> dict[str, list[dict]]:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["metric"].rpartition(": ")[0], []).append(row)
    return groups


def machine(gpu: str = "") -> str:
    """This one, in words."""
    return f"{os.cpu_count()} cores, {platform.machine()}, {gpu or 'no GPU used'}"


def _measured_with() -> list[str]:
    """The options, but for the file that the result goes to: a path of one machine."""
    options = sys.argv[1:]
    if "--json" in options:
        place = options.index("--json")
        del options[place : place + 2]
    return options


def commit() -> str:
    """Of this project, short."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
