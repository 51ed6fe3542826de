"""From a dataset to a trained agent: JEPA, readout, goal encoder, policy, in this order."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from jepa_robot.learning.checkpoint import Checkpoint, Samples, save_checkpoint
from jepa_robot.learning.dataset import Dataset, load_dataset
from jepa_robot.learning.distill import DistillConfig, distill
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.jepa import JEPAConfig, encode, look, prediction_ratio, train_jepa
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.readout import readout_quality, train_goal_encoder, train_readout
from jepa_robot.models import Bundle
from jepa_robot.robot.contract import RobotContract

MAX_LABELS = 500
VALIDATION_SHARE = 0.05
DECISIONS_A_STEP = 10  # of the planner take about as long as a step of the JEPA


@dataclass(frozen=True)
class TrainConfig:
    """Everything a training run depends on, but for the data. ``seed`` is that of every stage."""

    jepa: JEPAConfig = field(default_factory=JEPAConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    labels: int = MAX_LABELS
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.labels, bool) or not 10 <= self.labels <= MAX_LABELS:
            raise ValueError(f"labels is {self.labels!r}, expected 10 to {MAX_LABELS}")
        for stage in ("jepa", "distill"):
            settings = dataclasses.replace(getattr(self, stage), seed=self.seed)
            object.__setattr__(self, stage, settings)


def train_all(
    data_folder: str | Path,
    run_folder: str | Path,
    contract: RobotContract,
    config: TrainConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """Train an agent and save its checkpoint.

    One thread computes: on few cores more of them wait for each other.

    Args:
        data_folder: made by `jepa_robot_sim.collect.collect`.
        run_folder: where the checkpoint goes; must hold none yet.
        contract: the robot the data must be of; Mode-2 labels with its limits.
        config: settings; the defaults make the shipped bundle.
        progress: called with steps done and to do, over all stages.

    Returns:
        Metrics, on held-out episodes: ``readout_r2``, ``readout_error`` (m), ``prediction_ratio``,
        ``view_distance`` (the largest; above 1 is a false alarm), ``latent_std``,
        ``policy_error``, and ``seconds`` a stage.

    Raises:
        FileExistsError: ``run_folder`` is not empty.
        FileNotFoundError, InvalidDataset: no such data, or of another robot.
    """
    config = config or TrainConfig()
    run_folder = Path(run_folder)
    if run_folder.exists() and any(run_folder.iterdir()):
        raise FileExistsError(f"{run_folder}: is not empty, expected the name of a new run")
    data = load_dataset(data_folder, contract.interface())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        checkpoint = _train(data, contract, config, progress)
    finally:
        torch.set_num_threads(threads)
    save_checkpoint(run_folder, checkpoint)
    return checkpoint.record["results"]


def _train(
    data: Dataset,
    contract: RobotContract,
    config: TrainConfig,
    progress: Callable[[int, int], None] | None,
) -> Checkpoint:
    training, validation = data.split(VALIDATION_SHARE)
    decisions = config.distill.decisions * config.distill.rounds
    total = config.jepa.iterations + decisions // DECISIONS_A_STEP
    report = progress or (lambda done, total: None)
    seconds = {}

    begin = time.monotonic()
    agent = train_jepa(training, config.jepa, lambda done, _: report(done, total))
    seconds["jepa"] = time.monotonic() - begin

    begin = time.monotonic()
    latents = encode(agent, training)
    train_readout(agent, training, latents, config.labels, config.seed)
    train_goal_encoder(agent, latents, config.seed)
    seconds["readout"] = time.monotonic() - begin
    agent.views.fit(look(agent, training))
    metrics = evaluate_agent(agent, validation)

    begin = time.monotonic()
    samples = Samples.draw(validation, config.seed)
    states = np.concatenate([training.proprioception, latents], axis=-1)
    with tempfile.TemporaryDirectory() as folder:
        record = {"name": "temporary", "data": {}, "command": "", "results": {}}
        write_bundle(agent, samples, Path(folder) / "bundle", {**contract.interface(), **record})
        metrics["policy_error"] = distill(
            agent,
            Bundle(Path(folder) / "bundle"),
            contract,
            states.reshape(-1, states.shape[-1]),
            config.distill,
            lambda done, _: report(config.jepa.iterations + done // DECISIONS_A_STEP, total),
        )
    seconds["distill"] = time.monotonic() - begin

    results = {**metrics, "seconds": {name: round(value, 1) for name, value in seconds.items()}}
    record = {
        "interface": data.interface,
        "data": {
            "transitions": data.transitions,
            "seed": data.seed,
            "labelled_frames": config.labels,
        },
        "recipe": dataclasses.asdict(config),
        "results": results,
    }
    return Checkpoint(agent, samples, record)


def evaluate_agent(agent: Agent, data: Dataset) -> dict[str, float]:
    """The gates of a trained world model, on episodes that it did not see."""
    latents = encode(agent, data)
    r2, error = readout_quality(agent, data, latents)
    return {
        "readout_r2": r2,
        "readout_error": error,
        "prediction_ratio": prediction_ratio(agent, data, latents),
        "view_distance": float(agent.views(look(agent, data)).max()),
        "latent_std": float(latents.reshape(-1, latents.shape[-1]).std(axis=0).mean()),
    }
