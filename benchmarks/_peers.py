"""LeWM and PLDM, of stable-worldmodel, trained on a recording of ours and asked for actions.

Models, losses and weights are theirs (LeWM: le-wm.github.io; PLDM: arXiv:2502.14819); they are
smaller than there, as pictures have 64 pixels and processors two cores, and see every frame. They
take no joints, as published. The planner is ours, for both the same.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.dataset import Dataset
from jepa_robot.evaluation import EpisodeResult, judge_episode
from jepa_robot.learning.batches import Batches
from jepa_robot.learning.optimize import Optimizer
from jepa_robot.modules.perception import preprocess
from jepa_robot.planning.cem import CEM, CEMConfig
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.tasks import Task
from jepa_robot_sim.world import ArmWorld

PEERS = ("LeWM", "PLDM")
HISTORY = 3  # frames that the predictor sees
WIDTH, DEPTH, HEADS = 64, 2, 4  # of the vision transformer
PATCHES = 8  # a side
PREDICTOR = {"depth": 2, "heads": 4, "mlp_dim": 256, "dim_head": 16, "dropout": 0.1}
PROJECTOR = 256  # hidden
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-3
SIGREG = 0.09
PLDM_WEIGHTS = {"std_loss": 18, "std_t_loss": 0.7, "cov_loss": 12, "temp_align_loss": 0.2}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures, as they scale them


def make_peer(name: str, side: int, actions: int) -> nn.Module:
    """A model for square pictures of so many pixels a side.

    Raises:
        ValueError: stable-worldmodel is not installed, or not what it needs.
    """
    try:
        from stable_worldmodel.wm.lewm import LeWM
        from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor  # PLDM's are alike
        from stable_worldmodel.wm.pldm import PLDM
        from transformers import ViTConfig, ViTModel
    except ImportError as error:
        raise ValueError(
            f"{error}; expected stable-worldmodel, transformers and what they need, in an "
            "environment of its own: its torch is not ours"
        ) from error
    vit = ViTConfig(
        hidden_size=WIDTH,
        num_hidden_layers=DEPTH,
        num_attention_heads=HEADS,
        intermediate_size=4 * WIDTH,
        image_size=side,
        patch_size=side // PATCHES,
    )
    sizes = {"input_dim": WIDTH, "hidden_dim": WIDTH, "output_dim": WIDTH}
    ends = {"input_dim": WIDTH, "hidden_dim": PROJECTOR, "output_dim": WIDTH}
    return {"LeWM": LeWM, "PLDM": PLDM}[name](
        encoder=ViTModel(vit, add_pooling_layer=False),
        predictor=Predictor(num_frames=HISTORY, **sizes, **PREDICTOR),
        action_encoder=Embedder(input_dim=actions, emb_dim=WIDTH),
        projector=MLP(**ends, norm_fn=nn.BatchNorm1d),
        pred_proj=MLP(**ends, norm_fn=nn.BatchNorm1d),
    )


def train_peer(
    name: str, data: Dataset, seed: int, batch: int, steps: int, device: str = "cpu"
) -> nn.Module:
    """Train for so many steps, along the same schedule of the learning rate as ours."""
    from stable_worldmodel.wm.loss import PLDMLoss, SIGReg

    torch.manual_seed(seed)
    side = data.image_size[1] * data.cameras
    model = make_peer(name, side, data.columns["action"].shape[1]).to(device)
    regularizer = (SIGReg() if name == "LeWM" else PLDMLoss()).to(device)
    batches = Batches(data, batch, HISTORY, 1, seed)
    optimizer = Optimizer(model.parameters(), steps, LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    model.train()
    for step in range(steps):
        images, _, actions = (part.to(device) for part in batches[step])
        seen = model.encode({"pixels": as_pixels(images), "action": actions})
        latents = seen["emb"]
        predicted = model.predict(latents[:, :HISTORY], seen["act_emb"])
        loss = functional.mse_loss(predicted, latents[:, 1:])
        if name == "LeWM":
            loss = loss + SIGREG * regularizer(latents.transpose(0, 1))
        else:
            terms = regularizer(latents)
            loss = loss + sum(weight * terms[term] for term, weight in PLDM_WEIGHTS.items())
        optimizer.step(loss)
    return model.eval().requires_grad_(False)


def as_pixels(images: Tensor) -> Tensor:
    """``[B, T, 3, cameras * w, cameras * w]`` of ``[B, T, cameras, h, w, 3]`` uint8, scaled.

    The cameras side by side, stretched to a square: their vision transformer takes nothing else.
    """
    strip = torch.cat(images.unbind(dim=2), dim=3).flatten(0, 1).permute(0, 3, 1, 2) / 255.0
    mean, std = (torch.tensor(value, device=strip.device).view(3, 1, 1) for value in (MEAN, STD))
    side = strip.shape[-1]
    square = functional.interpolate((strip - mean) / std, (side, side), mode="bilinear")
    return square.unflatten(0, images.shape[:2])


class _PeerProblem:
    """What our planner minimises of a peer's: costs ``[N]`` of actions ``[N, H, A]``."""

    starts, has_policy, has_gradients = 1, False, False

    def __init__(self, cost: Callable[[np.ndarray], np.ndarray]) -> None:
        self._cost = cost

    def costs(self, actions: np.ndarray) -> np.ndarray:
        return self._cost(actions[0])[None]


class PeerRunner:
    """Runs episodes with a peer's model: Mode-2 on goal images."""

    def __init__(
        self,
        contract: RobotContract,
        model: nn.Module,
        judge: Task,
        image_size: tuple[int, int],
        planner: CEMConfig,
    ) -> None:
        self.judge = judge
        self._model, self._size, self._config = model, image_size, planner
        self._device = next(model.parameters()).device
        self._cameras = contract.interface()["cameras"]
        self._actions = contract.actions.size
        self._world = ArmWorld(contract, judge)

    @torch.inference_mode()
    def run(self, episode: Episode, goal_images: list[np.ndarray], seed: int) -> EpisodeResult:
        planner = CEM(self._config, self._actions, seed)
        goal = self._pixels([goal_images])
        frame = self._world.reset(episode)
        seen = deque([frame.observation.images] * HISTORY, maxlen=HISTORY)
        done = deque([np.zeros(self._actions, np.float32)] * (HISTORY - 1), maxlen=HISTORY - 1)
        actions, times, labels = [], [], []
        for _ in range(self.judge.steps):
            begin = time.perf_counter()
            known = {"pixels": self._pixels(seen), "goal": goal}
            problem = _PeerProblem(partial(self._cost, known, np.stack(done)))
            action = planner.plan(problem).actions[0, 0]
            times.append(time.perf_counter() - begin)
            frame = self._world.step(action)
            seen.append(frame.observation.images)
            done.append(action)
            actions.append(action)
            labels.append(frame.labels)
        return judge_episode(self.judge, labels, episode, actions, times)

    def close(self) -> None:
        self._world.close()

    def _cost(self, known: dict[str, Tensor], past: np.ndarray, plans: np.ndarray) -> np.ndarray:
        """The model's own cost ``[N]`` of what was done and plans ``[N, H, A]``."""
        done = np.broadcast_to(past, (len(plans), *past.shape))
        sequences = torch.from_numpy(np.concatenate([done, plans], axis=1))[None].to(self._device)
        replaced = torch.zeros(1, 1, *past.shape, device=self._device)  # they want one
        return self._model.get_cost({**known, "action": replaced}, sequences)[0].cpu().numpy()

    def _pixels(self, frames: Iterable[list[np.ndarray]]) -> Tensor:
        """``[1, 1, T, 3, cameras * w, cameras * w]``"""
        pictures = [preprocess(images, self._cameras, self._size) for images in frames]
        return as_pixels(torch.from_numpy(np.stack(pictures))[None].to(self._device))[:, None]
