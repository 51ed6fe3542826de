"""The honest table: success of what was learned, beside what needs no learning, scene by scene.

`jepa-robot bench worldmodel` records, trains (several seeds) and judges on goals that nobody has
seen. It takes hours; what is done is kept under runs/worldmodel and not done again, so it can be
stopped at any time, and `--cell panda:reach` does one cell. Rows of what is there are written, and
committed rows stay where less was measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from _peers import PEERS, SIGREG, PeerRunner, train_peer
from _report import Report, Row, machine
from _seeds import Results

from jepa_robot import resources
from jepa_robot.dataset import open_dataset
from jepa_robot.energy import PREVENTIONS, PreventionConfig
from jepa_robot.evaluation import (
    BASELINES,
    InProcessRunner,
    Runner,
    evaluate,
    sample_episodes,
)
from jepa_robot.learning.checkpoint import load_checkpoint
from jepa_robot.learning.configuration import configure
from jepa_robot.learning.distill import clone_behaviour
from jepa_robot.learning.doctor_gauges import measure_latents
from jepa_robot.learning.encoded import encode
from jepa_robot.learning.export import export, write_bundle
from jepa_robot.learning.jepa import JEPAConfig
from jepa_robot.learning.pipeline import VALIDATION_SHARE, TrainConfig, train_all
from jepa_robot.learning.training import Devices
from jepa_robot.models import Bundle
from jepa_robot.modules.tasks import load_task
from jepa_robot.planning.cem import CEMConfig
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot_sim.collect import ArmSource, collect
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.scenes import Variation

CELLS = (
    "panda:reach",
    "iiwa:reach",
    "xarm6:reach",
    "panda_push:push",
    "iiwa_push:push",
    "panda_table:pick_and_place",
    "panda_table:push_around",
)
# What is trained in place of the JEPA's whole loss, around the same encoder and predictor: all but
# one way to prevent collapse left out, and the losses of LeWM (le-wm.github.io) and PLDM
# (arXiv:2502.14819) at stable-worldmodel's weights, without PLDM's terms over time. SIGReg grows
# with the batch there, and is divided by that here.
ALONE = {"inverse": 0.0, "linearity": 0.0, "shared": 0.0, "prevention_sees": "embedding"}
OURS = "our loss"
LOSSES: dict[str, dict] = {
    **{f"{name} alone": {"prevention": name, **ALONE} for name in PREVENTIONS},
    "LeWM's loss": {
        "prevention": "sigreg",
        "prevention_settings": PreventionConfig(sigreg=SIGREG * JEPAConfig.batch),
        "prediction": 1.0,
        **ALONE,
    },
    "PLDM's loss": {
        "prevention": "vicreg",
        "prevention_settings": PreventionConfig(variance=18.0, covariance=12.0),
        "prediction": 1.0,
        **ALONE,
    },
    OURS: {},
}
RUNS = Path("runs/worldmodel")
SEEDS = range(3)
GOALS = 100
TEST_SEED = 5000  # of the goals; what was tuned was tuned on others
TIMED_STEPS = 10  # of a peer's training, to know how many take as long as ours
EQUAL = ("time", "samples")  # what a peer gets as much of as ours
# Where there is an object: transitions of exploration, and of rounds of practice, which who was
# shown all of a task does not need.
EXPLORED = 40_000
PRACTISED = {"push": (7_500, 7_500, 7_500)}
SETTINGS = {"push": "object", "pick_and_place": "object", "push_around": "levels"}  # of training
# Blocks that were not in the recording: factors on friction and mass, and whether it is square: it
# turns as it is pushed.
OTHERS = {
    "half the friction": (0.5, 1.0, False),
    "twice the friction": (2.0, 1.0, False),
    "half the mass": (1.0, 0.5, False),
    "twice the mass": (1.0, 2.0, False),
    "square block": (1.0, 1.0, True),
}
OTHERS_GOALS = 50  # of each
LOSS_ITERATIONS, LOSS_GOALS = 600, 50  # of other losses: half the steps, half the goals
PEER_GOALS = 40  # as their decisions take long without a GPU
FIGURES = {
    "distances": ("distance", "cm"),
    "decision_ms": ("a decision", "ms"),
    "rank": ("effective rank", ""),
    "std": ("standard deviation of the latents", ""),
    "steps": ("training steps", ""),
    "minutes": ("training", "min"),
    "recording_minutes": ("recording", "min"),
    "whole_minutes": ("recording, training, practice and exports together", "min"),
    "readout_error": ("readout error", "cm"),
    "beside": ("share of a training step beside the network", "%"),
}


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One cell, one seed, few steps.")] = False,
    cell: Annotated[list[str] | None, typer.Option(help="ROBOT:TASK; repeat it.")] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Other losses; by default on the first cell.")
    ] = False,
    loss: Annotated[list[str] | None, typer.Option(help="Of the ablation: a name; repeat.")] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Models of stable-worldmodel, likewise.")
    ] = False,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Goals are pictures, and no label is looked at.")
    ] = False,
    others: Annotated[
        bool, typer.Option("--others", help="Blocks that nobody has seen before.")
    ] = False,
    timed: Annotated[
        bool,
        typer.Option("--timed", help="Recording and all of training from nothing, in one go."),
    ] = False,
    equal: Annotated[list[str] | None, typer.Option(help="Peers' time or samples; repeat.")] = None,
    device: Annotated[str, typer.Option(help="What peers of equal samples run on.")] = "cpu",
    report: Annotated[
        bool, typer.Option("--report", help="Measure nothing, write what was kept.")
    ] = False,
    seed: Annotated[list[int] | None, typer.Option(help="A training seed; repeat it.")] = None,
    transitions: int = 30_000,
    threads: Annotated[
        int, typer.Option(min=1, help="Of a training; more pay on cores that nothing else uses.")
    ] = 1,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Fill in the table."""
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    size = ([0], 5, 1000, 50) if quick else (seed or SEEDS, GOALS, transitions, 0)
    bench = Bench(folder, *size, Devices(threads=threads))
    cells = [] if report else cell or CELLS[: 1 if quick or ablation or peers else None]
    for name in cells:
        if ablation:
            for one in loss or LOSSES:
                bench.ablate(name, one)
        elif unlabelled:
            bench.run_unlabelled(name)
        elif others:
            bench.judge_others(name)
        elif timed:
            bench.run_timed(name)
        elif peers:
            for peer, budget in itertools.product(PEERS, equal or EQUAL):
                bench.compare(name, peer, budget, device)
        else:
            bench.run(name)
    written = Report("worldmodel")
    for row in bench.rows():
        written.add(row)
    written.write(full=not quick, json_file=json_file, merge=True)


class Bench:
    """Results by cell, policy and training seed, each kept in a file."""

    def __init__(
        self,
        folder: Path,
        seeds: Sequence[int],
        goals: int,
        transitions: int,
        iterations: int,
        devices: Devices,
    ) -> None:
        self._devices = devices
        self._folder, self._seeds, self._goals = folder, seeds, goals
        self._transitions, self._iterations = transitions, iterations  # 0: the default
        self._results = Results(folder)

    def run(self, cell: str) -> None:
        """All policies of a cell."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        goal = "image" if task == "reach" else "position"
        data = self._data(contract, task)
        for seed in self._seeds:
            config = self._config(seed, task)
            bundle = self._bundle(contract, data, config, f"{robot}_{task}_{seed}")
            made = bundle.manifest["results"]
            training = {"minutes": sum(made["seconds"].values()) / 60}
            if task == "reach":
                training["beside"] = 100 * made["share_beside"]
            else:
                bundle, minutes = self._practise(contract, task, data, bundle)
                training["minutes"] += minutes
                training["readout_error"] = 100 * bundle.manifest["results"]["readout_error"]
            self._judge(cell, "mode 2", seed, contract, bundle, "2", goal, **training)
            self._judge(cell, "mode 1", seed, contract, bundle, "1", goal)
            if task != "reach":
                self._judge(cell, "mode 2, goal image", seed, contract, bundle, "2", "image")
            clone = self._clone(contract, data, config, f"{robot}_{task}_{seed}")
            self._judge(cell, "behaviour cloning", seed, contract, clone, "1", "image")
            if seed == 0:
                for name in BASELINES:
                    self._judge(cell, name, seed, contract, bundle, name, goal)

    def agent(self, cell: str, seed: int) -> Bundle:
        """The bundle that a cell's figures are of, trained if it is not there."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        config = self._config(seed, task)
        first = self._bundle(contract, data, config, f"{robot}_{task}_{seed}")
        return self._practise(contract, task, data, first)[0]

    def run_unlabelled(self, cell: str) -> None:
        """With the labelled agent's encoder, which has seen no label, and nothing else of it."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        for seed in self._seeds:
            name = f"{robot}_{task}_{seed}"
            before = self._bundle(contract, data, self._config(seed, task), name)
            config = self._short(self._on(before, labels=0))
            bundle = self._bundle(contract, data, config, f"{robot}_{task}_unlabelled_{seed}")
            seconds = before.manifest["results"]["seconds"]["jepa"]
            seconds += sum(bundle.manifest["results"]["seconds"].values())
            bundle, minutes = self._practise(contract, task, data, bundle)
            minutes += seconds / 60
            policy = "goal image, no labels"
            error = 100 * bundle.manifest["results"]["readout_error"]
            more = {"minutes": minutes, "readout_error": error}
            self._judge(cell, f"mode 2, {policy}", seed, contract, bundle, "2", "image", **more)
            self._judge(cell, f"mode 1, {policy}", seed, contract, bundle, "1", "image")

    def run_timed(self, cell: str) -> None:
        """How long it takes until somebody who has nothing has an agent, and how good that is."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        for seed in self._seeds:
            policy = f"mode 2, made in one go with {self._devices.threads} thread(s)"
            if self._results.has(cell, policy, seed):
                continue
            folder = self._folder / "timed"
            shutil.rmtree(folder, ignore_errors=True)
            new = Bench(
                folder, [seed], self._goals, self._transitions, self._iterations, self._devices
            )
            begin = time.monotonic()
            data = new._data(contract, task)
            recorded = time.monotonic()
            first = new._bundle(contract, data, self._config(seed, task), f"{robot}_{task}_{seed}")
            bundle, practised = new._practise(contract, task, data, first)
            minutes = {
                "whole_minutes": (time.monotonic() - begin) / 60,
                "recording_minutes": (recorded - begin) / 60,
                "minutes": sum(first.manifest["results"]["seconds"].values()) / 60 + practised,
            }
            self._judge(cell, policy, seed, contract, bundle, "2", "position", **minutes)

    def judge_others(self, cell: str) -> None:
        """The agent of each seed, as it is, with other blocks."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        for seed in self._seeds:
            bundle = self._bundle(
                contract, data, self._config(seed, task), f"{robot}_{task}_{seed}"
            )
            bundle, _ = self._practise(contract, task, data, bundle)
            modes = {"mode 2": "2", "mode 1": "1"} | ({"oracle": "oracle"} if seed == 0 else {})
            for (name, mode), other in itertools.product(modes.items(), OTHERS):
                policy = f"{name}, {other}"
                self._judge(
                    cell, policy, seed, contract, bundle, mode, "position", OTHERS_GOALS, other
                )

    def ablate(self, cell: str, loss: str) -> None:
        """Effective rank and Mode-2's success with another loss, without practice."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        for seed in self._seeds:
            bundle = self._with_loss(contract, task, data, loss, seed)
            agent = load_checkpoint(self._folder / f"run_{bundle.path.name}").agent
            latents = encode(agent, open_dataset(data).split(VALIDATION_SHARE)[1]).latents
            figures = {
                "rank": measure_latents(latents).effective_rank,
                "std": float(latents.std(axis=0).mean()),
            }
            policy = f"mode 2, {loss}"
            goals = min(self._goals, LOSS_GOALS)
            if task != "reach":
                figures["readout_error"] = 100 * bundle.manifest["results"]["readout_error"]
            self._judge(cell, policy, seed, contract, bundle, "2", "image", goals, **figures)

    def _with_loss(
        self, contract: RobotContract, task: str, data: Path, loss: str, seed: int
    ) -> Bundle:
        """Encoder and predictor by a loss; where there is an object, the rest as ever."""
        config = self._config(seed, task)
        if loss == OURS:
            return self._bundle(contract, data, config, f"{contract.name}_{task}_{seed}")
        jepa = dataclasses.replace(config.jepa, **LOSSES[loss])
        if task == "reach":
            iterations = min(config.jepa.iterations, LOSS_ITERATIONS)
            jepa = dataclasses.replace(jepa, iterations=iterations)
        no_policy = dataclasses.replace(config.distill, decisions=10, rounds=1, iterations=1)
        config = dataclasses.replace(config, jepa=jepa, distill=no_policy)
        name = f"{contract.name}_{task}_{loss}_{seed}".replace(" ", "_").replace("'", "")
        bundle = self._bundle(contract, data, config, name)
        if task == "reach":
            return bundle
        return self._bundle(contract, data, self._short(self._on(bundle)), f"{name}_dreaming")

    def compare(self, cell: str, peer: str, budget: str, device: str) -> None:
        """A model of stable-worldmodel, trained for as long as ours, or on as many samples."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        training, _ = open_dataset(data).split(VALIDATION_SHARE)
        policy = f"{peer}, equal {budget}"
        where = device if budget == "samples" else "cpu"
        gpu = "" if where == "cpu" else torch.cuda.get_device_name()
        goals = self._goals if gpu else min(self._goals, PEER_GOALS)
        for seed in self._seeds:
            if self._results.has(cell, policy, seed):
                continue
            config = self._config(seed, task)
            steps, batch = config.jepa.iterations, config.jepa.batch
            if budget == "time":
                ours = self._bundle(contract, data, config, f"{robot}_{task}_{seed}")
                seconds = sum(ours.manifest["results"]["seconds"].values())
                seconds += 60 * self._practise(contract, task, data, ours)[1]
                begin = time.monotonic()
                train_peer(peer, training, seed, batch, TIMED_STEPS)
                step = (time.monotonic() - begin) / TIMED_STEPS
                steps = max(1, round(seconds / step))
            print(f"{policy}, seed {seed}: {steps} steps", flush=True)
            begin = time.monotonic()
            model = train_peer(peer, training, seed, batch, steps, where)
            minutes = (time.monotonic() - begin) / 60
            judge, episodes = sample_episodes(contract, task, goals, TEST_SEED)
            runner = PeerRunner(contract, model, judge, training.image_size, CEMConfig())
            more = {"steps": steps, "minutes": minutes, "machine": machine(gpu)}
            self._keep(cell, policy, seed, contract, runner, episodes, **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        return self._results.rows(FIGURES, _closer)

    def _config(self, seed: int, task: str = "reach") -> TrainConfig:
        name = SETTINGS.get(task)
        file = resources.find("config/training", name, ".yaml") if name else None
        return self._short(configure(TrainConfig, file, [f"seed={seed}"]))

    def _short(self, config: TrainConfig) -> TrainConfig:
        """As few steps as were asked for."""
        if not self._iterations:
            return config
        steps = min(self._iterations, config.jepa.iterations)
        return dataclasses.replace(
            config,
            jepa=dataclasses.replace(config.jepa, iterations=steps, batch=8),
            distill=dataclasses.replace(config.distill, decisions=20, rounds=1, iterations=50),
            refinement=dataclasses.replace(config.refinement, iterations=self._iterations),
            imagination=dataclasses.replace(config.imagination, iterations=self._iterations),
        )

    def _on(self, bundle: Bundle, labels: int | None = None) -> TrainConfig:
        """Settings to go on from a bundle's run; with as many labels, if not told otherwise."""
        recipe = bundle.manifest["recipe"]
        labels = recipe["labels"] if labels is None else labels
        file = resources.find("config/training", "practice", ".yaml")
        run = self._folder / f"run_{bundle.path.name}"
        settings = [f"seed={recipe['seed']}", f"begin={str(run)!r}", f"labels={labels}"]
        for stage, field in (("jepa", "latent_size"), ("jepa", "moving"), ("upper", "iterations")):
            settings.append(f"{stage}.{field}={recipe.get(stage, {}).get(field, 0)}")
        return configure(TrainConfig, file, settings)

    def _practise(
        self, contract: RobotContract, task: str, data: Path, bundle: Bundle
    ) -> tuple[Bundle, float]:
        """What comes of rounds of practice with what was learned before, and their minutes."""
        minutes, name = 0.0, bundle.path.name
        for number, transitions in enumerate(PRACTISED.get(task, ()), 1):
            grown = self._folder / f"{name}_practice_{number}.h5"
            if not grown.exists():
                growing = grown.with_name(f"growing_{grown.name}")
                shutil.copy(data, growing)
                source = ArmSource(contract, task, model=str(bundle.path))
                some = min(transitions, self._transitions)
                seed = 1000 * number + bundle.manifest["recipe"]["seed"]
                collect(source, growing, some, seed, processes=2, append=True)
                growing.rename(grown)
            config = self._short(self._on(bundle))
            bundle = self._bundle(contract, grown, config, f"{name}_practised_{number}")
            data = grown
            minutes += sum(bundle.manifest["results"]["seconds"].values()) / 60
        return bundle, minutes

    def _data(self, contract: RobotContract, task: str) -> Path:
        path = self._folder / f"{contract.name}_{task}.h5"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            begin = time.monotonic()
            wanted = self._transitions
            if task != "reach" and not self._iterations:
                wanted = max(wanted, EXPLORED)
            count = collect(ArmSource(contract, task), path, wanted, 0, processes=2)
            seconds = time.monotonic() - begin
            print(f"{path}: {count / seconds:.0f} transitions/s", flush=True)
        return path

    def _bundle(
        self, contract: RobotContract, data: Path, config: TrainConfig, name: str
    ) -> Bundle:
        bundle = self._folder / name
        if not bundle.exists():
            run = self._folder / f"run_{name}"
            if not (run / "checkpoint.pt").exists():
                print(f"training {name}", flush=True)
                train_all(data, run, contract, config, devices=self._devices)
            export(run, bundle, bundle.name, "jepa-robot bench worldmodel", contract)
        return Bundle(bundle)

    def _clone(self, contract: RobotContract, data: Path, config: TrainConfig, name: str) -> Bundle:
        bundle = self._folder / f"{name}_clone"
        if not bundle.exists():
            checkpoint = load_checkpoint(self._folder / f"run_{name}")
            torch.manual_seed(config.seed)
            for layer in checkpoint.agent.policy.network:
                if hasattr(layer, "reset_parameters"):
                    layer.reset_parameters()
            encoded = encode(checkpoint.agent, open_dataset(data))
            clone_behaviour(checkpoint.agent, encoded, config.distill)
            about = {"name": "clone", "data": {}, "command": "", "results": {}}
            write_bundle(
                checkpoint.agent, checkpoint.samples, bundle, {**contract.interface(), **about}
            )
        return Bundle(bundle)

    def _judge(
        self,
        cell: str,
        policy: str,
        seed: int,
        contract: RobotContract,
        bundle: Bundle,
        mode: str,
        goal: str,
        goals: int = 0,
        other: str = "",
        **more: float | str,
    ) -> None:
        if self._results.has(cell, policy, seed):
            return
        task = load_task(cell.split(":")[1])
        judge, episodes = sample_episodes(contract, task.name, goals or self._goals, TEST_SEED)
        if other:
            friction, mass, is_square = OTHERS[other]
            block = dataclasses.replace(judge.scene.block, is_square=is_square)
            judge.scene = dataclasses.replace(judge.scene, block=block)
            varied = Variation(friction=friction, mass=mass)
            episodes = [dataclasses.replace(one, variation=varied) for one in episodes]
        runner = InProcessRunner(contract, bundle, task, judge, mode, goal)
        self._keep(cell, policy, seed, contract, runner, episodes, **more)

    def _keep(
        self,
        cell: str,
        policy: str,
        seed: int,
        contract: RobotContract,
        runner: Runner,
        episodes: Sequence[Episode],
        **more: float | str,
    ) -> None:
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        self._results.put(
            cell,
            policy,
            seed,
            result["successes"],
            distances=[100 * distance for distance in result["distances"]],
            decision_ms=result["decision_ms"]["median"],
            **more,
        )


def _closer(cell: str) -> tuple[str, float, str] | None:
    """Of a task with an object, whose success is within 5 cm."""
    return None if cell.endswith(":reach") else ("distances", 3.0, "within 3 cm")


if __name__ == "__main__":
    typer.run(main)
