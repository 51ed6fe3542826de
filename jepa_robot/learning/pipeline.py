"""From a dataset to a trained agent: JEPA, readout, goal encoder, policy, in this order."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from jepa_robot.dataset import Dataset, open_dataset
from jepa_robot.files import write_atomically
from jepa_robot.learning.checkpoint import (
    FILE,
    Checkpoint,
    Samples,
    load_checkpoint,
    save_checkpoint,
)
from jepa_robot.learning.configuration import to_yaml
from jepa_robot.learning.distill import DistillConfig, Planner, distill
from jepa_robot.learning.encoded import encode, prediction_ratio
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.imagination import ImaginationConfig, learn_in_imagination
from jepa_robot.learning.imitation import ImitationConfig, demonstrated_rows, imitate
from jepa_robot.learning.jepa import JEPAConfig, history_for, new_agent
from jepa_robot.learning.layers import check_whole
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.readout import (
    explained_by_joints,
    map_to_truth,
    readout_quality,
    train_goal_encoder,
    train_readout,
    train_slow_readout,
)
from jepa_robot.learning.refinement import RefinementConfig, refine_predictor
from jepa_robot.learning.training import Devices, train_jepa
from jepa_robot.learning.upper import UpperConfig, check_asked_for, train_upper, upper_errors
from jepa_robot.models import Bundle
from jepa_robot.modules.cost import POSITION_UNIT
from jepa_robot.robot.contract import RobotContract

MAX_LABELS = 500
VALIDATION_SHARE = 0.05
EXPLAINED = 0.9  # R² from which on joints tell what goals are about
DECISIONS_A_STEP = 10  # of the planner take about as long as a step of the JEPA
CONFIG = "config.yaml"
UPPER = "upper"  # level, which is trained anew
ABOUT_GOALS = ("readout", "goal_encoder", "policy", "critic")  # networks whose size is a goal's


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on, but for the data. ``seed`` is that of every stage.

    ``begin``: the folder of a finished run whose networks are trained on; none for new ones.
    ``labels``: frames whose goal label is looked at; with 0 goals are pictures, and told apart by
    ``slow_features``, what changes least of what joints do not tell.
    """

    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    refinement: RefinementConfig = field(default_factory=RefinementConfig)
    imitation: ImitationConfig = field(default_factory=ImitationConfig)
    imagination: ImaginationConfig = field(default_factory=ImaginationConfig)
    upper: UpperConfig = field(default_factory=UpperConfig)
    begin: str = ""
    labels: int = MAX_LABELS
    slow_features: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        is_number = isinstance(self.labels, int) and not isinstance(self.labels, bool)
        if not is_number or not (self.labels == 0 or 10 <= self.labels <= MAX_LABELS):
            raise ValueError(f"labels is {self.labels!r}, expected 10 to {MAX_LABELS}, or 0")
        check_whole(self, "train", {"slow_features": 1})
        if not self.labels and self.jepa.prevention_sees != "residual":
            raise ValueError(
                f"jepa.prevention_sees is {self.jepa.prevention_sees!r}, expected 'residual' where "
                "labels is 0"
            )
        if not self.labels and self.upper.iterations:
            raise ValueError(
                f"labels is 0, and upper.iterations {self.upper.iterations}: expected labels, as "
                "places are what an upper level asks for"
            )
        for stage in ("jepa", "distill", "refinement", "imitation", "imagination", "upper"):
            settings = dataclasses.replace(getattr(self, stage), seed=self.seed)
            object.__setattr__(self, stage, settings)


def train_all(
    data_file: str | Path,
    run_folder: str | Path,
    contract: RobotContract | None,
    config: TrainConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    devices: Devices | None = None,
    report: Callable[[str], None] | None = None,
) -> dict:
    """Train an agent and save its checkpoint. A run that was stopped is taken up where it was.

    Args:
        data_file: made by `jepa_robot_sim.collect.collect`, or by stable-worldmodel.
        run_folder: where checkpoints and logs go; must hold no finished run, nor one with other
            settings.
        contract: the robot the data must be of; Mode-2 labels with its limits. None for data
            without joints.
        config: settings; the defaults make the shipped bundle.
        progress: called with steps done and to do, over all stages.
        devices: what the JEPA is trained on, and by how many threads the rest.
        report: told what of the data was left out.

    Returns:
        Metrics, on held-out episodes: ``readout_r2``, ``readout_error`` (m), ``prediction_ratio``,
        ``view_distance`` (the largest; above 1 is a false alarm), ``latent_std``,
        ``policy_error``, and ``seconds`` a stage.

    Raises:
        FileExistsError: ``run_folder`` has a finished run or one with other settings.
        FileNotFoundError, InvalidDataset: no such data, or of another robot.
    """
    config, devices = config or TrainConfig(), devices or Devices()
    run_folder = Path(run_folder)
    _check_free(run_folder, config)
    data = open_dataset(data_file, contract.interface() if contract else None)
    if report is not None and data.problems:
        report(data.report())
    training, validation = data.split(VALIDATION_SHARE)
    for part in (training, validation):  # there are some
        part.windows(config.jepa.horizon, history_for(data, config.jepa))
    if config.upper.iterations:
        check_asked_for(training, config.upper)
    run_folder.mkdir(parents=True, exist_ok=True)
    write_atomically(run_folder / CONFIG, to_yaml(config))
    threads = torch.get_num_threads()
    torch.set_num_threads(devices.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    try:
        checkpoint = _train(training, validation, run_folder, contract, config, progress, devices)
    finally:
        torch.set_num_threads(threads)
    save_checkpoint(run_folder, checkpoint)
    return checkpoint.record["results"]


def _check_free(folder: Path, config: TrainConfig) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / CONFIG).exists() or (folder / FILE).exists():
        raise FileExistsError(f"{folder}: is not empty, expected the name of a new run")
    if (folder / CONFIG).read_text() != to_yaml(config):
        raise FileExistsError(
            f"{folder}: holds a run that was begun with other settings ({folder / CONFIG}), "
            "expected the same, or the name of a new run"
        )


def _train(
    training: Dataset,
    validation: Dataset,
    folder: Path,
    contract: RobotContract | None,
    config: TrainConfig,
    progress: Callable[[int, int], None] | None,
    devices: Devices,
) -> Checkpoint:
    jepa = dataclasses.replace(config.jepa, prevention_sees=prevention_sees(training, config))
    config = dataclasses.replace(config, jepa=jepa)
    # A search that knows nothing of what is far ahead hardly finds a contact to be imitated.
    features = 0 if config.labels else config.slow_features
    has_goals = bool(features) or training.about.goal in training.columns
    dreams = jepa.prevention_sees == "residual" and has_goals
    imitates = dreams and bool(config.labels) and len(demonstrated_rows(training)) > 0
    if dreams:
        rest = config.refinement.iterations + config.imagination.iterations
        rest += config.imitation.iterations if imitates else 0
    else:
        rest = config.distill.decisions * config.distill.rounds // DECISIONS_A_STEP
    counter = _Counter(progress, jepa.iterations + rest + config.upper.iterations)
    seconds, metrics = {}, {}

    begin = time.monotonic()
    upper = config.upper if config.upper.iterations else None
    agent, figures = new_agent(training, jepa, contract, features, upper), {}
    if config.begin:
        take_up(agent, load_checkpoint(config.begin).agent, config.begin)
    if jepa.iterations:
        _, figures = train_jepa(training, jepa, folder, devices, counter.stage(), agent)
    seconds["jepa"] = figures.pop("seconds", 0.0)

    begin = time.monotonic()
    encoded, held_out = encode(agent, training), encode(agent, validation)
    goal = training.about.goal if agent.shape.goal else ""
    truth = encoded.label(goal) if goal in training.columns else None
    mapping = None
    if not config.labels:
        train_slow_readout(agent, encoded, config.seed)
        if truth is not None:
            mapping = map_to_truth(agent, encoded.latents, truth, MAX_LABELS, config.seed)
        goal = ""
    elif truth is not None:
        train_readout(agent, encoded.latents, truth, config.labels, config.seed)
    if agent.shape.goal:
        train_goal_encoder(agent, encoded.latents, config.seed)
    if truth is not None:
        true = held_out.label(training.about.goal)
        quality = readout_quality(agent, held_out.latents, true, mapping)
        metrics["readout_r2"], metrics["readout_error"] = quality
    agent.views.fit(encoded.looks)
    seconds["readout"] = time.monotonic() - begin

    begin = time.monotonic()
    samples = Samples.draw(validation, agent.shape.history, config.seed)
    interface = training.about.interface
    record = {"goal": goal, "goal_unit": _goal_unit(agent, interface, config)}
    if dreams:
        refine_predictor(agent, encoded.lived, config.refinement, counter.stage())
        seconds["refinement"] = time.monotonic() - begin
        begin = time.monotonic()
        if imitates:
            stage = counter.stage()
            metrics["policy_error"] = imitate(agent, encoded, config.imitation, stage)
        figures |= learn_in_imagination(
            agent,
            encoded.states,
            config.imagination,
            record["goal_unit"],
            counter.stage(),
            learns_policy=not imitates,
        )
    else:
        with tempfile.TemporaryDirectory() as temporary:
            about = {"name": "temporary", "data": {}, "command": "", "results": {}}
            about |= {**interface, **record}
            write_bundle(agent, samples, Path(temporary) / "b", about, has_derivatives=False)
            planner = Planner(Bundle(Path(temporary) / "b"), contract, config.distill.seed)
            metrics["policy_error"] = distill(
                agent,
                planner,
                encoded.states,
                config.distill,
                counter.stage(DECISIONS_A_STEP),
            )
    seconds["policy"] = time.monotonic() - begin
    if upper is not None:
        begin = time.monotonic()
        train_upper(agent, encoded, upper, counter.stage())
        errors = upper_errors(agent, held_out, upper)
        metrics["upper_error"], metrics["upper_error_if_nothing_changed"] = errors
        seconds["upper"] = time.monotonic() - begin
    metrics["prediction_ratio"] = prediction_ratio(agent, held_out, jepa.horizon)
    metrics["view_distance"] = float(agent.views(held_out.looks).max())
    metrics["latent_std"] = float(held_out.latents.std(axis=0).mean())

    results = {
        **metrics,
        **{name: round(value, 4) for name, value in figures.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }
    return Checkpoint(
        agent,
        samples,
        {
            **record,
            "interface": interface,
            "data": _provenance(training, validation, config.labels if goal else 0),
            "recipe": dataclasses.asdict(config),
            "results": results,
        },
    )


class _Counter:
    """Counts the steps of all stages together."""

    def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._before = 0

    def stage(self, each: int = 1) -> Callable[[int, int], None]:
        """What is told the steps of the next stage, ``each`` of which count as one."""
        begin = self._before

        def report(done: int, _: int) -> None:
            self._before = begin + done // each
            if self._progress is not None:
                self._progress(self._before, self._total)

        return report


def take_up(agent: Agent, before: Agent, folder: str) -> None:
    """Give an agent the weights and scales of one that was trained before.

    Where goals have another size, what is about goals stays new.

    Raises:
        ValueError: they are not alike; names what differs.
    """
    ours, theirs = dataclasses.asdict(agent.shape), dataclasses.asdict(before.shape)
    is_of_goals = all([ours.pop(name) == theirs[name] for name in ("goal", "relations")])
    del ours["upper"]
    for name, value in ours.items():
        if theirs[name] != value:
            raise ValueError(
                f"begin is {folder!r}, whose {name} is {theirs[name]!r}, expected {value!r}"
            )
    for name, network in agent.named_children():
        if name != UPPER and (is_of_goals or name not in ABOUT_GOALS):
            network.load_state_dict(getattr(before, name).state_dict())


def prevention_sees(data: Dataset, config: TrainConfig) -> str:
    """``auto`` resolved: the residual where goals are about what joints do not tell."""
    goal = data.about.goal
    if config.jepa.prevention_sees != "auto":
        return config.jepa.prevention_sees
    if goal not in data.columns or "proprio" not in data.columns:
        return "embedding"
    share = explained_by_joints(data, goal, config.labels, config.seed)
    return "embedding" if share > EXPLAINED else "residual"


def _goal_unit(agent: Agent, interface: dict, config: TrainConfig) -> float:
    """How far from its goal something costs 1: 10 cm, or half of what an environment's spread.

    Of features it is their standard deviation, 1.
    """
    if not config.labels:
        return 1.0
    if interface["joints"] or agent.readout is None:
        return POSITION_UNIT
    return float(agent.readout.scale.std.mean()) / 2


def _provenance(training: Dataset, validation: Dataset, labels: int) -> dict:
    about = training.about
    return {
        "task": about.task,
        "transitions": training.transitions + validation.transitions,
        "episodes": training.episodes + validation.episodes,
        "labelled_frames": labels,
        "runs": list(about.runs),
    }
