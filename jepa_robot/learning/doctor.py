"""Is a world model fit to plan with? Gauges on data that training did not see, and a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from jepa_robot.dataset import Dataset, InvalidDataset, check_interface
from jepa_robot.learning.doctor_gauges import (
    Imagined,
    Latents,
    Order,
    Prediction,
    imagine,
    look,
    measure_imagined,
    measure_latents,
    measure_order,
    measure_prediction,
)
from jepa_robot.learning.doctor_readouts import (
    CENTIMETRES,
    NO_UNIT,
    Reading,
    Unit,
    read_latents,
    read_pictures,
    read_with_bundle,
)
from jepa_robot.learning.doctor_verdict import Finding, judge, verdict_of
from jepa_robot.learning.layers import check_whole
from jepa_robot.models import Bundle

SHOWN = (1, 3, 5, 10)  # steps
FIT_SHARE = 0.7  # of the episodes: probes learn from them
FEWEST_EPISODES = 4
HAND_LABEL = "hand_position"
LEAST_SPREAD = 1e-3  # m, standard deviation of a label that can be judged
PHASES = 100  # of progress, a stage


@dataclass(frozen=True)
class DoctorConfig:
    """How thorough. ``horizon``: steps imagined, fewer where episodes are shorter; ``frames``,
    ``windows``: used at most; ``probe``, ``supervised``: training steps, 0 supervised for none.

    Raises:
        ValueError: names the field, its value and what was expected.
    """

    horizon: int = 12
    frames: int = 8000
    windows: int = 2000
    probe: int = 600
    supervised: int = 800
    seed: int = 0

    def __post_init__(self) -> None:
        one = dict.fromkeys(("horizon", "frames", "windows", "probe"), 1)
        check_whole(self, "doctor", {**one, "supervised": 0, "seed": 0})


@dataclass(frozen=True)
class Examination:
    """What was measured of a bundle, and what follows. ``goal`` is the label that goals mean,
    ``unit`` what lengths are shown in.
    """

    bundle: str
    data: str
    goal: str
    frames: int
    unit: Unit
    latents: Latents
    prediction: Prediction
    readings: tuple[Reading, ...]
    imagined: tuple[Imagined, ...]
    order: Order | None
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> str:
        """``fit``, ``doubtful`` or ``unfit``: the worst finding."""
        return verdict_of(self.findings)

    def to_dict(self) -> dict:
        """For JSON: every figure, in m; without the pairs and paths that are for drawing."""
        latents, prediction, order = self.latents, self.prediction, self.order
        steps = range(1, len(prediction.error) + 1)
        return {
            "verdict": self.verdict,
            "bundle": self.bundle,
            "data": self.data,
            "goal": self.goal,
            "frames": self.frames,
            "latents": {
                "effective_rank": latents.effective_rank,
                "size": len(latents.variances),
                "dead": latents.dead,
                "variances": _numbers(latents.variances),
            },
            "prediction": {
                "ratio_to_copy": {step: _number(prediction.ratio(step)) for step in steps},
                "shuffled_actions": {
                    step: _number(prediction.shuffled_ratio(step)) for step in steps
                },
            },
            "readings": [asdict(reading) for reading in self.readings],
            "imagined": [
                {
                    "label": one.label,
                    "usable_horizon": one.usable_horizon,
                    "windows": one.windows.tolist(),
                    **{name: _numbers(getattr(one, name)) for name in ("error", "still", "read")},
                }
                for one in self.imagined
            ],
            "order": None
            if order is None
            else {"label": order.label, "latent": order.latent, "position": order.position},
            "warnings": list(self.warnings),
            "findings": [asdict(finding) for finding in self.findings],
        }


def examine(
    bundle: Bundle,
    data: Dataset,
    config: DoctorConfig | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Examination:
    """Measure a bundle on a recording that its training did not see.

    Args:
        bundle: an exported model.
        data: at least four usable episodes of the bundle's robot.
        config: how thorough.
        report: called with what is done and the total.

    Raises:
        InvalidDataset: the data is of another robot or picture size, or has too few or too short
            episodes; names what was expected.
    """
    config = config or DoctorConfig()
    _check_fits(bundle, data)
    rng = np.random.default_rng(config.seed)
    data = _some_episodes(data, config.frames, rng)
    horizon = _horizon(data, bundle.history, config.horizon)
    stages = 3 if config.supervised else 2

    def stage(number: int) -> Callable[[int, int], None]:
        return lambda done, total: report(number * PHASES + done * PHASES // total, stages * PHASES)

    seen = look(bundle, data, stage(0))
    order = rng.permutation(data.episodes)
    count = round(FIT_SHARE * data.episodes)
    fit, test = data.take(np.sort(order[:count])), data.take(np.sort(order[count:]))
    every = imagine(seen, _starts(data, horizon, bundle, config.windows, rng), horizon, rng)
    unseen = imagine(seen, _starts(test, horizon, bundle, config.windows, rng), horizon, rng)

    names = [
        name for name in data.labels if seen.label(name, seen.rows).std(0).max() > LEAST_SPREAD
    ]
    goal = data.about.goal if data.about.goal in names else ""
    readings: list[Reading] = []
    imagined = []
    for index, name in enumerate(names):
        found, read = read_latents(seen, name, fit.rows, test.rows, config.probe, rng)
        readings += found
        if name == bundle_goal(bundle, data):
            own, planned_with = read_with_bundle(seen, name, test.rows)
            if own.r2 > max(reading.r2 for reading in found):
                read = planned_with  # it had more labels than this recording has
            readings.append(own)
        imagined.append(measure_imagined(seen, unseen, name, read))
        stage(1)(index + 1, len(names))
    if names and config.supervised:
        readings += read_pictures(
            seen, names, fit.rows, test.rows, config.supervised, config.seed, stage(2)
        )
    has_joints = bool(bundle.manifest["joints"])
    unit, felt = (CENTIMETRES, (HAND_LABEL,)) if has_joints else (NO_UNIT, ())
    measured = {
        "latents": measure_latents(seen.latents),
        "prediction": measure_prediction(seen, every),
        "readings": tuple(readings),
        "imagined": tuple(imagined),
        "order": measure_order(seen, goal, test.rows, bundle_goal(bundle, data) == goal, rng)
        if goal
        else None,
    }
    return Examination(
        bundle=bundle.id,
        data=str(data.path),
        goal=goal,
        frames=len(seen.rows),
        unit=unit,
        **measured,
        warnings=tuple(_warnings(bundle, data, names)),
        findings=tuple(judge(goal=goal, labels=names, unit=unit, felt=felt, **measured)),
    )


def shared_seeds(bundle: Bundle, data: Dataset) -> list[int]:
    """Seeds with which both the recording and what the bundle was trained on were made."""
    trained = bundle.manifest["data"]
    runs = [trained, *trained.get("runs", [])]
    return sorted(
        {run["seed"] for run in runs if "seed" in run}
        & {run["seed"] for run in data.about.runs if "seed" in run}
    )


def bundle_goal(bundle: Bundle, data: Dataset) -> str:
    """The label that the bundle's readout gives, empty if it has none of the recording's."""
    name = bundle.manifest.get("goal") or data.about.goal
    label = data.columns.get(name)
    is_of_size = label is not None and label.shape[1] == bundle.goal_size
    return name if is_of_size and bundle.reads_positions else ""


def _warnings(bundle: Bundle, data: Dataset, judged: list[str]) -> list[str]:
    result = []
    seeds = shared_seeds(bundle, data)
    if seeds:
        result.append(
            f"{data.path}: was recorded with seed {seeds[0]}, as the training data was; expected a "
            "seed of its own, or the figures are of what the model knows by heart"
        )
    ours, theirs = bundle.manifest.get("goal"), data.about.goal
    if ours and theirs and ours != theirs:
        result.append(
            f"{data.path}: its goals mean {theirs}, those of bundle {bundle.id} mean {ours}; it is "
            f"judged for {theirs}"
        )
    result += [
        f"{data.path}: label {name} does not change, so nothing is said of it"
        for name in data.labels
        if name not in judged
    ]
    return result


def _check_fits(bundle: Bundle, data: Dataset) -> None:
    interface = {name: bundle.manifest[name] for name in data.about.interface}
    check_interface(f"{data.path} (for bundle {bundle.id})", data.about.interface, interface)
    size = list(bundle.manifest["image_size"])
    if list(data.image_size) != size:
        raise InvalidDataset(
            f"{data.path}: pictures are {list(data.image_size)}, expected {size}, the size that "
            f"bundle {bundle.id} takes"
        )
    if data.episodes < FEWEST_EPISODES:
        raise InvalidDataset(
            f"{data.path}: {data.episodes} usable episode(s), expected at least {FEWEST_EPISODES}"
        )


def _some_episodes(data: Dataset, frames: int, rng: np.random.Generator) -> Dataset:
    """Some at random, if there are more frames than are needed."""
    order = rng.permutation(data.episodes)
    within = int((data.lengths[order].cumsum() <= frames).sum())
    return data.take(np.sort(order[: max(within, FEWEST_EPISODES)]))


def _horizon(data: Dataset, history: int, wanted: int) -> int:
    """Steps for which half of the episodes are long enough, at least one."""
    return int(max(1, min(wanted, np.median(data.lengths) - history)))


def _starts(
    data: Dataset, horizon: int, bundle: Bundle, most: int, rng: np.random.Generator
) -> np.ndarray:
    starts = data.windows(horizon, bundle.history)
    return np.sort(rng.choice(starts, min(most, len(starts)), replace=False))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: np.ndarray) -> list[float | None]:
    return [_number(value) for value in values]
