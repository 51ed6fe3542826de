"""Draws the README's tables, in Markdown, from the committed results."""

from __future__ import annotations

import csv

from _report import RESULTS

SUCCESS, DISTANCE = "reach within 3 cm: ", "final distance, median: "
SHOWN = (
    "replanning",
    "from nothing",
    "memory",
    "safety stage",
    "age at image, median",
    "image to command_echo",
)


def main() -> None:
    """Print them."""
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
            interval = f"[{float(row['low']):.0f}, {float(row['high']):.0f}]"
            print(f"| {what} | {float(row['value']):.0f} {interval} | {distance:.1f} cm |")
    print("\n| | |\n|---|---|")
    for metric, row in [*agent.items(), *made.items()]:
        if metric.startswith(SHOWN) or "command_echo" in metric:
            print(f"| {metric} | {_value(row)} |")
    print("\n| | | floor |\n|---|---|---|")
    for metric, row in rows["faults"].items():
        if ": " not in metric:  # those are by kind
            print(f"| {metric} | {_value(row)} | {row['baseline']} |")


def _value(row: dict[str, str]) -> str:
    value = float(row["value"])
    return f"{value:.0f} {row['unit']}" if value >= 100 else f"{value:.3g} {row['unit']}"


if __name__ == "__main__":
    main()
