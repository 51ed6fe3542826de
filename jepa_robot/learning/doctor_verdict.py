"""From figures to a verdict, and for each that is off to what to change.

The limits are rules of thumb from the models of this package: what reaches and pushes is far on
their good side, what fails is on the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from jepa_robot.learning.doctor_gauges import DEAD, Imagined, Latents, Order, Prediction
from jepa_robot.learning.doctor_readouts import (
    BUNDLE,
    CENTIMETRES,
    LINEAR,
    MLP,
    SUPERVISED,
    Reading,
    Unit,
)

FIT, DOUBTFUL, UNFIT = "fit", "doubtful", "unfit"
SEVERITY = (FIT, DOUBTFUL, UNFIT)
LOWEST_RANK = 3.0  # as many as a place has numbers
MOST_DEAD = 0.25
JUDGED_STEP = 5
OBJECT_STEPS = (4, 8)
RATIO = (0.5, 1.0)  # error to copy: doubtful, unfit from here on
SHUFFLED = (2.0, 1.1)  # doubtful, unfit up to here
R2 = (0.9, 0.5)
OBJECT_ERROR = (0.026, 0.04)  # m after 4 steps: 70 % and 10 % of pushes succeeded
RHO = (0.7, 0.3)
USABLE = 4  # steps
BETTER = 0.15  # R² by which pictures tell more than latents

MORE_CONTACT = "record more contact (a larger share of scripted pushes)"
KEEP_MORE = (
    "keep more in the latent: jepa.prevention_sees=residual where joints are measured, more "
    "jepa.iterations, a larger jepa.latent_size"
)


@dataclass(frozen=True)
class Finding:
    """One gauge: ``status`` (fit, doubtful, unfit), what was found, and what to change."""

    status: str
    gauge: str
    found: str
    todo: str = ""


def verdict_of(findings: Iterable[Finding]) -> str:
    return max((finding.status for finding in findings), key=SEVERITY.index, default=FIT)


def judge(
    latents: Latents,
    prediction: Prediction,
    readings: Sequence[Reading],
    imagined: Sequence[Imagined],
    order: Order | None,
    goal: str,
    labels: Sequence[str],
    unit: Unit = CENTIMETRES,
    felt: Collection[str] = (),
) -> list[Finding]:
    """Every gauge in the order in which to cure them: what comes first causes what comes later.

    Labels that are ``felt`` need not be in the latent: joints tell them.
    """
    collapse = _latents(latents)
    findings = [collapse, *_prediction(prediction)]
    findings += [_reading(name, readings, name == goal, unit, felt) for name in labels]
    findings += _bundle_readout(readings, unit)
    for one in imagined:
        if one.label.startswith("object"):
            findings.append(_object(one, one.label == goal, unit))
        if one.label == goal:
            findings.append(_usable(one))
    if order is not None:
        findings.append(_order(order))
    if not goal:
        findings.append(
            Finding(
                DOUBTFUL,
                "goal",
                "the data has no label of what its goals mean",
                "nothing but prediction was judged: record with a label (about.goal), such as "
                "hand_position",
            )
        )
    if collapse.status == UNFIT:
        findings[1:] = [
            Finding(f.status, f.gauge, f.found, f.todo and "cure the collapse first")
            for f in findings[1:]
        ]
    return findings


def _latents(latents: Latents) -> Finding:
    size, dead, rank = len(latents.variances), latents.dead, latents.effective_rank
    found = f"effective rank {rank:.1f} of {size}; {dead} of {size} numbers do not vary"
    gauge = "latent variety"
    if latents.variances.max() < DEAD or dead == size or rank < 2:
        return Finding(
            UNFIT,
            gauge,
            found,
            "the latent has collapsed, nearly all pictures look the same to it: choose a "
            "jepa.prevention other than none (vicreg, sigreg), or weigh it more "
            "(prevention_settings), or weigh jepa.prediction less",
        )
    if rank < LOWEST_RANK or dead > MOST_DEAD * size:
        return Finding(
            DOUBTFUL,
            gauge,
            found,
            "part of the latent is unused: weigh jepa.prevention more, or lower jepa.latent_size",
        )
    return Finding(FIT, gauge, found)


def _prediction(prediction: Prediction) -> Iterator[Finding]:
    step = min(JUDGED_STEP, len(prediction.error))
    ratio, shuffled = prediction.ratio(step), prediction.shuffled_ratio(step)
    found = f"error with another's actions {shuffled:.2f} times that with its own, {step} steps on"
    status = _low(shuffled, SHUFFLED)
    ignored = "ignores" if status == UNFIT else "hardly heeds"
    yield Finding(
        status,
        "actions",
        found,
        ""
        if status == FIT
        else f"the model {ignored} the actions: weigh jepa.inverse more, record actions that vary "
        "and move the arm, check that actions and pictures are of the same time",
    )
    status = _high(ratio, RATIO)
    yield Finding(
        status,
        "prediction",
        f"error {ratio:.2f} times that of 'nothing changes', {step} steps on"
        if prediction.copy[step - 1]
        else "the latent never changes",
        ""
        if status == FIT
        else "the model foresees little: train longer (jepa.iterations), on more data, with a "
        "jepa.horizon as long as the planner's",
    )


def _reading(
    name: str, readings: Sequence[Reading], is_goal: bool, unit: Unit, felt: Collection[str]
) -> Finding:
    of_label = [r for r in readings if r.label == name and (r.share == 1 or r.method == BUNDLE)]
    best = max((r for r in of_label if r.method != SUPERVISED), key=lambda r: r.r2)
    pictures = next((r for r in of_label if r.method == SUPERVISED), None)
    found = f"R² {best.r2:.3f}, error {unit.text(best.error)} ({best.method})"
    if pictures is not None:
        found += f"; from pictures alone {pictures.r2:.3f}, {unit.text(pictures.error)}"
    status, gauge = _low(best.r2, R2), f"{name} in the latent"
    if status == FIT:
        return Finding(FIT, gauge, found)
    if not is_goal:
        if name in felt:
            return Finding(FIT, gauge, f"{found}; the joints tell it")
        status = DOUBTFUL
    what = "the object" if name.startswith("object") else name.removesuffix("_position")
    todo = f"{what} is not in the latent: "
    todo += f"{MORE_CONTACT}; {KEEP_MORE}" if name.startswith("object") else KEEP_MORE
    if pictures is not None and pictures.r2 < best.r2 + BETTER:
        others = [r for r in readings if r.method == SUPERVISED and r.label != name]
        if pictures.r2 >= R2[1]:
            todo = f"{what} is read as well as by a network made for it: record more data"
        elif any(r.r2 >= R2[0] for r in others):  # so that network was trained enough
            todo = (
                f"{what} is not told by the pictures either: move the cameras so that it is not "
                "hidden, give it more pixels or another colour; or record more labelled frames"
            )
        else:
            todo += "; and look whether the pictures show it, as a network made for it saw nothing"
    return Finding(status, gauge, found, todo)


def _bundle_readout(readings: Sequence[Reading], unit: Unit) -> Iterator[Finding]:
    """It is blamed for what it misses of what is in the latent, and only for that."""
    for own in (r for r in readings if r.method == BUNDLE):
        found = f"R² {own.r2:.3f}, error {unit.text(own.error)}"
        gauge = "the bundle's readout"
        if own.r2 >= R2[0]:
            yield Finding(FIT, gauge, found)
            continue
        of_label = (r for r in readings if r.label == own.label)
        best = max(r.r2 for r in of_label if r.method in (LINEAR, MLP))
        is_to_blame = best >= R2[1] and own.r2 < best - BETTER
        yield Finding(
            DOUBTFUL,
            gauge,
            found,
            f"{own.label} is in the latent, its readout is not good at it: train with more labels"
            if is_to_blame
            else f"it cannot tell what the latent lacks: see {own.label} in the latent",
        )


def _object(one: Imagined, is_goal: bool, unit: Unit) -> Finding:
    gauge = f"{one.label} imagined while it moves"
    steps = [s for s in OBJECT_STEPS if s <= len(one.error) and one.error[s - 1] >= 0]
    if not steps:
        return Finding(
            DOUBTFUL,
            gauge,
            f"it moves in at most {int(one.windows.max())} windows, too few to tell",
            MORE_CONTACT,
        )
    found = ", ".join(
        f"{unit.text(one.error[s - 1])} after {s} steps (staying: {unit.text(one.still[s - 1])})"
        for s in steps
    )
    index = steps[0] - 1
    status = _high(float(one.error[index]), OBJECT_ERROR)
    if one.error[index] >= one.still[index]:
        status = UNFIT
    if status == FIT:
        return Finding(FIT, gauge, found)
    if one.read[index] > one.error[index] / 2 and one.read[index] > OBJECT_ERROR[0] / 2:
        todo = f"its place is not read well even from true pictures: {KEEP_MORE}"
    else:
        todo = f"it is seen but not foreseen: {MORE_CONTACT}; train longer (jepa.iterations)"
    return Finding(status if is_goal else DOUBTFUL, gauge, found, todo)


def _usable(one: Imagined) -> Finding:
    steps, most = one.usable_horizon, len(one.error)
    gauge = "usable horizon"
    if not one.is_measured:
        return Finding(
            DOUBTFUL,
            gauge,
            f"{one.label} moves in at most {int(one.windows.max())} windows, too few to tell",
            "record more motion",
        )
    found = f"{one.label}: {steps} of {most} steps imagined"
    least = min(USABLE, most)
    if steps >= least:
        return Finding(FIT, gauge, found)
    return Finding(
        DOUBTFUL if steps else UNFIT,
        gauge,
        found,
        f"plan no further than {steps} steps, or train longer with a longer jepa.horizon"
        if steps
        else "what is imagined is no better than half of staying: do not plan with it",
    )


def _order(order: Order) -> Finding:
    found = f"rank correlation with the true distance of {order.label}: latent {order.latent:.2f}"
    if order.position is not None:
        found += f", readout {order.position:.2f}"
    # A goal picture of an object is read: what its distance is measured by is the readout alone.
    is_read = order.position is not None and order.label.startswith("object")
    gauge = "cost and distance"
    status = _low(order.position if is_read else order.latent, RHO)
    if status == FIT:
        return Finding(FIT, gauge, found)
    if order.position is not None and _low(order.position, RHO) == FIT:
        return Finding(
            DOUBTFUL,
            gauge,
            found,
            "goals given as pictures mislead, since all that is seen counts alike: give goals as "
            "positions (cost term goal_position)",
        )
    return Finding(
        status,
        gauge,
        found,
        "the cost does not fall on the way to the goal: weigh jepa.linearity more, and "
        f"{KEEP_MORE}",
    )


def _low(value: float, limits: tuple[float, float]) -> str:
    """Too low is bad; so is no number."""
    doubtful, unfit = limits
    return FIT if value >= doubtful else DOUBTFUL if value >= unfit else UNFIT


def _high(value: float, limits: tuple[float, float]) -> str:
    doubtful, unfit = limits
    return FIT if value <= doubtful else DOUBTFUL if value < unfit else UNFIT
