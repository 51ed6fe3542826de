"""An examination on one page: the verdict and six panels, drawn with matplotlib."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jepa_robot.learning.doctor import Examination
from jepa_robot.learning.doctor_gauges import DEAD, Imagined
from jepa_robot.learning.doctor_readouts import SHARES

INCHES, DPI = (19.0, 9.0), 100
COLOURS = {"unfit": "#b71c1c", "doubtful": "#b86e00", "fit": "#2e7d32"}
TITLES = {"unfit": " unfit to plan with ", "doubtful": " doubtful ", "fit": " fit to plan with "}
METHODS = {"linear": ("#1f5fa8", "o"), "mlp": ("#3aa0a0", "s"), "supervised": ("#8a8a8a", "^")}
INK, PALE, OTHER = "#1f5fa8", "#9db8d6", "#c77800"
LEAST = DEAD / 100  # what is drawn of a variance
LINE, FONT, LINE_HEIGHT = 64, 8.5, 0.0195  # characters; points; of the panel's height


def draw(examination: Examination, path: Path) -> None:
    """Write the page as a PNG.

    Raises:
        OSError: it cannot be written.
    """
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    figure.suptitle(
        f"{examination.bundle}  on  {Path(examination.data).name}, {examination.frames} frames",
        fontsize=14,
        x=0.01,
        ha="left",
    )
    grid = figure.add_gridspec(2, 4, width_ratios=(1.1, 1, 1, 1))
    _verdict(figure.add_subplot(grid[:, 0]), examination)
    panels = (_errors, _paths, _imagined, _variances, _readings, _order)
    for index, panel in enumerate(panels):
        axes = figure.add_subplot(grid[index // 3, 1 + index % 3])
        panel(axes, examination)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")


def _verdict(axes: Axes, examination: Examination) -> None:
    """What is off comes first, with what to change; of what is fine, the figures alone."""
    axes.set_axis_off()
    axes.text(
        0,
        1,
        TITLES[examination.verdict],
        transform=axes.transAxes,
        va="top",
        fontsize=16,
        color="white",
        weight="bold",
        bbox={"facecolor": COLOURS[examination.verdict], "edgecolor": "none", "pad": 6},
    )
    height = 0.93
    for finding in sorted(examination.findings, key=lambda f: tuple(COLOURS).index(f.status)):
        texts = [(finding.gauge, COLOURS[finding.status], "bold"), (finding.found, "#444444", None)]
        if finding.todo:
            texts.append((f"→ {finding.todo}", COLOURS[finding.status], None))
        for text, colour, weight in texts:
            lines = textwrap.wrap(text, LINE)
            axes.text(
                0,
                height,
                "\n".join(lines),
                transform=axes.transAxes,
                va="top",
                fontsize=FONT,
                color=colour,
                weight=weight,
                linespacing=1.1,
            )
            height -= LINE_HEIGHT * len(lines)
        height -= LINE_HEIGHT / 2


def _errors(axes: Axes, examination: Examination) -> None:
    prediction = examination.prediction
    if not prediction.copy.any():
        _nothing(axes, "Prediction error", "the latent never changes")
        return
    steps = np.arange(1, len(prediction.error) + 1)
    copy = np.where(prediction.copy > 0, prediction.copy, np.nan)
    axes.plot(steps, prediction.error / copy, "o-", color=INK, ms=4, label="with its actions")
    axes.plot(
        steps, prediction.shuffled / copy, "s--", color=OTHER, ms=4, label="another's actions"
    )
    axes.axhline(1, color="grey", lw=1, label="nothing changes")
    axes.set_yscale("log")
    axes.set(xlabel="steps ahead", title="Prediction error, relative to 'nothing changes'")
    axes.legend(frameon=False, fontsize=9)


def _shown(examination: Examination) -> Imagined | None:
    """The object where there is one, else the goal."""
    wanted = sorted(
        examination.imagined,
        key=lambda one: (not one.label.startswith("object"), one.label != examination.goal),
    )
    return wanted[0] if wanted else None


def _imagined(axes: Axes, examination: Examination) -> None:
    one = _shown(examination)
    if one is None or not one.is_measured:
        _nothing(axes, "Imagined against true places", "no label that moves")
        return
    steps = np.arange(1, len(one.error) + 1)
    scale = examination.unit.scale
    axes.plot(steps, scale * one.still, "-", color="grey", label="it stays where it is")
    axes.plot(steps, scale / 2 * one.still, ":", color="grey", label="half of that")
    axes.plot(steps, scale * one.error, "x--", color=OTHER, label="imagined")
    axes.plot(steps, scale * one.read, "o-", color=PALE, ms=4, label="read from the true picture")
    axes.set(xlabel="steps ahead", ylabel=f"mean error{examination.unit.axis}", ylim=(0, None))
    axes.set_title(
        f"{_short(one.label)} that moves: usable {one.usable_horizon} of {len(steps)} steps"
    )
    axes.legend(frameon=False, fontsize=9)


def _paths(axes: Axes, examination: Examination) -> None:
    """The two numbers that vary most."""
    one, scale = _shown(examination), examination.unit.scale
    if one is None:
        _nothing(axes, "Imagined paths", "no label")
        return
    every = np.concatenate([true for true, _ in one.paths])
    across = np.sort(np.argsort(every.std(axis=0))[-2:])
    for index, pair in enumerate(one.paths):
        looks = (("true", 0, INK, "o-"), ("imagined", 1, OTHER, "x--"))
        for path, (label, start, colour, style) in zip(pair, looks, strict=True):
            x, y = np.arange(start, start + len(path)), scale * path[:, across[-1]]
            if len(across) == 2:
                x = scale * path[:, across[0]]
            axes.plot(x, y, style, color=colour, ms=4, lw=1, label=None if index else label)
    names = [f"{'xyz'[i] if i < 3 else i}{examination.unit.axis}" for i in across]
    if len(names) == 2:
        axes.set_aspect("equal", adjustable="datalim")
    axes.set(xlabel=names[0] if len(names) == 2 else "step", ylabel=names[-1])
    axes.set_title(f"Where the {_short(one.label)} goes, in {len(one.paths)} windows")
    axes.legend(frameon=False, fontsize=9)


def _variances(axes: Axes, examination: Examination) -> None:
    latents = examination.latents
    ordered = np.sort(latents.variances)[::-1]
    axes.bar(np.arange(1, len(ordered) + 1), np.maximum(ordered, LEAST), color=INK)
    axes.axhline(DEAD, color=COLOURS["unfit"], lw=1, ls="--", label="does not vary")
    axes.set_yscale("log")
    axes.set(xlabel="number of the latent, sorted", ylabel="variance")
    axes.set_ylim(LEAST / 2, max(10, 2 * ordered[0]))
    axes.set_title(f"Latent: effective rank {latents.effective_rank:.1f} of {len(ordered)}")
    axes.legend(fontsize=9, loc="lower right")


def _readings(axes: Axes, examination: Examination) -> None:
    names = list(dict.fromkeys(r.label for r in examination.readings))
    if not names:
        _nothing(axes, "Labels read", "no label")
        return
    for name, line in zip(names, ("-", "--", ":", "-."), strict=False):
        for method, (colour, marker) in METHODS.items():
            found = [r for r in examination.readings if (r.label, r.method) == (name, method)]
            if found:
                axes.plot(
                    [r.labels for r in found],
                    [examination.unit.scale * r.error for r in found],
                    marker + line,
                    color=colour,
                    ms=5,
                    label=f"{_short(name)}, {method}",
                )
    axes.set(xscale="log", yscale="log", xlabel="labelled frames")
    axes.set_ylabel(f"mean error{examination.unit.axis}")
    for formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
    shares = ", ".join(f"{100 * share:g}" for share in SHARES)
    axes.set_title(f"Labels read, from {shares} % of the labels")
    axes.legend(frameon=False, fontsize=9)


def _order(axes: Axes, examination: Examination) -> None:
    order = examination.order
    if order is None:
        _nothing(axes, "Cost and distance", "no label of the goal")
        return
    scale, axis = examination.unit.scale, examination.unit.axis
    axes.plot(scale * order.distances, order.costs, ".", color=PALE, ms=2, rasterized=True)
    edges = np.quantile(order.distances, np.linspace(0, 1, 13))
    bins = np.clip(np.digitize(order.distances, edges) - 1, 0, 11)
    used = [b for b in range(12) if (bins == b).any()]
    x = [scale * np.median(order.distances[bins == b]) for b in used]
    axes.plot(x, [np.median(order.costs[bins == b]) for b in used], "o-", color=INK, label="median")
    axes.set(xlabel=f"true distance of {order.label}{axis}", ylabel="latent distance to goal")
    axes.set_title(f"Cost and distance: rank correlation {order.latent:.2f}")
    axes.legend(frameon=False, fontsize=9)


def _nothing(axes: Axes, title: str, why: str) -> None:
    axes.set(title=title, xticks=[], yticks=[])
    axes.text(0.5, 0.5, why, ha="center", transform=axes.transAxes, color="grey")


def _short(label: str) -> str:
    return label.removesuffix("_position")
