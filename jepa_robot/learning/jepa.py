"""A JEPA: encoder and action-conditioned predictor, trained by prediction in latent space alone.

    L = w_p Σₖ |ẑ[t+k] − z[t+k]|² + w_q Σₖ |q̂[t+k] − q[t+k]|² + w_a |â − a|² + w_l L_lin + w_s L_sh
        + R

The latents are both input and target; R, from `jepa_robot.energy`, keeps them from collapsing, and
says whether gradients flow into the targets. L_lin (`linearity_loss`) makes the latent distance a
good cost: without it a few goals are behind a local minimum.

Where goals are about more than joints tell (an object), R sees what is left of an embedding when
what a function of the joints explains is taken away. Else the arm, which moves in every picture and
is easy to predict, fills the embedding, and the object is lost (`jepa-robot bench representation`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import lightning
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.dataset import Dataset
from jepa_robot.energy import PREVENTIONS, MovingAverage, PreventionConfig, make_prevention
from jepa_robot.learning.body import HAND
from jepa_robot.learning.encoders import EncoderConfig
from jepa_robot.learning.layers import check_choice, check_whole, mlp
from jepa_robot.learning.networks import Agent, AgentShape
from jepa_robot.learning.optimize import learning_rate_factor
from jepa_robot.learning.predictors import PredictorConfig
from jepa_robot.learning.upper import UpperConfig
from jepa_robot.robot.contract import RobotContract

# Of the convolutions, in training only; auto is bfloat16 where the processor computes in it.
PRECISIONS = ("float32", "bfloat16", "auto")
WHOLE = ("iterations", "history", "z", "moving", "seed")
WEIGHTS = ("prediction", "proprioception", "inverse", "linearity", "rate", "shared")
PAIRS = 4  # windows, two of each of two episodes, which what moves is told from
SEEN = ("auto", "embedding", "residual")  # by what prevents collapse


@dataclass(frozen=True)
class JEPAConfig:
    """Settings of the world model and its training. Weights are those of the loss above.

    ``latent_size``: of what one frame is embedded in. ``history``: frames that a latent is made of;
    0 for 1 where joint velocities are measured, else 2. ``z``: size of the latent variable that
    holds what cannot be predicted, 0 for a deterministic model; ``rate`` weighs what it may hold.
    ``prevention``: what keeps the embeddings from collapsing, with ``prevention_settings``.
    ``moving``: so many of the embedding's numbers, its last, are kept from collapsing within an
    episode: R sees by how much two windows of one differ. What never moves within an episode, but
    from one to the next, is easy to predict, and would fill all of it.
    ``shared`` weighs L_sh. ``relations``: see `AgentShape`. ``iterations``: 0 leaves encoder and
    predictor as they are.
    ``prevention_sees``: all of an embedding, or its ``residual``, what joints do not explain;
    ``auto`` is for `train_all` to choose, and the embedding without it.
    """

    latent_size: int = 16
    history: int = 0
    z: int = 0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    prevention: str = "vicreg"
    prevention_settings: PreventionConfig = field(default_factory=PreventionConfig)
    prevention_sees: str = "auto"
    horizon: int = 5
    batch: int = 48
    iterations: int = 1200
    learning_rate: float = 2e-3
    weight_decay: float = 1e-5
    prediction: float = 10.0
    proprioception: float = 1.0
    inverse: float = 1.0
    linearity: float = 3.0
    rate: float = 0.1
    shared: float = 0.0
    relations: bool = False
    precision: str = "float32"
    moving: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        least = {**dict.fromkeys(WHOLE, 0), **dict.fromkeys(("latent_size", "horizon", "batch"), 1)}
        check_whole(self, "jepa", least)
        if self.moving > self.latent_size:
            raise ValueError(
                f"jepa.moving is {self.moving}, expected at most latent_size, {self.latent_size}"
            )
        if self.moving and self.batch < PAIRS:
            raise ValueError(
                f"jepa.batch is {self.batch}, expected at least {PAIRS} where moving is above 0"
            )
        check_choice(self.prevention, "jepa.prevention", PREVENTIONS)
        check_choice(self.prevention_sees, "jepa.prevention_sees", SEEN)
        check_choice(self.precision, "jepa.precision", PRECISIONS)
        for name in (*WEIGHTS, "learning_rate", "weight_decay"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_number or not 0 <= value < math.inf:
                raise ValueError(f"jepa.{name} is {value!r}, expected a number from 0")


class JEPA(lightning.LightningModule):
    """What Lightning trains: an agent's encoder, predictor and what helps to train them."""

    def __init__(self, agent: Agent, config: JEPAConfig) -> None:
        super().__init__()
        self.agent, self.config = agent, config
        shape = agent.shape
        self.prevention = make_prevention(
            config.prevention, config.prevention_settings, shape.embedding
        )
        self.prevention_of_moving = None
        if config.moving:
            self.prevention_of_moving = make_prevention(
                config.prevention, config.prevention_settings, config.moving
            )
        self.average = None
        if self.prevention.targets == "average":
            self.average = MovingAverage(agent.encoder, config.prevention_settings.decay)
        self.explained = None
        if config.prevention_sees == "residual" and shape.proprioception:
            self.explained = mlp(shape.proprioception, 128, shape.embedding)
        self.inference = None
        if shape.z:
            self.inference = mlp(2 * shape.latent + shape.actions, 128, 2 * shape.z)
        agent.encoder.uses_bfloat16 = config.precision == "bfloat16" or (
            config.precision == "auto" and _has_bfloat16()
        )
        agent.requires_grad_(False)
        for module in (agent.encoder, agent.predictor, *self._helpers()):
            module.requires_grad_(True)

    def _helpers(self) -> list[nn.Module]:
        weights = {
            self.agent.inverse: self.config.inverse,
            self.agent.control: self.config.linearity,
        }
        return [module for module, weight in weights.items() if weight]

    def on_train_batch_start(self, *_: object) -> None:
        """Noise depends on the step alone, so that a run that resumes draws the same.

        The average follows here, not after the step: a checkpoint is written before that is heard.
        """
        if self.average is not None:
            self.average.update(self.agent.encoder)
        numbers = (self.config.seed, self.global_step, self.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))

    def training_step(self, batch: tuple[Tensor, ...], _: int) -> Tensor:
        losses = self.losses(*batch)
        total = sum(losses.values())
        self.log_dict({"loss": total, **losses})
        return total

    def losses(self, images: Tensor, proprioception: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """The weighted terms of windows, laid out as in `Batches`."""
        agent, config = self.agent, self.config
        proprioception = agent.body(proprioception.flatten(0, 1)).unflatten(0, (len(images), -1))
        features = agent.encoder.look(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        latents = agent.encoder.windows(features)
        losses, z = {}, None
        joints, prevention = proprioception.shape[-1], self.prevention
        seen = latents if prevention.prediction_trains_encoder else latents.detach()
        if self.inference is not None:
            z, losses["rate"] = self._infer(seen, actions)
        state = torch.cat([proprioception[:, 0], latents[:, 0]], dim=1)
        states = agent.rollout(state, actions, z)
        target = self._targets(images, latents)
        embedding = agent.shape.embedding
        embedded = [part[..., :embedding] for part in (latents, states[..., joints:], target)]
        if self.explained is not None:
            explained = self.explained(agent.predictor.scale(proprioception))
            losses["explained"] = functional.mse_loss(explained, embedded[0].detach())
            if config.shared:
                shared = explained.detach() - explained.detach().mean(dim=(0, 1))
                losses["shared"] = config.shared * (shared * embedded[0]).mean()
            embedded = [part - explained.detach()[:, -part.shape[1] :] for part in embedded]
        losses["prevention"] = prevention(*embedded)
        if config.moving:
            moved = [_moved(part[..., embedding - config.moving : embedding]) for part in embedded]
            losses["moving"] = self.prevention_of_moving(*moved)
        if not prevention.prediction_trains_encoder:
            states, target = agent.rollout(state.detach(), actions, z), seen[:, 1:]
        known = embedding if prevention.replaces_prediction else 0
        if known < agent.shape.latent:
            error = functional.mse_loss(states[..., joints + known :], target[..., known:])
            losses["prediction"] = config.prediction * error
        if joints and config.proprioception:
            scale = agent.predictor.scale
            losses["proprioception"] = config.proprioception * functional.mse_loss(
                scale(states[..., :joints]), scale(proprioception[:, 1:])
            )
        if config.inverse:
            pairs = torch.cat([latents[:, :-1], latents[:, 1:]], dim=-1)
            losses["inverse"] = config.inverse * functional.mse_loss(
                agent.inverse(pairs.flatten(0, 1)), actions.flatten(0, 1)
            )
        if config.linearity:
            losses["linearity"] = config.linearity * linearity_loss(
                agent.control, latents[..., :embedding], actions
            )
        return losses

    def _targets(self, images: Tensor, latents: Tensor) -> Tensor:
        if self.prevention.targets == "online":
            return latents[:, 1:]
        if self.prevention.targets == "stopped":
            return latents[:, 1:].detach()
        encoder = self.average.network
        with torch.no_grad():
            features = encoder.look(images.flatten(0, 1)).unflatten(0, images.shape[:2])
            return encoder.windows(features)[:, 1:]

    def _infer(self, latents: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Draws of z ``[B, H, Z]`` given what came, and the information that they hold.

        A Gaussian against N(0, 1), reparametrised: Kingma & Welling 2014 (arXiv:1312.6114, 2.4).
        """
        known = torch.cat([latents[:, :-1], latents[:, 1:], actions], dim=-1)
        mean, log_variance = self.inference(known).chunk(2, dim=-1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        bits = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return z, self.config.rate * bits.sum(dim=-1).mean()

    def configure_optimizers(self) -> dict:
        """AdamW (Loshchilov & Hutter, arXiv:1711.05101), warmed up, along a cosine."""
        config = self.config
        parameters = [p for p in self.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            parameters, config.learning_rate, weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, config.iterations)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def _moved(latents: Tensor) -> Tensor:
    """How windows ``[B, T, D]`` differ from others of their episodes ``[B / 2, T, D]``."""
    first, second = latents.chunk(2)
    return (first - second) / math.sqrt(2)


def linearity_loss(control: nn.Module, latents: Tensor, actions: Tensor) -> Tensor:
    """How much latent displacements differ from a linear map of the summed actions.

    ``Σ_k |z[t+k] − z[t] − B Σ_{i<k} a[t+i]|² / Σ_k |z[t+k] − z[t]|²`` for latents ``[B, H+1, D]``
    and actions ``[B, H, A]``; ``control`` is B. It does not change with the latents' scale.

    Where it is small, latents are nearly linear in what the actions integrate to, here the hand's
    position, so the latent distance has no local minima between two hand positions. The covariance
    term makes that linear map's columns alike (a tight frame), so the distance is isotropic.
    Compare the locally linear latent dynamics of Watter et al. 2015 (arXiv:1506.07365).
    """
    moved = latents[:, 1:] - latents[:, :1]
    error = moved - control(actions.cumsum(dim=1))
    return error.square().mean() / (moved.square().mean() + 1e-4)


def history_for(data: Dataset, config: JEPAConfig) -> int:
    """K, the frames that a latent is made of."""
    return config.history or (1 if "proprio" in data.columns else 2)


def new_agent(
    data: Dataset,
    config: JEPAConfig,
    contract: RobotContract | None = None,
    features: int = 0,
    upper: UpperConfig | None = None,
) -> Agent:
    """An agent for a dataset, with its scales fitted; ``config.seed`` draws its weights.

    With a contract it knows the kinematics of its arm. Its readout is of the data's goal, or of so
    many ``features`` that have no label. ``upper``: of its second level, if it is to have one.
    """
    torch.manual_seed(config.seed)
    goal = data.columns.get(data.about.goal)
    labelled = 0 if goal is None else goal.shape[1]
    history = history_for(data, config)
    measured = data.proprioception(data.rows[:1]).shape[-1]
    agent = Agent(
        AgentShape(
            cameras=data.cameras,
            image_size=data.image_size,
            proprioception=measured + (HAND if contract else 0),
            joints=len(contract.joints) if contract else 0,
            actions=data.columns["action"].shape[1],
            latent=config.latent_size * history,
            history=history,
            goal=features or labelled,
            z=config.z,
            encoder=config.encoder,
            predictor=config.predictor,
            relations=config.relations,
            upper=upper,
        )
    )
    if contract:
        agent.body.know(contract)
    if measured:
        fit_scales(agent, data)
    return agent


def fit_scales(agent: Agent, data: Dataset) -> None:
    """Fit what scales proprioception to a dataset."""
    starts = data.windows(1)
    felt, before, after = (
        agent.body(torch.from_numpy(data.proprioception(rows)))
        for rows in (data.rows, starts, starts + 1)
    )
    agent.predictor.step_scale.fit(after - before)
    for network in (agent.predictor, agent.policy, agent.critic):
        network.scale.fit(felt)


def _has_bfloat16() -> bool:
    """Elsewhere it is emulated, at a fifth of the speed of float32."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())
