"""Learner node: learns from memory while the robot runs, and hands out bundles that are better.

The only process that loads torch. It may take a share of one processor, and what others leave.
"""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rclpy.lifecycle import TransitionCallbackReturn
from sensor_msgs.msg import Image
from std_msgs.msg import String

from jepa_robot.files import IsLocked, lock
from jepa_robot.learning.distill import Planner
from jepa_robot.learning.export import ParityError, write_version
from jepa_robot.learning.learner import LearnerConfig, Watch, learn
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.revive import revive
from jepa_robot.models import CRITIC, Bundle
from jepa_robot.modules.configurator import PREPARED, Configuration
from jepa_robot.modules.cost import POSITION_UNIT
from jepa_robot.modules.memory_files import read_memory
from jepa_robot.nodes import messages
from jepa_robot.nodes.base import AgentNode
from jepa_robot.nodes.latch import state_file
from jepa_robot.nodes.messages import DATA, LATCHED
from jepa_robot.nodes.runtime import main, schedule

LOOK = 5.0  # s between two looks at memory
KEPT = 5  # versions on disk, beside the one in force and its parent
LEAST_NICE = 19
SHORTEST = 16  # steps of an episode that is learned from
VERSION = "version_{:04d}"
IMAGINATION, PLANS = "imagination", "plans"  # what a policy can be learned from


class LearnerNode(AgentNode):
    """Predictor, policy and critic of the bundle in force, learned on from what memory has on disk.

    A candidate that is better on episodes that it has not learned from is written as a bundle
    and announced (``bundle``). Where surprise or cost get worse once it is in force, its parent is
    announced again. It configures and activates itself; the agent does not wait for it.
    """

    takes_configurations = False

    def __init__(self) -> None:
        super().__init__("learner")
        self.declare_parameter("memory", "")
        self.declare_parameter("versions", "")
        self.declare_parameter("share", 0.5)
        self.declare_parameter("new_steps", 4000)
        self.declare_parameter("newest", 16_000)
        self.declare_parameter("iterations", 600)
        self.declare_parameter("policy", IMAGINATION)
        self._worker: threading.Thread | None = None
        self._is_over = threading.Event()
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def setup(self) -> None:
        torch.set_num_threads(1)
        share = self.parameter("share")
        if not 0 < share <= 1:
            raise ValueError(f"share is {share:g}, expected above 0, at most 1")
        for name, least in (("new_steps", 1), ("newest", 100), ("iterations", 1)):
            if self.parameter(name) < least:
                raise ValueError(f"{name} is {self.parameter(name)}, expected at least {least}")
        if self.parameter("policy") not in (IMAGINATION, PLANS):
            raise ValueError(
                f"policy is {self.parameter('policy')!r}, expected one of {[IMAGINATION, PLANS]}"
            )
        self._memory = self._folder("memory") / self.bundle.space
        self._versions = self._folder("versions") / self.bundle.space
        self._lock_versions()
        self._announce = self.publisher(String, "bundle", DATA)
        self._watch, self._seen = Watch(), {}
        self._goal: list[float] | None = None
        self._sections: dict[str, dict] | None = None  # of the configuration in force
        self._is_changed = threading.Event()
        values = ("rounds", "taken", "refused", "rolled_back", "steps_learned_from")
        self.diagnostics.values |= dict.fromkeys(values, 0)

    def build(self, bundle: Bundle) -> Agent:
        return revive(bundle)

    def adopt(self, built: Agent) -> None:
        self._agent = built

    def connect(self) -> None:
        self.subscribe(String, "configuration", self._on_configuration, LATCHED)
        self.subscribe(Image, "surprise", self._on_surprise, DATA)
        self.subscribe(Image, "cost", self._on_cost, DATA)
        self._is_over.clear()
        self._worker = threading.Thread(target=self._learn_for_ever, daemon=True)
        self._worker.start()

    def disconnect(self) -> None:
        self._is_over.set()
        if self._worker is not None:
            self._worker.join()
            self._worker = None

    def _folder(self, kind: str) -> Path:
        known = self.parameter(kind)
        default = state_file(self.contract.name, self.get_namespace(), kind)
        return Path(known).expanduser() if known else default

    def _lock_versions(self) -> None:
        """One learner a memory: two would hand out bundles that do not know of each other."""
        self._versions.mkdir(parents=True, exist_ok=True)
        try:
            held = lock(self._versions / "lock")
        except IsLocked as error:
            raise ValueError(
                f"{self._versions}: process {error.holder} learns there, expected none"
            ) from error
        self._made.append((lambda stream: stream.close(), held))

    # What is in force, and how it goes.

    def _on_configuration(self, message: String) -> None:
        """Learn on from the bundle that is in force."""
        configuration = Configuration.from_json(message.data)
        if configuration.activation == PREPARED:
            return
        goal = configuration.sections["cost"].get("goal", {}).get("position")
        if goal is None or goal != self._goal:
            self._watch.has_another_goal()
        self._goal, self._sections = goal, configuration.sections
        if configuration.bundle == self.bundle.id:
            return
        bundle = Bundle(configuration.path, provider=self.parameter("provider"))
        bundle.check_space(self.bundle)
        built = self.build(bundle)
        self.bundle = bundle
        self.adopt(built)
        self._watch.changed()
        self._is_changed.set()
        self.diagnostics.values["bundle"] = bundle.id

    def _on_surprise(self, message: Image) -> None:
        self._see(message, "surprise", messages.read_tensor(message, "surprise", 1)[0, 0])

    def _on_cost(self, message: Image) -> None:
        terms = messages.read_tensor(message, "cost", len(self.bundle.terms))[0]
        counted = np.array([name != CRITIC for name in self.bundle.terms])  # that is foreseen
        self._see(message, "cost", terms[counted].sum())

    def _see(self, message: Image, what: str, value: float) -> None:
        if message.header.frame_id != self.bundle.id:
            return
        stamp = messages.from_time(message.header.stamp)
        known = self._seen.setdefault(stamp, {})
        known[what] = float(value)
        if len(known) == 2:
            self._watch.see(known["surprise"], known["cost"])
            self._seen.clear()
            self._judge()

    def _judge(self) -> None:
        worse, parent = self._watch.worse, self.bundle.manifest.get("parent_path")
        if not worse or not parent:
            return
        self._watch = Watch()
        self.diagnostics.values["rolled_back"] += 1
        self.diagnostics.warn(f"{worse} got worse under {self.bundle.id}: back to its parent")
        self._announce.publish(String(data=parent))

    # Learning.

    def _learn_for_ever(self) -> None:
        schedule(niceness=LEAST_NICE)
        self._worked = time.thread_time()
        learned_to = -1  # stamp (ns) of the newest step that was learned from
        while not self._is_over.wait(LOOK):
            try:
                found = read_memory(self._memory, self.bundle, self.parameter("newest"))
                episodes = [one for one in found.episodes if len(one["stamp"]) >= SHORTEST]
                stamps = [one["stamp"] for one in episodes]
                newest = max((int(some.max()) for some in stamps), default=-1)
                learned_to = learned_to if learned_to <= newest else -1  # the clock began anew
                fresh = sum(int((some > learned_to).sum()) for some in stamps)
                self.diagnostics.values["new_steps"] = fresh
                if fresh >= self.parameter("new_steps") and self._sections is not None:
                    learned_to = newest
                    self._learn_once(episodes)
            except _Stopped:
                return
            except (ValueError, OSError, ParityError) as error:
                self.diagnostics.error(f"nothing was learned: {error}")
            except Exception as error:  # a thread that ends in silence would never learn again
                if not self.context.ok():
                    return  # the process ends
                self.diagnostics.error(f"nothing was learned: {error!r}")

    def _learn_once(self, episodes: list[dict[str, np.ndarray]]) -> None:
        values, parent, agent = self.diagnostics.values, self.bundle, self._agent
        self._is_changed.clear()
        begin = time.monotonic()
        unit = parent.manifest.get("goal_unit", POSITION_UNIT)
        config = LearnerConfig.of(self.parameter("iterations"), seed=values["rounds"])
        planner = self._planner(parent) if self.parameter("policy") == PLANS else None
        candidate, scores = learn(agent, episodes, config, unit, self._pace, planner)
        values["rounds"] += 1
        steps = sum(len(one["stamp"]) for one in episodes)
        values |= {"steps_learned_from": steps, **scores.told()}
        if self._is_changed.is_set():
            return  # of a bundle that is no longer in force
        if not scores.is_better:
            values["refused"] += 1
            self.diagnostics.ok(f"active; the last candidate was refused: {scores.told()}")
            return
        first, last = episodes[0]["stamp"][0], episodes[-1]["stamp"][-1]
        learned = {
            "steps": steps,
            "episodes": len(episodes),
            "stamps": [int(first), int(last)],
            "policy": self.parameter("policy"),
            "scores": scores.told(),
            "seconds": round(time.monotonic() - begin, 1),
        }
        path = self._write(candidate, parent, episodes, learned)
        values["taken"] += 1
        self.diagnostics.ok("active")
        self._announce.publish(String(data=str(path)))

    def _planner(self, bundle: Bundle) -> Planner:
        """The actor's, as the configuration in force has it."""
        weights = self._sections["cost"].get("weights", {})
        settings = self._sections["actor"].get("planner", {})
        seed = self.diagnostics.values["rounds"]
        return Planner(bundle, self.contract, seed, weights, settings)

    def _write(
        self, candidate: Agent, parent: Bundle, episodes: list[dict[str, Any]], learned: dict
    ) -> Path:
        paths = sorted(self._versions.glob(VERSION.replace("{:04d}", "[0-9]*")))
        number = 1 + int(paths[-1].name.split("_")[1]) if paths else 0
        path = self._versions / VERSION.format(number)
        write_version(candidate, parent, Lived.of(episodes), path, learned)
        for old in paths[:-KEPT]:
            if old.resolve() not in (parent.path.resolve(), self.bundle.path.resolve()):
                shutil.rmtree(old, ignore_errors=True)
        return path.resolve()

    def _pace(self, done: int, total: int) -> None:
        """Rest so long that the share of a processor is kept; stop where the node does."""
        now, share = time.thread_time(), self.parameter("share")
        worked, self._worked = now - self._worked, now
        if self._is_over.wait(worked * (1 / share - 1)):
            raise _Stopped


class _Stopped(Exception):
    """The node ends while it learns."""


def run() -> None:
    main(LearnerNode, niceness=LEAST_NICE)


if __name__ == "__main__":
    run()
