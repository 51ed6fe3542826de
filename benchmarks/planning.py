"""Planners: how long a decision takes, against whom, and what success which budget buys.

`jepa-robot bench planning` measures the time of one decision, beside the same in torch, the bare
matrix products and, in an environment that has them, the planners of stable-worldmodel and
pytorch-mppi; how it grows; where it goes, hop by hop, with planning local and distributed; and
success by planner and budget on goals that are the same for all.
Success takes hours: what is done is kept under runs/planning and not done again.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from _lewm import decisions
from _planning_hops import time_hops
from _planning_peers import THEIR_CEM, peers, register_peer
from _report import Report, Row
from _seeds import DRAWS, Results

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.checkpoint import Samples
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.fused_parity import imagined_costs
from jepa_robot.learning.fusing import Sizes
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.models import FLOAT32, PRECISIONS, Bundle
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.imagined import Imagined
from jepa_robot.modules.intrinsic import limits_of
from jepa_robot.modules.tasks import load_task
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.planning import PLANNERS, make_planner, read_planner
from jepa_robot.robot.contract import RobotContract, load_contract

RUNS = Path("runs/planning")
TEST_SEED = 6000
GOALS, QUICK_GOALS = 300, 3
REFERENCE = "as shipped"
FIGURES = {"decision_ms": ("a decision", "ms"), "planned": ("planned decisions", "%")}
NON_INFERIOR = 5.0  # points of success
ROUNDS, QUICK_ROUNDS = 40, 5
PAUSE = 0.01  # s between turns, as threads of who came before spin for a while
LEWM_ROUNDS = 8  # of half a minute
HOP_GOALS, QUICK_HOP_GOALS = 10, 1
# The same work for everyone: candidates, steps, iterations; sizes as of a reach bundle.
WORK = {"candidates": 256, "horizon": 5, "iterations": 5, "elites": 24}
ENOUGH = {"candidates": 32, "iterations": 2, "elites": 4}  # for reach, see success
THEIR_DEFAULTS = {"candidates": 300, "iterations": 30, "elites": 30}  # stable-worldmodel's
THEIR_ENOUGH = {"candidates": 128, "iterations": 10, "elites": 16}  # likewise
ROBOT = "panda"
WEIGHTS = {"goal_distance": 1.0, "effort": 0.01}
GROWTH = {
    "candidates": (16, 64, 256, 1024),
    "horizon": (2, 4, 8, 16),
    "iterations": (1, 2, 4, 8),
}
CELLS = {
    "reach_panda": ("panda", "reach", "image"),
    "push_panda": ("panda_push", "push", "position"),
}
# By planner: from a small to a large budget. What is not said is as the task has it, or a default.
SAMPLES = ((16, 1), (32, 2), (128, 2), (256, 5))
BUDGETS: dict[str, tuple[dict, ...]] = {
    **{
        name: tuple({"candidates": n, "iterations": i} for n, i in SAMPLES)
        for name in ("random_shooting", "cem", "icem", "mppi", "tree_search")
    },
    "gradient": tuple({"candidates": n, "iterations": i} for n, i in ((1, 3), (4, 5), (16, 10))),
    "cem_gradient": tuple(
        {"candidates": n, "iterations": i, "elites": e} for n, i, e in ((16, 1, 4), (64, 2, 8))
    ),
    "ilqr": ({"iterations": 1}, {"iterations": 3}),
    THEIR_CEM: (
        *({"candidates": n, "iterations": i} for n, i in ((64, 3), (64, 6), (64, 10), (128, 10))),
        {key: THEIR_DEFAULTS[key] for key in ("candidates", "iterations")},
    ),
}


class Part(str, Enum):
    """What is measured."""

    speed = "speed"
    growth = "growth"
    lewm = "lewm"
    hops = "hops"
    success = "success"
    modes = "modes"


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few rounds, few goals.")] = False,
    part: Annotated[list[Part] | None, typer.Option(help="Repeat it; all by default.")] = None,
    cell: Annotated[list[str] | None, typer.Option(help="A bundle; repeat it.")] = None,
    planner: Annotated[list[str] | None, typer.Option(help="Of success; repeat it.")] = None,
    goals: Annotated[int, typer.Option(help="Of success, the same for all.")] = GOALS,
    threads: int = 1,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure planners."""
    torch.set_num_threads(threads)
    register_peer()
    report = Report("planning")
    parts = part or list(Part)
    if Part.speed in parts:
        measure_speed(report, QUICK_ROUNDS if quick else ROUNDS, threads)
    if Part.growth in parts:
        measure_growth(report, QUICK_ROUNDS if quick else ROUNDS, threads)
    if Part.lewm in parts:
        measure_lewm(report, QUICK_ROUNDS if quick else LEWM_ROUNDS, quick, threads)
    bench = SuccessBench(RUNS / "quick" if quick else RUNS, QUICK_GOALS if quick else goals)
    for name in cell or CELLS:
        if Part.hops in parts:
            measure_hops(report, name, QUICK_HOP_GOALS if quick else HOP_GOALS)
        if Part.modes in parts:
            bench.run_modes(name)
        if Part.success in parts:
            for one in planner or BUDGETS:
                if one in PLANNERS:  # a peer's may not be installed
                    bench.run(name, one)
    for row in bench.rows():
        report.add(row)
    report.write(full=not quick, json_file=json_file, merge=True)


@dataclass(frozen=True)
class Work:
    """One decision's work, the same for all: a random agent, in torch and as a bundle."""

    agent: Agent
    sizes: Sizes
    bundle: Bundle
    state: np.ndarray
    goal: np.ndarray
    folder: tempfile.TemporaryDirectory

    @classmethod
    def make(cls, threads: int) -> Work:
        contract = load_contract(ROBOT)
        shape = AgentShape(
            cameras=len(contract.cameras),
            image_size=(64, 64),
            proprioception=2 * len(contract.joints) + 6,
            joints=len(contract.joints),
            actions=contract.actions.size,
            latent=16,
            predictor=PredictorConfig(width=256),
        )
        folder = tempfile.TemporaryDirectory()
        agent, path = _random_agent(shape, contract), Path(folder.name) / "random"
        about = {"name": "random", "data": {}, "command": "", "results": {}}
        samples = Samples(
            images=torch.randint(0, 255, (8, shape.cameras, 64, 64, 3), dtype=torch.uint8),
            proprioception=torch.zeros(8, 2 * shape.joints),
            actions=torch.rand(8, shape.actions),
        )
        write_bundle(agent, samples, path, {**contract.interface(), **about})
        sizes = Sizes.of(shape, len(contract.joints), 0.1)
        state = 0.1 * np.random.default_rng(0).standard_normal((1, shape.state))
        bundle = Bundle(path, threads, "cpu")
        goal = np.array([0.5, 0.1, 0.3], np.float32)
        return cls(agent, sizes, bundle, state.astype(np.float32), goal, folder)

    def problem(self, horizon: int, precision: str = FLOAT32) -> Imagined:
        """In a fused graph."""
        cost = Cost(self.bundle, load_contract(ROBOT))
        section = {"weights": WEIGHTS, "goal": {"position": self.goal}}
        cost.configure(CostConfig.for_bundle(section, self.bundle))
        weights = np.ones(horizon, np.float32)
        known = (self.bundle, WorldModel(self.bundle), cost, self.state, None, weights)
        return Imagined(*known, PRECISIONS[precision])

    def torch_costs(self, actions: torch.Tensor) -> torch.Tensor:
        """The same in torch: ``[N]`` of ``[N, H, A]``."""
        count, horizon = actions.shape[:2]
        inputs = {**self._known, "actions": actions, "step_weights": torch.ones(horizon)}
        inputs["z"] = torch.zeros(count, 1, horizon, 0)
        return imagined_costs(self.agent, self.sizes, inputs)[:, 0]

    def stage_costs(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """What states cost that actions led to, in torch: ``[N]``."""
        place = self.agent.readout(states[:, self.sizes.proprioception :])
        away = (place - torch.from_numpy(self.goal)) / self.sizes.unit
        distance = WEIGHTS["goal_distance"] * away.square().sum(dim=1).sqrt()
        return distance + WEIGHTS["effort"] * actions.square().sum(dim=1)

    @cached_property
    def _known(self) -> dict[str, torch.Tensor]:
        weights = [WEIGHTS.get(term, 0.0) for term in self.bundle.terms]
        known = {
            "state": self.state,
            "goal_latent": np.zeros(self.sizes.latent),
            "goal_encoded": np.zeros(self.sizes.latent),
            "goal_position": self.goal,
            "limits": limits_of(load_contract(ROBOT)),
            "weights": np.array(weights),
        }
        return {name: torch.from_numpy(np.float32(value)) for name, value in known.items()}

    def products(self, candidates: int, horizon: int, iterations: int) -> Callable[[], None]:
        """The bare matrix products of as much work."""
        agent, rows = self.agent, candidates * horizon
        layers = [(layer, candidates) for layer in _matrices(agent.predictor)] * horizon
        layers += [(layer, rows) for layer in _matrices(agent.readout)]
        pairs = [
            (torch.randn(count, layer.shape[1]), layer.detach().t().contiguous())
            for layer, count in layers
        ]

        @torch.inference_mode()
        def multiply() -> None:
            for _ in range(iterations):
                for one, other in pairs:
                    one @ other

        return multiply


def _random_agent(shape: AgentShape, contract: RobotContract) -> Agent:
    torch.manual_seed(0)
    agent = Agent(shape).eval()
    agent.body.know(contract)
    return agent


def _matrices(module: torch.nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in module.parameters() if parameter.dim() == 2]


class TorchProblem:
    """What `Imagined` is, in torch."""

    starts, has_policy, has_gradients = 1, False, False

    def __init__(self, work: Work) -> None:
        self._work = work

    @torch.inference_mode()
    def costs(self, actions: np.ndarray) -> np.ndarray:
        return self._work.torch_costs(torch.from_numpy(actions[0]))[None].numpy()


def measure_speed(report: Report, rounds: int, threads: int) -> None:
    """One decision, in turns: medians, and median ratios to ours."""
    work = Work.make(threads)
    horizon = WORK["horizon"]
    ours = make_planner(*read_planner({"name": "cem", **WORK}), work.sizes.actions)
    eager = make_planner(*read_planner({"name": "cem", **WORK}), work.sizes.actions)
    quick = make_planner(*read_planner({"name": "cem", **WORK, **ENOUGH}), work.sizes.actions)
    problem, in_torch = work.problem(horizon), TorchProblem(work)
    eight = make_planner(*read_planner({"name": "cem", **WORK}), work.sizes.actions)
    rounded = work.problem(horizon, "int8")
    size = {key: WORK[key] for key in ("candidates", "horizon", "iterations")}
    torchs = (
        work.torch_costs,
        work.agent.predictor,
        work.stage_costs,
        torch.from_numpy(work.state[0]),
        work.sizes.actions,
    )
    others = {
        f"{name}, {size['candidates']}x{size['iterations']}": call
        for size in (THEIR_DEFAULTS, THEIR_ENOUGH)
        for name, call in peers(*torchs, **{**WORK, **size}).items()
        if name == THEIR_CEM
    }
    tried: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.plan(problem),
        "ours, 32 candidates, 2 iterations": lambda: quick.plan(problem),
        "ours, int8": lambda: eight.plan(rounded),
        "ours, in torch": lambda: eager.plan(in_torch),
        "matrix products alone": work.products(**size),
        **peers(*torchs, **WORK),
        **others,
    }
    title = f"speed, {threads} thread(s), {'x'.join(map(str, size.values()))}"
    _report_ratios(report, title, tried, rounds)


def measure_growth(report: Report, rounds: int, threads: int) -> None:
    """How long a decision takes by candidates, steps and iterations."""
    work = Work.make(threads)
    for key, values in GROWTH.items():
        tried = {}
        for value in values:
            settings = {**WORK, key: value}
            settings["elites"] = min(settings["elites"], settings["candidates"])
            planner = make_planner(*read_planner(settings), work.sizes.actions)
            problem = work.problem(settings["horizon"])
            tried[value] = lambda planner=planner, problem=problem: planner.plan(problem)
        times = {value: np.median(taken) for value, taken in _in_turns(tried, rounds).items()}
        slope, begin = np.polyfit(list(times), list(times.values()), 1)
        title = f"growth, {threads} thread(s), {key}"
        for value, taken in times.items():
            report.add(Row(f"{title} {value}: a decision", 1000 * taken, "ms", n=rounds))
        report.add(Row(f"{title}: each", 1000 * slope, "ms", n=rounds))
        report.add(Row(f"{title}: beside", 1000 * begin, "ms", n=rounds))


def measure_lewm(report: Report, rounds: int, quick: bool, threads: int) -> None:
    """LeWM's architecture at its size, from pictures to a plan, in turns."""
    size = {"horizon": WORK["horizon"], **THEIR_DEFAULTS}
    if quick:
        size |= {"candidates": 32, "iterations": 2, "elites": 4}
    try:
        tried = decisions(**size, threads=threads)
    except ImportError as error:
        print(f"{error}: without LeWM's architecture")
        return
    work = "x".join(str(size[key]) for key in ("candidates", "horizon", "iterations"))
    _report_ratios(report, f"LeWM's architecture, {threads} thread(s), {work}", tried, rounds)


def _report_ratios(
    report: Report, title: str, tried: dict[str, Callable[[], object]], rounds: int
) -> None:
    """Medians, and median ratios to ours."""
    times = _in_turns(tried, rounds)
    for name, taken in times.items():
        value = 1000 * float(np.median(taken))
        report.add(Row(f"{title}, {name}: a decision", value, "ms", n=rounds))
        if name != "ours":
            ratio, low, high = _ratio(taken, times["ours"])
            report.add(Row(f"{title}, {name}: times ours", ratio, "", "ours", rounds, low, high))


def measure_hops(report: Report, cell: str, goals: int) -> None:
    """Where the time of a decision goes through ROS; distributed against local, in turns."""
    robot, task, goal = CELLS[cell]
    took = time_hops((load_contract(robot), task, goal), Bundle(cell), goals, TEST_SEED)
    title = f"hops, {cell}"
    for planning, by_hop in took.items():
        for hop, seconds in by_hop.items():
            if len(seconds):
                value = 1000 * float(np.median(seconds))
                report.add(Row(f"{title}, {planning}: {hop}", value, "ms", n=len(seconds)))
    here, spread = (by_hop["a decision"] for by_hop in took.values())
    ratio, low, high = _ratio(spread, here)
    report.add(Row(f"{title}, distributed: times local", ratio, "", "local", len(here), low, high))


def _in_turns(tried: dict[object, Callable[[], object]], rounds: int) -> dict[object, np.ndarray]:
    """Seconds that each took, round by round; one more round first, to warm up."""
    times = {name: [] for name in tried}
    for turn, (name, call) in itertools.product(range(rounds + 1), tried.items()):
        time.sleep(PAUSE)
        begin = time.perf_counter()
        call()
        if turn:
            times[name].append(time.perf_counter() - begin)
    return {name: np.array(taken) for name, taken in times.items()}


def _ratio(taken: np.ndarray, ours: np.ndarray) -> tuple[float, float, float]:
    """The median of ratios in the same round, and its interval by a bootstrap over rounds."""
    ratios, rng = taken / ours, np.random.default_rng(0)
    draws = np.median(rng.choice(ratios, (DRAWS, len(ratios))), axis=1)
    return float(np.median(ratios)), *map(float, np.quantile(draws, [0.025, 0.975]))


class SuccessBench:
    """Success by planner and budget, on the same goals."""

    def __init__(self, folder: Path, goals: int) -> None:
        self._folder, self._goals = folder, goals
        self._results = Results(folder)

    def run_modes(self, cell: str) -> None:
        """Mode-2 as the task has it, Mode-1, and auto."""
        shipped = load_task(CELLS[cell][1]).planner
        for title, mode in ((REFERENCE, "2"), ("mode 1", "1"), ("mode auto", "auto")):
            self._judge(cell, title, shipped, mode)

    def run(self, cell: str, planner: str) -> None:
        """All budgets of a planner, smallest first, beside the task's own settings."""
        shipped = load_task(CELLS[cell][1]).planner
        self._judge(cell, REFERENCE, shipped)
        for budget in BUDGETS[planner]:
            title, settings = _title(planner, budget), _settings(shipped, planner, budget)
            self._judge(cell, title, settings)
            if planner == "cem":
                self._judge(cell, f"{title}, int8", settings, precision="int8")

    def _judge(
        self, cell: str, title: str, settings: dict, mode: str = "2", precision: str = FLOAT32
    ) -> None:
        if self._results.has(cell, title, 0):
            return
        robot, name, goal = CELLS[cell]
        contract = load_contract(robot)
        task = replace(load_task(name), planner=settings, precision=precision)
        judge, episodes = sample_episodes(contract, name, self._goals, TEST_SEED)
        runner = InProcessRunner(contract, Bundle(cell), task, judge, mode, goal)
        try:
            result = evaluate(runner, contract, episodes, TEST_SEED)
        finally:
            runner.close()
        more = {
            "decision_ms": result["decision_ms"]["median"],
            "planned": 100 * result["planned_share"],
        }
        self._results.put(cell, title, 0, result["successes"], **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept; with the difference to the task's own settings."""
        return self._results.rows(FIGURES) + self._results.differences(REFERENCE, NON_INFERIOR)


def _title(planner: str, budget: dict) -> str:
    numbers = [str(budget[key]) for key in ("candidates", "iterations") if key in budget]
    return f"{planner} {'x'.join(numbers)}"


def _settings(shipped: dict, planner: str, budget: dict) -> dict:
    """A planner's settings: those of the task's planner that it knows too, and the budget."""
    known = {field for field in PLANNERS[planner].Config.__dataclass_fields__}
    settings = {key: value for key, value in shipped.items() if key in known}
    settings |= {"name": planner, **budget}
    count = settings.get("candidates", PLANNERS[planner].Config.candidates)
    seeds = shipped.get("seeds", 0)
    if seeds:
        settings["seeds"] = max(1, min(count, round(count * seeds / shipped["candidates"])))
    if "elites" in known:
        settings["elites"] = min(settings.get("elites", count), max(1, count // 8))
    return settings


if __name__ == "__main__":
    typer.run(main)
