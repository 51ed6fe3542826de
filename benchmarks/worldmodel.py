"""The honest table: success of what was learned, beside what needs no learning, scene by scene.

`jepa-robot bench worldmodel` records, trains (several seeds) and judges on goals that nobody has
seen. It takes hours; what is done is kept under runs/worldmodel and not done again, so it can be
stopped at any time, and `--cell panda:reach` does one cell. Rows of what is there are written.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from _report import Report, Row

from jepa_robot.dataset import open_dataset
from jepa_robot.energy import PREVENTIONS
from jepa_robot.evaluation import (
    BASELINES,
    InProcessRunner,
    evaluate,
    sample_episodes,
    wilson_interval,
)
from jepa_robot.files import write_atomically
from jepa_robot.learning.checkpoint import load_checkpoint
from jepa_robot.learning.distill import clone_behaviour
from jepa_robot.learning.doctor_gauges import measure_latents
from jepa_robot.learning.encoded import encode
from jepa_robot.learning.export import export, write_bundle
from jepa_robot.learning.pipeline import TrainConfig, train_all
from jepa_robot.models import Bundle
from jepa_robot.modules.configurator import load_task
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot_sim.collect import ArmSource, collect

CELLS = ("panda:reach", "iiwa:reach", "xarm6:reach", "panda_table:push", "panda_table:push_around")
RUNS = Path("runs/worldmodel")
SEEDS = 3
GOALS = 100
TEST_SEED = 5000  # of the goals; what was tuned was tuned on others
DRAWS = 4000  # of the bootstrap


def main(
    quick: Annotated[bool, typer.Option("--quick", help="One cell, one seed, few steps.")] = False,
    cell: Annotated[list[str] | None, typer.Option(help="ROBOT:TASK; repeat it.")] = None,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Every way to prevent collapse, on panda:reach.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Training seeds.")] = SEEDS,
    transitions: int = 30_000,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Fill in the table."""
    folder = RUNS / "quick" if quick else RUNS
    if quick:
        shutil.rmtree(folder, ignore_errors=True)
    bench = Bench(folder, 1 if quick else seeds, 5 if quick else GOALS)
    bench.transitions = 1000 if quick else transitions
    bench.iterations = 50 if quick else 0
    for name in cell or CELLS[: 1 if quick else None]:
        bench.run(name)
    if ablation:
        for prevention in PREVENTIONS:
            bench.ablate(CELLS[0], prevention)
    report = Report("worldmodel")
    for row in bench.rows():
        report.add(row)
    report.write(full=not quick, json_file=json_file)


class Bench:
    """Results by cell, policy and training seed, each kept in a file."""

    def __init__(self, folder: Path, seeds: int, goals: int) -> None:
        self._folder, self._seeds, self._goals = folder, seeds, goals
        self.transitions, self.iterations = 0, 0

    def run(self, cell: str) -> None:
        """All policies of a cell."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        for seed in range(self._seeds):
            config = self._config(seed)
            bundle = self._bundle(contract, data, config, f"{robot}_{task}_{seed}")
            goal = "image" if task == "reach" else "position"
            for mode in ("2", "1"):
                self._judge(cell, f"mode {mode}", seed, contract, bundle, mode, goal)
            clone = self._clone(contract, data, config, f"{robot}_{task}_{seed}")
            self._judge(cell, "behaviour cloning", seed, contract, clone, "1", "image")
            if seed == 0:
                for name in BASELINES:
                    self._judge(cell, name, seed, contract, bundle, name, goal)

    def ablate(self, cell: str, prevention: str) -> None:
        """Effective rank and Mode-2's success with another way to prevent collapse."""
        robot, task = cell.split(":")
        contract = load_contract(robot)
        data = self._data(contract, task)
        for seed in range(self._seeds):
            config = self._config(seed)
            helped = {} if prevention != "none" else {"inverse": 0.0, "linearity": 0.0}
            jepa = dataclasses.replace(config.jepa, prevention=prevention, **helped)
            name = f"{robot}_{task}_{prevention}_{seed}"
            config = dataclasses.replace(config, jepa=jepa)
            bundle = self._bundle(contract, data, config, name)
            self._judge(cell, f"mode 2, {prevention}", seed, contract, bundle, "2", "image")
            rank = self._folder / f"rank_{name}.json"
            if not rank.exists():
                agent = load_checkpoint(self._folder / f"run_{name}").agent
                latents = encode(agent, open_dataset(data).split(0.05)[1]).latents
                self._keep(
                    rank,
                    {
                        "cell": cell,
                        "policy": prevention,
                        "rank": measure_latents(latents).effective_rank,
                    },
                )

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        kept = [json.loads(p.read_text()) for p in sorted(self._folder.glob("result_*.json"))]
        rows = []
        for cell, policy in dict.fromkeys((k["cell"], k["policy"]) for k in kept):
            some = [k for k in kept if (k["cell"], k["policy"]) == (cell, policy)]
            ends = [np.array(k["successes"]) for k in some]
            low, high = interval(ends)
            count = sum(map(len, ends))
            rate = 100 * float(np.mean(np.concatenate(ends)))
            seeds = f"{len(some)} seed(s)"
            rows.append(Row(f"{cell}: {policy}: success", rate, "%", seeds, count, low, high))
            distance = 100 * float(np.median(np.concatenate([k["distances"] for k in some])))
            rows.append(Row(f"{cell}: {policy}: distance", distance, "cm", seeds, count))
            decision = float(np.median([k["decision_ms"] for k in some]))
            rows.append(Row(f"{cell}: {policy}: a decision", decision, "ms", seeds, count))
        ranks = [json.loads(p.read_text()) for p in sorted(self._folder.glob("rank_*.json"))]
        for cell, policy in dict.fromkeys((k["cell"], k["policy"]) for k in ranks):
            values = [k["rank"] for k in ranks if (k["cell"], k["policy"]) == (cell, policy)]
            name = f"{cell}: {policy}: effective rank"
            rows.append(Row(name, float(np.mean(values)), "", "", len(values)))
        return rows

    def _config(self, seed: int) -> TrainConfig:
        config = TrainConfig(seed=seed)
        if self.iterations:
            jepa = dataclasses.replace(config.jepa, iterations=self.iterations, batch=8)
            few = dataclasses.replace(config.distill, decisions=20, rounds=1, iterations=50)
            config = dataclasses.replace(config, jepa=jepa, distill=few)
        return config

    def _data(self, contract: RobotContract, task: str) -> Path:
        path = self._folder / f"{contract.name}_{task}.h5"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            begin = time.monotonic()
            count = collect(ArmSource(contract, task), path, self.transitions, 0, processes=2)
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
                train_all(data, run, contract, config)
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
    ) -> None:
        name = f"result_{cell}_{policy}_{seed}.json".replace(" ", "_").replace(":", "_")
        path = self._folder / name
        if path.exists():
            return
        task = load_task(cell.split(":")[1])
        judge, episodes = sample_episodes(contract, task.name, self._goals, TEST_SEED)
        runner = InProcessRunner(contract, bundle, task, judge, mode, goal)
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        distances = np.array(result["distances"])
        successes = (distances < judge.success_distance).tolist()
        kept = {
            "cell": cell,
            "policy": policy,
            "seed": seed,
            "successes": successes,
            "distances": distances.tolist(),
            "any_time": result["any_time_success_rate"],
            "decision_ms": result["decision_ms"]["median"],
        }
        print(f"{cell}: {policy}, seed {seed}: {100 * np.mean(successes):.0f} %", flush=True)
        self._keep(path, kept)

    @staticmethod
    def _keep(path: Path, content: dict) -> None:
        write_atomically(path, json.dumps(content) + "\n")


def interval(ends: list[np.ndarray]) -> tuple[float, float]:
    """95 %, in %: a bootstrap over training seeds, then over goals, and never narrower than
    Wilson's interval of all goals together, which knows that 100 of 100 is not certain.
    """
    rng = np.random.default_rng(0)
    means = [
        np.mean(
            [
                rng.choice(ends[i], len(ends[i])).mean()
                for i in rng.integers(len(ends), size=len(ends))
            ]
        )
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    total = np.concatenate(ends)
    least, most = wilson_interval(int(total.sum()), len(total))
    return 100 * min(low, least), 100 * max(high, most)


if __name__ == "__main__":
    typer.run(main)
