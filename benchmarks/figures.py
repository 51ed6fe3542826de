"""Draws the documentation's figures from the committed results."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import POLICIES, read_cells

DOCS = Path(__file__).parents[1] / "docs"
LEARNED = ("behaviour cloning", "mode 1", "mode 2")
INK, PALE = "#1f5fa8", "#b8c4d0"
SUCCESS, DECISION = "success", "a decision"
PLANNERS = {
    "cem": "CEM",
    "icem": "iCEM",
    "mppi": "MPPI",
    "tree_search": "tree search",
    "random_shooting": "random shooting",
    "gradient": "gradient",
    "cem_gradient": "CEM with gradient",
    "ilqr": "iLQR",
    "stable-worldmodel's CEM": "stable-worldmodel's CEM",
}
MARKERS = "os^vDPX*d"
SHOWN = 78, 101  # %


def main() -> None:
    """All of them."""
    for name, figure in (("worldmodel", draw_successes()), ("planning", draw_budgets())):
        picture = DOCS / f"{name}.png"
        figure.savefig(picture, format="png")
        print(picture)


def draw_successes() -> Figure:
    """The honest table: one panel a scene and arm, one bar a policy."""
    cells = {
        cell: {name: rows[SUCCESS] for name, rows in policies.items() if name in POLICIES}
        for cell, policies in read_cells("worldmodel").items()
    }
    figure = Figure(figsize=(3.0 * len(cells), 2.9), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (cell, policies) in enumerate(cells.items()):
        axes = figure.add_subplot(1, len(cells), index + 1)
        names = list(reversed(POLICIES))
        for place, name in enumerate(names):
            if (row := policies.get(name)) is None:
                continue
            value, low, high = (float(row[key]) for key in ("value", "low", "high"))
            axes.barh(place, value, color=INK if name in LEARNED else PALE, height=0.7)
            axes.plot([low, high], [place, place], color="black", linewidth=1)
            axes.text(103, place, f"{value:.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(names)), names if index == 0 else [""] * len(names), fontsize=8)
        axes.set_xlim(0, 115)
        axes.set_ylim(-0.6, len(names) - 0.4)
        axes.set_xticks([0, 50, 100], ["0", "50", "100"], fontsize=8)
        axes.set_title(cell.replace(":", ", ").replace("_", " "), fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("success at the end, %, with 95 % intervals", fontsize=8)
    return figure


def draw_budgets() -> Figure:
    """What success which planner buys with how much time: a panel a bundle, a line a planner."""
    cells = {
        cell: {policy: rows for policy, rows in policies.items() if DECISION in rows}
        for cell, policies in read_cells("planning").items()
        if any(SUCCESS in rows for rows in policies.values())
    }
    figure = Figure(figsize=(5.0 * len(cells), 3.6), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for index, (cell, policies) in enumerate(sorted(cells.items(), reverse=True)):
        axes = figure.add_subplot(1, len(cells), index + 1)
        budgets = sorted(
            (policy.rpartition(" ")[0], float(rows[DECISION]["value"]), rows[SUCCESS])
            for policy, rows in policies.items()
            if policy.rpartition(" ")[0] in PLANNERS
        )
        for name, some in groupby(budgets, key=lambda budget: budget[0]):
            _, times, rows = zip(*some, strict=True)
            style = MARKERS[list(PLANNERS).index(name)] + "-"
            values = [float(row["value"]) for row in rows]
            axes.plot(times, values, style, label=PLANNERS[name], markersize=5)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_ylim(*SHOWN)
        axes.set_title(cell.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        if not index:
            axes.legend(fontsize=7, frameon=False)
    figure.supxlabel("median time of a decision, ms", fontsize=8)
    figure.supylabel("success at the end, %", fontsize=8)
    return figure


if __name__ == "__main__":
    main()
