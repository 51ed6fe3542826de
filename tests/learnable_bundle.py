"""A bundle of random networks that can be learned on from, and episodes of a simple world."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from jepa_robot.learning.checkpoint import Samples
from jepa_robot.learning.export import write_bundle
from jepa_robot.learning.jepa import JEPAConfig
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.learning.upper import UpperConfig
from jepa_robot.models import Bundle
from jepa_robot.robot.contract import RobotContract, measured_size

FRAMES, LATENT = 70, 6


def random_bundle(path: Path, contract: RobotContract, upper: UpperConfig | None = None) -> Path:
    """Small networks with random weights, for a robot."""
    torch.manual_seed(0)
    jepa = JEPAConfig(latent_size=LATENT, predictor=PredictorConfig(width=32))
    measured = measured_size(contract.interface())
    shape = AgentShape(
        cameras=len(contract.cameras),
        image_size=(32, 32),
        proprioception=measured + 6,
        joints=len(contract.joints),
        actions=contract.actions.size,
        latent=LATENT,
        encoder=jepa.encoder,
        predictor=jepa.predictor,
        upper=upper,
    )
    agent = Agent(shape).eval()
    agent.body.know(contract)
    with torch.no_grad():
        for parameter in agent.parameters():  # equal ones would be one in a graph
            parameter.add_(0.01 * torch.randn_like(parameter))
    agent.critic.is_trained.fill_(True)
    images = torch.randint(0, 255, (FRAMES, shape.cameras, 32, 32, 3), dtype=torch.uint8)
    actions = torch.rand(FRAMES, shape.actions)
    samples = Samples(images, torch.rand(FRAMES, measured), actions)
    about = {
        **contract.interface(),
        "name": "random",
        "goal": "hand_position",
        "data": {},
        "command": "",
        "results": {},
        "recipe": {"jepa": dataclasses.asdict(jepa)},
    }
    write_bundle(agent, samples, path, about)
    return path


def episodes(bundle: Bundle, count: int) -> list[dict[str, np.ndarray]]:
    """In which the first numbers of the latent move as actions say, and all else rests."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        actions = rng.uniform(-1, 1, (30, bundle.action_size)).astype(np.float32)
        states = np.zeros((30, bundle.state_size), np.float32)
        begin = bundle.proprioception_size
        states[:, begin:] = rng.standard_normal(bundle.latent_size)
        moved = np.cumsum(0.1 * actions[:-1], axis=0)
        states[1:, begin : begin + bundle.action_size] += moved
        stamps = (1000 * number + np.arange(30)) * 50_000_000
        made.append({"state": states, "action": actions, "stamp": stamps})
    return made
