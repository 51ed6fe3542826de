"""LeWM's architecture (le-wm.github.io) at its published size, in stable-worldmodel and in ONNX.

Weights are random: what is compared is time. Its predictor looks at a window of three frames, and
stable-worldmodel computes that window anew at each step of a rollout, all of it. As attention is
causal, nothing is lost where what was computed of earlier frames is kept until the window begins to
slide, where actions are embedded once, and where the last layer is asked for the last frame alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from _planning_peers import quiet
from torch import Tensor, nn

from jepa_robot.learning.graph_writer import OPSET
from jepa_robot.learning.quantizing import quantize
from jepa_robot.models import Session
from jepa_robot.planning import make_planner, read_planner

WIDTH, SIDE, ACTIONS = 192, 224, 10  # of latents; pixels; five actions of two channels at once
VIT = {"num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
PREDICTOR = {"depth": 6, "heads": 16, "mlp_dim": 2048, "dim_head": 64}
HISTORY, PATCH, PROJECTOR = 3, 14, 2048
TOLERANCE = 1e-4  # of costs of about 1

Cache = tuple[Tensor, Tensor]


def make_lewm() -> nn.Module:
    """The model, with weights that are random and not 0."""
    from stable_worldmodel.wm.lewm import LeWM
    from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    sizes = {"input_dim": WIDTH, "hidden_dim": WIDTH, "output_dim": WIDTH}
    ends = {"input_dim": WIDTH, "hidden_dim": PROJECTOR, "output_dim": WIDTH}
    vit = ViTConfig(hidden_size=WIDTH, image_size=SIDE, patch_size=PATCH, **VIT)
    model = LeWM(
        encoder=ViTModel(vit, add_pooling_layer=False),
        predictor=Predictor(num_frames=HISTORY, **sizes, **PREDICTOR),
        action_encoder=Embedder(input_dim=ACTIONS, emb_dim=WIDTH),
        projector=MLP(**ends, norm_fn=nn.BatchNorm1d),
        pred_proj=MLP(**ends, norm_fn=nn.BatchNorm1d),
    )
    for layer in model.predictor.transformer.layers:
        nn.init.normal_(layer.adaLN_modulation[-1].weight, std=0.05)
    return model.eval().requires_grad_(False)


class Encoder(nn.Module):
    """Latents ``[B, D]`` of pictures ``[B, 3, SIDE, SIDE]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.projector(self.model.encoder(pixels).last_hidden_state[:, 0])


class Rollout(nn.Module):
    """Costs ``[N]`` of actions ``[N, H, A]`` from a latent ``[1, D]`` to a goal's ``[1, D]``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.predictor = model, model.predictor

    def forward(self, latent: Tensor, goal: Tensor, actions: Tensor) -> Tensor:
        transformer = self.predictor.transformer
        cause = transformer.cond_proj(self.model.action_encoder(actions))
        causes = [layer.adaLN_modulation(cause) for layer in transformer.layers]
        frames = [latent.expand(actions.shape[0], WIDTH)]
        caches: list[Cache | None] = [None] * len(causes)
        for step in range(actions.shape[1]):
            first = max(0, step + 1 - HISTORY)
            begin = first if first else step  # what is new of the window
            x = torch.stack(frames[begin:], dim=1)
            x = x + self.predictor.pos_embedding[:, begin - first : step + 1 - first]
            x = transformer.input_proj(x)
            for index, layer in enumerate(transformer.layers):
                some = causes[index][:, begin : step + 1]
                is_last = index == len(causes) - 1
                past = None if first else caches[index]
                x, caches[index] = _block(layer, x, some, past, is_last)
            made = transformer.output_proj(transformer.norm(x[:, -1]))
            frames.append(self.model.pred_proj(made))
        return (frames[-1] - goal).square().sum(dim=1)


def _block(
    layer: nn.Module, x: Tensor, cause: Tensor, past: Cache | None, is_last: bool
) -> tuple[Tensor, Cache]:
    """A layer of frames ``[N, T, D]`` after those that are past; of the last frame alone, or all.

    Also its keys and values ``[N, heads, T, d]``.
    """
    shift, scale, gate, shift_after, scale_after, gate_after = cause.chunk(6, dim=-1)
    seen = layer.attn.norm(layer.norm1(x) * (1 + scale) + shift)
    q, k, v = (_by_head(part, layer) for part in layer.attn.to_qkv(seen).chunk(3, dim=-1))
    if past is not None:
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    if is_last:
        q, x = q[:, :, -1:], x[:, -1:]
        gate, shift_after, scale_after, gate_after = (
            part[:, -1:] for part in (gate, shift_after, scale_after, gate_after)
        )
    scores = q @ k.transpose(2, 3) * layer.attn.scale
    if q.shape[2] > 1:
        later = torch.ones(q.shape[2], k.shape[2]).triu(1 + k.shape[2] - q.shape[2]).bool()
        scores = scores.masked_fill(later, float("-inf"))
    attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)
    x = x + gate * layer.attn.to_out(attended)
    return x + gate_after * layer.mlp(layer.norm2(x) * (1 + scale_after) + shift_after), (k, v)


def _by_head(part: Tensor, layer: nn.Module) -> Tensor:
    return part.unflatten(2, (layer.attn.heads, -1)).transpose(1, 2)


class _Problem:
    """What our planner minimises: the exported rollout."""

    starts, has_policy, has_gradients = 1, False, False

    def __init__(self, session: Session, latent: np.ndarray, goal: np.ndarray) -> None:
        self._session, self._known = session, {"latent": latent, "goal": goal}

    def costs(self, actions: np.ndarray) -> np.ndarray:
        return self._session(actions=np.ascontiguousarray(actions[0]), **self._known)[None]


def decisions(
    candidates: int, horizon: int, iterations: int, elites: int, threads: int
) -> dict[str, Callable[[], object]]:
    """By name, what makes one decision from a picture, each of the same work; the first is ours.

    Raises:
        ImportError: stable-worldmodel or transformers is not installed.
        RuntimeError: the exported rollout costs something else.
    """
    import gymnasium
    from stable_worldmodel.solver import CEMSolver

    model = make_lewm()
    pictures = torch.randn(2, 3, SIDE, SIDE)
    known = {"pixels": pictures[:1, None], "goal": pictures[1:, None], "action": torch.zeros(1, 1)}
    solver = CEMSolver(model, num_samples=candidates, n_steps=iterations, topk=elites)
    config = SimpleNamespace(horizon=horizon, action_block=1)
    space = gymnasium.spaces.Box(-1, 1, (1, ACTIONS))
    solver.configure(action_space=space, n_envs=1, config=config)
    settings = {
        **{"name": "cem", "candidates": candidates, "horizon": horizon},
        **{"iterations": iterations, "elites": elites},
    }
    encoder, plans = _export(model, pictures, horizon, threads)
    _check(model, encoder, plans["ours"], pictures, horizon)

    def ours(plan: Session) -> Callable[[], object]:
        planner = make_planner(*read_planner(settings), ACTIONS)

        def decide() -> None:
            latent, goal = encoder(pixels=pictures.numpy())[:, None]
            planner.plan(_Problem(plan, latent, goal))

        return decide

    made = {name: ours(plan) for name, plan in plans.items()}
    return {**made, "stable-worldmodel": lambda: quiet(lambda: solver.solve({**known}))}


def _export(
    model: nn.Module, pictures: Tensor, horizon: int, threads: int
) -> tuple[Session, dict[str, Session]]:
    """The encoder, and rollouts in float32 and with eight bits."""
    latents, actions = torch.randn(2, WIDTH), torch.randn(4, horizon, ACTIONS)
    with tempfile.TemporaryDirectory() as folder:
        graphs = {
            "encoder": (Encoder(model), {"pixels": pictures}, "latent", ("pixels", "latent")),
            "rollout": (
                Rollout(model),
                {"latent": latents[:1], "goal": latents[1:], "actions": actions},
                "costs",
                ("actions", "costs"),
            ),
        }
        for name, (module, inputs, output, rows) in graphs.items():
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(Path(folder) / f"{name}.onnx"),
                input_names=list(inputs),
                output_names=[output],
                dynamic_axes={row: {0: "N"} for row in rows},
                opset_version=OPSET,
                dynamo=False,
            )
        quantize(Path(folder) / "rollout.onnx", Path(folder) / "rounded.onnx")
        files = {"encoder": "encoder", "ours": "rollout", "ours, int8": "rounded"}
        cpu = onnxruntime.get_available_providers()[-1:]
        sessions = {
            name: Session(Path(folder) / f"{file}.onnx", cpu, threads)
            for name, file in files.items()
        }
    return sessions.pop("encoder"), sessions


@torch.inference_mode()
def _check(
    model: nn.Module, encoder: Session, plan: Session, pictures: Tensor, horizon: int
) -> None:
    """That it is the same rollout."""
    actions = torch.randn(1, 8, horizon, ACTIONS)
    info = {
        "pixels": pictures[None, :1, None].expand(1, 8, 1, *pictures.shape[1:]),
        "goal": pictures[None, 1:, None].expand(1, 8, 1, *pictures.shape[1:]),
        "action": actions[:, :, :1],
    }
    expected = model.get_cost(info, actions)[0].numpy()
    latent, goal = encoder(pixels=pictures.numpy())[:, None]
    costs = plan(latent=latent, goal=goal, actions=actions[0].numpy())
    worst = np.abs(costs - expected).max() / max(1.0, np.abs(expected).max())
    if not worst < TOLERANCE:
        raise RuntimeError(f"costs differ by {worst:.2e} of the largest, expected {TOLERANCE:g}")
