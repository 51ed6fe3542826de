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

from jepa_robot.dataset import check_interface
from jepa_robot.learning.backbones import inline_backbones
from jepa_robot.learning.checkpoint import SAMPLES, Samples, load_checkpoint
from jepa_robot.learning.fused_parity import fused_parity
from jepa_robot.learning.fusing import Sizes, fuse
from jepa_robot.learning.graph_writer import OPSET
from jepa_robot.learning.lived import Lived
from jepa_robot.learning.networks import Agent, Foresight
from jepa_robot.learning.terms import NEEDS
from jepa_robot.models import Bundle, write_manifest
from jepa_robot.modules.cost import POSITION_UNIT
from jepa_robot.modules.intrinsic import fingerprint
from jepa_robot.robot.contract import RobotContract

RECORDED = ("goal", "goal_unit", "data", "recipe", "results")
KEPT = ("encoder", "upper")  # graphs of its parent that a bundle keeps that learned on
TOLERANCE = 1e-4  # of any output: rad, rad/s, m, latent units of about 1 or actions in [-1, 1]


_Graphs = dict[str, tuple[nn.Module, dict[str, Tensor], tuple[str, ...]]]


class ParityError(RuntimeError):
    """An exported graph does not compute what the network does."""


class _Perception(nn.Module):
    """Encoder with the bundle's signature: joints in front of the latent, and views if fitted."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.encoder, self.body = agent.encoder, agent.body
        self.views = agent.views if agent.views.is_fitted else None

    def forward(self, images: Tensor, proprioception: Tensor) -> tuple[Tensor, ...]:
        features = self.encoder.look(images.flatten(0, 1) if images.dim() == 6 else images)
        frames = features.unflatten(0, (-1, self.encoder.history))
        # Of no joints, too: a graph takes all its inputs.
        state = torch.cat([self.body(proprioception), self.encoder.latents(frames)], dim=1)
        if self.views is None:
            return (state,)
        last = images[:, -1] if images.dim() == 6 else images
        return state, self.views(self.views.features(last, frames[:, -1]))


def export(
    run_folder: str | Path,
    bundle_folder: str | Path,
    name: str,
    command: str,
    contract: RobotContract | None = None,
) -> dict:
    """Write the bundle of a finished training run.

    Args:
        run_folder: made by `jepa_robot.learning.pipeline.train_all`.
        bundle_folder: must not exist.
        name: the bundle's; its id is this and a hash.
        command: recorded in the manifest.
        contract: the robot it is for; None for what its data is of.

    Returns:
        The manifest.

    Raises:
        FileExistsError: if ``bundle_folder`` exists.
        FileNotFoundError, InvalidCheckpoint: there is no such run, or it is damaged.
        InvalidDataset: the run was trained on data of another robot; names what differs.
        ParityError: a graph differs from torch by more than its tolerance.
    """
    checkpoint = load_checkpoint(run_folder)
    interface = checkpoint.record["interface"]
    if contract is not None:
        check_interface(str(run_folder), interface, contract.interface())
        interface = contract.interface()
    record = {
        **interface,
        "name": name,
        "command": command,
        **{field: checkpoint.record[field] for field in RECORDED},
    }
    return write_bundle(checkpoint.agent, checkpoint.samples, bundle_folder, record)


def write_bundle(
    agent: Agent,
    samples: Samples,
    folder: str | Path,
    manifest: dict,
    has_derivatives: bool = True,
) -> dict:
    """Export every graph into a new folder, which appears when it is complete and checked.

    Args:
        agent: the trained networks.
        samples: real frames and actions for the parity check.
        folder: the bundle to make; must not exist.
        manifest: ``name``, the robot's interface, and what else is to be recorded.
        has_derivatives: with the graphs that planners descend.

    Returns:
        The manifest as written, with ``parity``: the largest absolute difference a graph.

    Raises:
        FileExistsError: if ``folder`` exists.
        ParityError: a graph differs from torch by more than its tolerance.
    """
    graphs = _graphs(agent.eval(), samples)
    described = {
        **manifest,
        "latent_size": agent.shape.latent,
        "proprioception_size": agent.shape.proprioception,
        "history": agent.shape.history,
        "z_size": agent.shape.z,
        "goal_size": agent.shape.goal,
        "critics": agent.shape.critics,
        "image_size": list(agent.shape.image_size),
    }
    if agent.upper is not None:
        described["upper_stride"] = agent.shape.upper.stride
    return _write(agent, graphs, Path(folder), described, has_derivatives=has_derivatives)


def write_version(
    agent: Agent, parent: Bundle, lived: Lived, folder: str | Path, learned: dict
) -> dict:
    """Write what learned on as a bundle of the same latent space: its encoder is the parent's.

    Args:
        agent: predictor, policy and critic, that began as the parent's.
        parent: the bundle that they began as.
        lived: what they learned from, for the parity check.
        folder: the bundle to make; must not exist.
        learned: what is recorded of how they came about.

    Returns, and raises:
        As `write_bundle`.
    """
    rows = np.linspace(0, len(lived.states) - 1, SAMPLES).astype(int)
    state, action = (torch.from_numpy(part[rows]) for part in (lived.states, lived.actions))
    graphs = _learned_graphs(agent.eval(), state, action)
    described = {**parent.manifest, "parent": parent.id, "learned": learned}
    described["critics"] = agent.shape.critics
    described["parent_path"] = str(parent.path.resolve())
    known = parent.manifest.get("parity", {})
    described["parity"] = {name: known[name] for name in known if name in KEPT}
    return _write(agent, graphs, Path(folder), described, parent)


def _write(
    agent: Agent,
    graphs: _Graphs,
    folder: Path,
    manifest: dict,
    parent: Bundle | None = None,
    has_derivatives: bool = True,
) -> dict:
    """Graphs, those that are fused of them, and a manifest: a folder that is whole or not there."""
    if folder.exists():
        raise FileExistsError(f"{folder}: exists, expected the name of a new bundle")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        for name in KEPT if parent is not None else ():
            if parent.has(name):
                shutil.copy(parent.path / f"{name}.onnx", temporary)
        for name, (module, inputs, outputs) in graphs.items():
            _export(module, inputs, outputs, temporary / f"{name}.onnx")
        parity = {name: _parity(temporary, name, *graph[:2]) for name, graph in graphs.items()}
        unit = manifest.get("goal_unit", POSITION_UNIT)
        sizes = Sizes.of(agent.shape, len(manifest["joints"]), unit)
        fuse(temporary, sizes, agent if has_derivatives else None)
        fused = fused_parity(temporary, sizes, agent, graphs["predictor"][1]["state"])
        parity |= {name: _checked(name, difference) for name, difference in fused.items()}
        described = {
            **manifest,
            "terms": NEEDS,
            "intrinsic": fingerprint(),
            "opset": OPSET,
            "parity": {**manifest.get("parity", {}), **parity},
            "torch": torch.__version__,
        }
        written = write_manifest(temporary, described)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return written


@torch.no_grad()
def _graphs(agent: Agent, samples: Samples) -> _Graphs:
    """Each graph's module, its inputs made of real data, and the names of its outputs."""
    images, proprioception, action = samples.images, samples.proprioception, samples.actions
    perception = _Perception(agent).eval()  # export() restores the outermost mode
    state, *views = perception(images, proprioception)
    seen = ("state", "views") if views else ("state",)
    encoder = (perception, {"images": images, "proprioception": proprioception}, seen)
    return {"encoder": encoder, **_learned_graphs(agent, state, action)}


@torch.no_grad()
def _learned_graphs(agent: Agent, state: Tensor, action: Tensor) -> _Graphs:
    """Those that take states, likewise."""
    latent = state[:, agent.shape.proprioception :].contiguous()
    z = torch.randn(len(state), agent.shape.z, generator=torch.Generator().manual_seed(0))
    imagined = {"state": state, "action": action, "z": z}
    graphs = {
        "predictor": (agent.predictor, imagined, ("next_state",)),
        "policy": (agent.policy, {"state": state, "goal_latent": latent.flip(0)}, ("action",)),
    }
    if agent.shape.goal:
        position = agent.readout(latent)
        graphs["readout"] = (agent.readout, {"latent": latent}, ("position",))
        graphs["goal_encoder"] = (agent.goal_encoder, {"position": position}, ("latent",))
    if agent.upper is not None:
        macros = torch.rand(len(state), agent.shape.upper.horizon, agent.shape.goal) * 2 - 1
        graphs["upper"] = (agent.upper, {"state": state, "macros": macros}, ("places", "asked"))
    if agent.critic.is_trained:
        given = {"state": state, "goal_latent": latent.flip(0)}
        graphs["critic"] = (agent.critic, given, ("cost",))
        if agent.shape.critics > 1:
            graphs["critic"] = (Foresight(agent.critic), given, ("cost", "spread"))
    return graphs


def _export(
    module: nn.Module, inputs: dict[str, Tensor], outputs: tuple[str, ...], path: Path
) -> None:
    with warnings.catch_warnings():
        # The legacy exporter says that it is one; it is ten times as fast as the new one.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "N"} for name in (*inputs, *outputs)},
            opset_version=OPSET,
            dynamo=False,
            external_data=False,
        )
    inline_backbones(module, path)


@torch.no_grad()
def _parity(folder: Path, name: str, module: nn.Module, inputs: dict[str, Tensor]) -> float:
    """The largest absolute difference of graph and module, for whole batches and single rows."""
    session = onnxruntime.InferenceSession(
        str(folder / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    worst = 0.0
    for rows in (slice(None), slice(0, 1)):
        batch = {key: value[rows] for key, value in inputs.items()}
        expected = module(*batch.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        actual = session.run(None, {key: value.numpy() for key, value in batch.items()})
        for one, other in zip(actual, expected, strict=True):
            worst = np.maximum(worst, np.abs(one - other.numpy()).max())  # keeps NaN
    return _checked(name, float(worst))


def _checked(name: str, difference: float) -> float:
    if not difference <= TOLERANCE:
        raise ParityError(
            f"{name}.onnx differs from torch by up to {difference:.2e}, expected at most "
            f"{TOLERANCE:g}"
        )
    return difference
