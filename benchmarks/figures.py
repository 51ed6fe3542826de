"""Draws the README's figure of the honest table from the committed results."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tables import POLICIES, read_cells

PICTURE = Path(__file__).parents[1] / "docs" / "worldmodel.png"
LEARNED = ("behaviour cloning", "mode 1", "mode 2")
INK, PALE = "#1f5fa8", "#b8c4d0"
SUCCESS = "success"


def main() -> None:
    """One panel a scene and arm, one bar a policy."""
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
    figure.savefig(PICTURE, format="png")
    print(PICTURE)


if __name__ == "__main__":
    main()
