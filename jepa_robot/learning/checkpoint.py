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

from jepa_robot.dataset import Dataset
from jepa_robot.files import write_atomically
from jepa_robot.learning.networks import Agent, AgentShape

FORMAT = 3
FILE = "checkpoint.pt"
SAMPLES = 64


class InvalidCheckpoint(ValueError):
    """A checkpoint that cannot be used; the message names what was wrong."""


@dataclass(frozen=True)
class Samples:
    """Real data: images ``[M, K, cameras, h, w, 3]`` uint8, joints ``[M, P]``, actions ``[M, A]``.

    Where the history K is 1 images lack its axis, as in the bundle's encoder.
    """

    images: Tensor
    proprioception: Tensor
    actions: Tensor

    @classmethod
    def draw(cls, data: Dataset, history: int, seed: int) -> Samples:
        rng = np.random.default_rng(seed)
        starts = data.windows(1, history)
        rows = starts[rng.integers(len(starts), size=SAMPLES)]
        past = rows if history == 1 else rows[:, None] - np.arange(history)[::-1]
        arrays = (data.images(past), data.proprioception(rows), data.columns["action"][rows])
        return cls(*map(torch.from_numpy, arrays))


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
