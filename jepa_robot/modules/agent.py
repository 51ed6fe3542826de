"""All modules of an agent in one process, called one after the other: no ROS."""

from __future__ import annotations

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.actor import Actor, ActorConfig
from jepa_robot.modules.configurator import Configurator
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.modules.tasks import Task
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.contract import RobotContract


class InProcessAgent:
    """Acts in episodes: `begin`, then `act` at each observation, whose ``state`` is ``[1, S]``.

    Raises:
        InvalidBundle: the bundle is of another robot.
    """

    def __init__(self, contract: RobotContract, bundle: Bundle) -> None:
        bundle.check_fits(contract)
        self.configurator = Configurator(contract, bundle)
        self._bundle, self._contract = bundle, contract
        self._perception = Perception(bundle)
        self._step = round(1e9 * bundle.manifest["time_step"])
        self._cost = Cost(bundle, contract)
        self._actor = Actor(bundle, WorldModel(bundle), self._cost)
        self.state = np.zeros((1, bundle.state_size), np.float32)

    def begin(self, task: Task) -> None:
        """Take up a task with its goal, as the configurator gives it, and forget what was."""
        self._levels, self._clock = self.configurator.levels(task), 0
        self.configure(task)
        self._perception.forget()

    def configure(self, task: Task) -> None:
        """Act for another goal or setting from now on, in the same episode."""
        sections = self.configurator.sections(task)
        cost = CostConfig.for_bundle(sections["cost"], self._bundle, self._contract)
        self._cost.configure(cost)
        known = (self._bundle.latent_size, self._bundle.precisions)
        self._actor.configure(ActorConfig.from_section(sections["actor"], *known))

    @property
    def planned(self) -> float:
        """The share of the decisions since `begin` that were planned."""
        return self._actor.planned

    def act(self, observation: Observation) -> np.ndarray:
        """The action ``[A]`` that answers an observation."""
        self.state = self._perception.encode(observation)
        if self._levels is not None:
            self._clock += self._step
            if (task := self._levels.observe(self._clock, self.state)) is not None:
                self.configure(task)
        return self._actor.act(self.state)[0]
