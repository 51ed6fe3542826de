"""A training run on disk: weights, a few frames for the parity check, and what was done."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jepa_robot.files import write_atomically
from jepa_robot.learning.dataset import Dataset
from jepa_robot.learning.networks import Agent, AgentShape

FORMAT = 1
FILE = "checkpoint.pt"
SAMPLES = 64


class InvalidCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message names what was wrong."""


@dataclass(frozen=True)
class Samples:
    """Real data, K rows: images ``[K, cameras, h, w, 3]`` uint8, joints ``[K, 2J]``, ``[K, A]``."""

    images: Tensor
    proprioception: Tensor
    actions: Tensor

    @classmethod
    def draw(cls, data: Dataset, seed: int) -> Samples:
        rng = np.random.default_rng(seed)
        episode = rng.integers(data.episodes, size=SAMPLES)
        step = rng.integers(data.actions.shape[1], size=SAMPLES)
        arrays = (data.images, data.proprioception, data.actions)
        return cls(*(torch.from_numpy(array[episode, step]) for array in arrays))


@dataclass(frozen=True)
class Checkpoint:
    """``record`` is JSON: interface, data, recipe, results."""

    agent: Agent
    samples: Samples
    record: dict


def save_checkpoint(folder: str | Path, checkpoint: Checkpoint) -> None:
    """Write atomically into a folder, which is made if it is not there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    content = {
        "format": FORMAT,
        "shape": json.dumps(dataclasses.asdict(checkpoint.agent.shape)),
        "weights": checkpoint.agent.state_dict(),
        "samples": vars(checkpoint.samples),
        "record": json.dumps(checkpoint.record),
    }
    torch.save(content, buffer)
    write_atomically(folder / FILE, buffer.getvalue())


def load_checkpoint(folder: str | Path) -> Checkpoint:
    """Read what `save_checkpoint` wrote, without running code from the file.

    Raises:
        FileNotFoundError: there is none.
        InvalidCheckpoint: it is damaged, or of another format.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: is missing, expected a folder made by train")
    try:
        content = torch.load(path, weights_only=True)
        if content["format"] != FORMAT:
            raise InvalidCheckpoint(f"{path}: format is {content['format']}, expected {FORMAT}")
        agent = Agent(AgentShape.from_dict(json.loads(content["shape"])))
        agent.load_state_dict(content["weights"])
        samples = Samples(**content["samples"])
        record = json.loads(content["record"])
    except (OSError, RuntimeError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise InvalidCheckpoint(f"{path}: is no checkpoint of this release: {error}") from error
    return Checkpoint(agent.eval(), samples, record)
