"""The curve of Mode-2 compiled into Mode-1: what decisions cost falls while success stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _report import Row
from _seeds import Results

from jepa_robot.evaluation import InProcessRunner, evaluate, sample_episodes
from jepa_robot.learning.distill import DistillConfig, compile_policy
from jepa_robot.learning.export import write_version
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.revive import revive
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import AUTO
from jepa_robot.modules.agent import InProcessAgent
from jepa_robot.modules.tasks import Task, load_task
from jepa_robot.robot.contract import load_contract
from jepa_robot_sim.world import ArmWorld

ROBOT, BUNDLE, TASK = "panda", "reach_panda", "reach"
ROUNDS, QUICK_ROUNDS = 2, 1
LIVED, QUICK_LIVED = 20, 6  # episodes a round
DECISIONS, QUICK_DECISIONS = 400, 20  # of the planner, a round
GOALS, QUICK_GOALS = 100, 2
TEST_SEED, LIFE_SEED = 8000, 9700


class Compiling:
    """A bundle whose policy knows nothing, in mode auto, that learns from its own plans."""

    def __init__(self, folder: Path, seed: int, is_quick: bool) -> None:
        self._folder, self._seed, self._is_quick = folder, seed, is_quick
        self._results = Results(folder)
        self._contract = load_contract(ROBOT)
        self._task = replace(load_task(TASK), mode=AUTO)

    def run(self) -> None:
        """Judge, live, compile, and again."""
        lived: list[dict[str, np.ndarray]] = []
        rounds = QUICK_ROUNDS if self._is_quick else ROUNDS
        bundle = self._version("without a policy", Bundle(BUNDLE), lived)
        for number in range(rounds + 1):
            for mode in ("auto", "1"):
                self._judge(f"round {number}, mode {mode}", bundle, mode)
            if number == rounds:
                break
            lived += self._live(bundle, number)
            bundle = self._version(f"round {number + 1}", bundle, lived)

    def _version(self, name: str, parent: Bundle, lived: Sequence[dict]) -> Bundle:
        path = self._folder / f"{name}_{self._seed}".replace(" ", "_")
        if path.exists():
            return Bundle(path)
        if lived:
            decisions = QUICK_DECISIONS if self._is_quick else DECISIONS
            config = DistillConfig(decisions=decisions, plans=2, rounds=2, seed=self._seed)
            agent, scores = compile_policy(parent, self._contract, self._task, lived, config)
            known = Lived.of(lived)
        else:
            agent, scores = _forgetful(revive(parent), self._seed), {}
            rng = np.random.default_rng(0)
            states = rng.standard_normal((100, parent.state_size)).astype(np.float32)
            known = Lived(states, np.zeros((100, parent.action_size), np.float32), np.array([100]))
        write_version(agent, parent, known, path, {"scores": scores})
        return Bundle(path)

    def _live(self, bundle: Bundle, number: int) -> list[dict[str, np.ndarray]]:
        count = QUICK_LIVED if self._is_quick else LIVED
        seed = LIFE_SEED + 1000 * self._seed + 100 * number
        judge, episodes = sample_episodes(self._contract, TASK, count, seed)
        world, agent = ArmWorld(self._contract, judge), InProcessAgent(self._contract, bundle)
        lived: list[dict[str, np.ndarray]] = []
        for episode in episodes:
            task: Task = agent.configurator.with_image(self._task, world.goal_images(episode))
            agent.begin(task)
            frame, states, actions = world.reset(episode), [], []
            for _ in range(judge.steps):
                actions.append(agent.act(frame.observation))
                states.append(agent.state[0])
                frame = world.step(actions[-1])
            lived.append({"state": np.array(states), "action": np.array(actions)})
        world.close()
        return lived

    def _judge(self, policy: str, bundle: Bundle, mode: str) -> None:
        if self._results.has("compiling", policy, self._seed):
            return
        goals = QUICK_GOALS if self._is_quick else GOALS
        judge, episodes = sample_episodes(self._contract, TASK, goals, TEST_SEED)
        runner = InProcessRunner(self._contract, bundle, self._task, judge, mode, "image")
        try:
            result = evaluate(runner, self._contract, episodes, TEST_SEED)
        finally:
            runner.close()
        more = {
            "distances": [100 * distance for distance in result["distances"]],
            "decision_ms": result["decision_ms"]["mean"],
            "planned": 100 * result["planned_share"],
        }
        self._results.put("compiling", policy, self._seed, result["successes"], **more)

    def rows(self) -> list[Row]:
        """Of everything that was kept."""
        figures = {
            "distances": ("distance", "cm"),
            "decision_ms": ("a decision, mean", "ms"),
            "planned": ("decisions that were planned", "%"),
        }
        return self._results.rows(figures)


def _forgetful(agent: Agent, seed: int) -> Agent:
    """The agent with a policy of random weights."""
    torch.manual_seed(seed)
    for layer in agent.policy.network:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    with torch.no_grad():
        for parameter in agent.policy.network.parameters():  # equal ones would be one in a graph
            parameter.add_(1e-3 * torch.randn_like(parameter))
    return agent
