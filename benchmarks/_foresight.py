"""What the critic is worth: the horizon that a plan can do without, and how right it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from _lives import TASK, live
from _report import Row
from _seeds import Results
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.critic import CriticConfig, fit_critic
from jepa_robot.learning.export import write_version
from jepa_robot.learning.imagination import ImaginationConfig, running_cost
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.revive import revive
from jepa_robot.models import CRITIC, Bundle
from jepa_robot.modules.tasks import load_task
from jepa_robot.robot.contract import RobotContract

HORIZONS = (1, 2, 4, 8)
SHORT = 2  # steps: where critics are compared
GOALS, QUICK_GOALS = 100, 2
TEST_SEED, LIFE_SEED, TRUTH_SEED = 8000, 9500, 8500
MARGIN = 10  # points of success
LIVED, QUICK_LIVED = 150, 4  # episodes that a critic is fitted to
KINDS = {"random play": (0.0, 1.2), "competent play": (1.0, 0.4)}  # competence, noise
METHODS = {"temporal differences": 0.0, "lambda 0.95": 0.95, "Monte Carlo": 1.0}
# Critics: of a kind of life, by a mixing of returns, and whether under the goals that were pursued.
FITTED = {
    f"{kind}, {method}": (kind, mixing, False)
    for kind in KINDS
    for method, mixing in METHODS.items()
} | {"competent play, pursued goals": ("competent play", 0.95, True)}
IMAGINED = "imagination"
# Truth: what the policy costs from a state on, in so many episodes, of which so many steps are
# looked at; what comes after the end counts 0.98^100 = 13 %, and is taken to be like the end.
TRUE, QUICK_TRUE, TRUE_STEPS, JUDGED_STEPS = 40, 2, 150, 50
BINS = 8
UNIT = 0.1  # m
PICTURE = Path(__file__).parents[1] / "docs" / "critic.png"


@dataclass(frozen=True)
class Truth:
    """Of M states: ``state`` ``[M, S]``, ``goal`` ``[M, D]``, and what they cost ``[M]``."""

    state: np.ndarray
    goal: np.ndarray
    cost: np.ndarray


class Foresight:
    """Measures of a push bundle's critic, and of others that are fitted to what was lived."""

    def __init__(
        self, contract: RobotContract, bundle: Bundle, folder: Path, seed: int, is_quick: bool
    ) -> None:
        self._contract, self._bundle, self._folder = contract, bundle, folder
        self._seed, self._is_quick = seed, is_quick
        self._results = Results(folder)

    def run(self) -> None:
        """Measure what was not yet."""
        for horizon in HORIZONS[:: 3 if self._is_quick else 1]:
            self._judge(f"horizon {horizon}, critic", self._bundle, horizon, 1.0)
            self._judge(f"horizon {horizon}, no critic", self._bundle, horizon, 0.0)
        bundles = {IMAGINED: self._bundle} | {name: self._fitted(name) for name in FITTED}
        truth, told = self._truth(), {}
        for name, bundle in bundles.items():
            told[name] = _foreseen(revive(bundle), truth)
            figures = _reliability(*told[name], truth.cost)
            self._judge(f"critic of {name}, horizon {SHORT}", bundle, SHORT, 1.0, **figures)
        if not self._is_quick:
            _draw(told, truth.cost)

    def _judge(
        self, policy: str, bundle: Bundle, horizon: int, weight: float, **more: float
    ) -> None:
        if self._results.has("critic", policy, self._seed):
            return
        goals = QUICK_GOALS if self._is_quick else GOALS
        judge, episodes = sample_episodes(self._contract, TASK, goals, TEST_SEED)
        task = load_task(TASK)
        weights = {**task.weights, CRITIC: weight}
        task = replace(task, weights=weights, planner={**task.planner, "horizon": horizon})
        runner = InProcessRunner(self._contract, bundle, task, judge, "2", "position")
        try:
            result = evaluate(runner, self._contract, episodes, TEST_SEED)
        finally:
            runner.close()
        more |= {"distances": [100 * distance for distance in result["distances"]]}
        more |= {"decision_ms": result["decision_ms"]["median"]}
        self._results.put("critic", policy, self._seed, result["successes"], **more)

    def _fitted(self, name: str) -> Bundle:
        """The bundle with critics of its own memory, of one kind of life."""
        path = self._folder / f"{name}_{self._seed}".replace(", ", "_").replace(" ", "_")
        if not path.exists():
            kind, mixing, is_pursued = FITTED[name]
            episodes = self._lived(kind)
            lived, goals = Lived.of(episodes), None
            if is_pursued:
                goals = np.concatenate([one["goal"] for one in episodes])
            agent = revive(self._bundle)
            cost = ImaginationConfig(**self._bundle.manifest["recipe"]["imagination"])
            iterations = 20 if self._is_quick else CriticConfig.iterations
            config = CriticConfig(mixing=mixing, cost=cost, seed=self._seed, iterations=iterations)
            fit_critic(agent, lived, config, UNIT, goals=goals)
            write_version(agent, self._bundle, lived, path, {"critic": name})
        return Bundle(path)

    def _lived(self, kind: str) -> list[dict[str, np.ndarray]]:
        competence, noise = KINDS[kind]
        count = QUICK_LIVED if self._is_quick else LIVED
        seed = LIFE_SEED + 1000 * self._seed
        return self._kept(kind, count, seed, noise, competence)

    def _kept(
        self, name: str, count: int, seed: int, noise: float, competence: float, steps: int = 0
    ) -> list[dict[str, np.ndarray]]:
        """Lived once."""
        file = self._folder / f"lived_{name}_{self._seed}.npz".replace(" ", "_")
        if not file.exists():
            lived = live(self._contract, self._bundle, count, seed, noise, competence, steps=steps)
            file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(file, **{key: np.stack([one[key] for one in lived]) for key in lived[0]})
        with np.load(file) as kept:
            columns = {key: kept[key] for key in kept}
        return [
            {key: column[index] for key, column in columns.items()}
            for index in range(len(columns["state"]))
        ]

    def _truth(self) -> Truth:
        count = QUICK_TRUE if self._is_quick else TRUE
        lived = self._kept("truth", count, TRUTH_SEED, 0.0, 1.0, TRUE_STEPS)
        config = ImaginationConfig(**self._bundle.manifest["recipe"]["imagination"])
        costs = []
        for one in lived:
            latents = [self._bundle.latent(one["state"]), one["goal"]]
            seen, place = (
                torch.from_numpy(self._bundle.session("readout")(latent=latent))
                for latent in map(np.ascontiguousarray, latents)
            )
            action = torch.from_numpy(one["action"])
            each = running_cost(seen[1:], place[1:], action[:-1], config, UNIT).numpy()
            ahead, returns = each[-BINS:].mean() / (1 - config.discount), []
            for cost in each[::-1]:
                ahead = cost + config.discount * ahead
                returns.append(ahead)
            costs.append(returns[::-1][:JUDGED_STEPS])
        states, goals = (
            np.concatenate([one[name][:JUDGED_STEPS] for one in lived])
            for name in ("state", "goal")
        )
        return Truth(states, goals, np.concatenate(costs))

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {
            "distances": ("distance", "cm"),
            "decision_ms": ("a decision", "ms"),
            "correlation": ("foreseen and true cost, correlation", ""),
            "bias": ("foreseen less true cost, of the true", "%"),
            "error": ("error of what is foreseen, of the true cost", "%"),
            "doubt": ("spread of critics and their error, rank correlation", ""),
        }
        if not self._folder.exists():
            return []
        reference = f"horizon {load_task(TASK).planner['horizon']}, critic"
        return self._results.rows(figures) + self._results.differences(reference, MARGIN)


def _foreseen(agent: Agent, truth: Truth) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean ``[M]``, and how far critics are apart, if there are several."""
    with torch.no_grad():
        values = agent.critic.foresee(*map(torch.from_numpy, (truth.state, truth.goal))).numpy()
    return values.mean(axis=0), values.std(axis=0) if len(values) > 1 else None


def _reliability(mean: np.ndarray, spread: np.ndarray | None, cost: np.ndarray) -> dict[str, float]:
    error = np.abs(mean - cost)
    figures = {
        "correlation": float(np.corrcoef(mean, cost)[0, 1]),
        "bias": 100 * float((mean - cost).mean() / cost.mean()),
        "error": 100 * float(error.mean() / cost.mean()),
    }
    if spread is not None:
        ranks = [values.argsort().argsort() for values in (spread, error)]
        figures["doubt"] = float(np.corrcoef(*ranks)[0, 1])
    return figures


def _draw(told: dict[str, tuple[np.ndarray, np.ndarray | None]], cost: np.ndarray) -> None:
    """Reliability: what came, by what was foreseen, in bins of as many states."""
    figure = Figure(figsize=(6.4, 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    most = max(float(np.quantile(values[0], 0.98)) for values in told.values())
    axes.plot([0, most], [0, most], color="0.7", linewidth=1, label="as foreseen")
    for name, (mean, _) in told.items():
        parts = np.array_split(mean.argsort(), BINS)
        at = [[values[part].mean() for part in parts] for values in (mean, cost)]
        style = "--" if name.startswith("random") else "-"
        axes.plot(*at, style, marker="o", markersize=3, label=name)
    axes.set_xlabel("cost to go, foreseen")
    axes.set_ylabel("cost to go of the policy, as it came")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, format="png")
