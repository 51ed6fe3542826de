"""Draws the README's tables, in Markdown, from the committed results."""

from __future__ import annotations

import csv

from _report import RESULTS

SHARES = ("success", "within 3 cm")
SUCCESS, DISTANCE = "reach within 3 cm: ", "final distance, median: "
SHOWN = (
    "replanning",
    "from nothing",
    "memory",
    "safety stage",
    "age at image, median",
    "image to command_echo",
)
# In this order; the rest of the honest table is in a table of its own.
POLICIES = ("random", "hold", "blind", "behaviour cloning", "mode 1", "mode 2", "oracle")


def main() -> None:
    """Print them."""
    agent_and_faults()
    for name in ("worldmodel", "environments"):
        cells = read_cells(name)
        successes(cells)
        closer = {
            cell: rows for cell, rows in cells.items() if any(SHARES[1] in r for r in rows.values())
        }
        if closer:
            successes(closer, SHARES[1])
        others(cells)


def read_cells(name: str) -> dict[str, dict[str, dict[str, dict]]]:
    """Rows of a results file by cell, policy and title; reach first."""
    cells: dict[str, dict[str, dict]] = {}
    with (RESULTS / f"{name}.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            cell, policy, title = [*row["metric"].split(": "), "", ""][:3]
            cells.setdefault(cell, {}).setdefault(policy, {})[title] = row
    return dict(sorted(cells.items(), key=lambda item: not item[0].endswith(":reach")))


def successes(cells: dict[str, dict[str, dict]], title: str = "success") -> None:
    """A row a policy, a column a cell."""
    print(f"\n| {title}, % [95 % interval] | {' | '.join(cells)} |")
    print("|---|" + "---|" * len(cells))
    for policy in POLICIES:
        found = [policies.get(policy, {}).get(title) for policies in cells.values()]
        if any(found):
            print(f"| {policy} | {' | '.join(map(_interval, found))} |")


def others(cells: dict[str, dict[str, dict]]) -> None:
    """What was compared on a cell beside: a row each, all that was measured of it."""
    for cell, policies in cells.items():
        rest = {name: row for name, row in policies.items() if name not in POLICIES}
        titles = list(dict.fromkeys(title for row in rest.values() for title in row))
        if rest:
            print(f"\n| {cell} | {' | '.join(titles)} |\n|---|" + "---|" * len(titles))
        for name, row in rest.items():
            values = [
                _interval(row.get(title)) if title in SHARES else _optional(row.get(title))
                for title in titles
            ]
            print(f"| {name} | {' | '.join(values)} |")


def agent_and_faults() -> None:
    """What the running system does."""
    rows = {}
    for name in ("agent", "agent_from_nothing", "faults"):
        with (RESULTS / f"{name}.csv").open(newline="") as stream:
            rows[name] = {row["metric"]: row for row in csv.DictReader(stream)}
    agent, made = rows["agent"], rows["agent_from_nothing"]
    print("| | within 3 cm, % [95 % interval] | final distance, median |")
    print("|---|---|---|")
    for metric, row in agent.items():
        if metric.startswith(SUCCESS):
            what = metric.removeprefix(SUCCESS)
            distance = float(agent[DISTANCE + what]["value"])
            print(f"| {what} | {_interval(row)} | {distance:.1f} cm |")
    print("\n| | |\n|---|---|")
    for metric, row in [*agent.items(), *made.items()]:
        if metric.startswith(SHOWN) or "command_echo" in metric:
            print(f"| {metric} | {_value(row)} |")
    print("\n| | | floor |\n|---|---|---|")
    for metric, row in rows["faults"].items():
        if ": " not in metric:  # those are by kind
            print(f"| {metric} | {_value(row)} | {row['baseline']} |")


def _interval(row: dict[str, str] | None) -> str:
    if row is None:
        return ""
    value, low, high = (float(row[key]) for key in ("value", "low", "high"))
    return f"{value:.0f} [{low:.0f}, {high:.0f}]"


def _optional(row: dict[str, str] | None) -> str:
    return "" if row is None else _value(row)


def _value(row: dict[str, str]) -> str:
    value = float(row["value"])
    text = f"{value:.0f} {row['unit']}" if value >= 100 else f"{value:.3g} {row['unit']}"
    return text.rstrip()


if __name__ == "__main__":
    main()
