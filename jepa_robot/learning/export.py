"""A trained agent as a bundle: ONNX graphs that were compared with torch, and their manifest."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from jepa_robot.learning.dataset import Dataset
from jepa_robot.learning.networks import Agent
from jepa_robot.models import write_manifest

OPSET = 17
TOLERANCE = {"encoder": 1e-3, "predictor": 1e-3, "policy": 1e-4, "readout": 1e-4}
PARITY_FRAMES = 64


class ParityError(RuntimeError):
    """An exported graph does not compute what the network does."""


class _Perception(nn.Module):
    """Encoder with the bundle's signature: joints in front of the latent."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor, proprioception: Tensor) -> Tensor:
        return torch.cat([proprioception, self.encoder(images)], dim=1)


def write_bundle(agent: Agent, data: Dataset, folder: str | Path, manifest: dict) -> dict:
    """Export every graph into a new folder, which appears when it is complete and checked.

    Args:
        agent: the trained networks.
        data: real frames and actions for the parity check; gives the robot's interface.
        folder: the bundle to make; must not exist.
        manifest: ``name`` and whatever else is to be recorded.

    Returns:
        The manifest as written, with ``parity``: the largest absolute difference a graph.

    Raises:
        FileExistsError: if ``folder`` exists.
        ParityError: a graph differs from torch by more than its tolerance.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder}: exists, expected the name of a new bundle")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        graphs = _graphs(agent.eval(), data)
        for name, (module, inputs, output) in graphs.items():
            _export(module, inputs, output, temporary / f"{name}.onnx")
        parity = {name: _parity(temporary, name, *graph[:2]) for name, graph in graphs.items()}
        written = write_manifest(
            temporary,
            {
                **manifest,
                **data.interface,
                "latent_size": agent.shape.latent,
                "image_size": list(agent.shape.image_size),
                "opset": OPSET,
                "parity": parity,
                "torch": torch.__version__,
            },
        )
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


@torch.no_grad()
def _graphs(agent: Agent, data: Dataset) -> dict[str, tuple[nn.Module, dict[str, Tensor], str]]:
    """Each graph's module, its inputs made of real data, and the name of its output."""
    rng = np.random.default_rng(0)
    episode = rng.integers(data.episodes, size=PARITY_FRAMES)
    step = rng.integers(data.actions.shape[1], size=PARITY_FRAMES)
    images = torch.from_numpy(data.images[episode, step])
    proprioception = torch.from_numpy(data.proprioception[episode, step])
    action = torch.from_numpy(data.actions[episode, step])
    perception = _Perception(agent.encoder)
    state = perception(images, proprioception)
    latent = state[:, 2 * agent.shape.joints :].contiguous()
    position = agent.readout(latent)
    return {
        "encoder": (perception, {"images": images, "proprioception": proprioception}, "state"),
        "predictor": (agent.predictor, {"state": state, "action": action}, "next_state"),
        "policy": (agent.policy, {"state": state, "goal_latent": latent.flip(0)}, "action"),
        "readout": (agent.readout, {"latent": latent}, "position"),
        "goal_encoder": (agent.goal_encoder, {"position": position}, "latent"),
    }


def _export(module: nn.Module, inputs: dict[str, Tensor], output: str, path: Path) -> None:
    with warnings.catch_warnings():
        # The legacy exporter says that it is one; it is ten times as fast as the new one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={name: {0: "N"} for name in (*inputs, output)},
            opset_version=OPSET,
            dynamo=False,
            external_data=False,
        )


@torch.no_grad()
def _parity(folder: Path, name: str, module: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The largest absolute difference of graph and module, for whole batches and single rows."""
    session = onnxruntime.InferenceSession(
        str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    worst = 0.0
    for rows in (slice(None), slice(0, 1)):
        batch = {key: value[rows] for key, value in inputs.items()}
        expected = module(*batch.values()).numpy()
        actual = session.run(None, {key: value.numpy() for key, value in batch.items()})[0]
        worst = max(worst, float(np.abs(actual - expected).max()))
    tolerance = TOLERANCE.get(name, 1e-3)
    if not worst <= tolerance:
        raise ParityError(
            f"{name}.onnx differs from torch by up to {worst:.2e}, expected at most {tolerance:g}"
        )
    return worst
