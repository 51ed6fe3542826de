"""The networks of an agent. All scaling is inside: they take images and SI units (models.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from jepa_robot.learning.body import PLACE, Body, hand_place
from jepa_robot.learning.encoders import Encoder, EncoderConfig
from jepa_robot.learning.familiarity import Views
from jepa_robot.learning.layers import Scale, check_whole, mlp
from jepa_robot.learning.predictors import Predictor, PredictorConfig
from jepa_robot.learning.upper import UpperConfig, UpperLevel

SMALLEST_IMAGE = 32  # pixels a side
REACHES = (0.1, 0.03, 0.01)  # m


@dataclass(frozen=True)
class AgentShape:
    """Sizes of an agent, and which encoder and predictor it has.

    Cameras, image height and width (any from 32), proprioception P (0 if there is none) of joints J
    (0 if the kinematics are not known, and P is then what is measured), actions A,
    latent D, history K (frames that a latent is made of, each embedded in D / K), goal G (size of
    what a goal position is, 0 if goals are pictures only), z (Z; 0 if the predictor is
    deterministic), critics (1 or more). ``relations``: policy and critic are told how hand, object
    and goal lie to each other. ``upper``: of a second level; None for one level.

    Raises:
        ValueError: names the field, its value and what was expected.
    """

    cameras: int
    image_size: tuple[int, int]
    proprioception: int
    actions: int
    latent: int
    history: int = 1
    goal: int = 3
    z: int = 0
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    predictor: PredictorConfig = field(default_factory=PredictorConfig)
    joints: int = 0
    relations: bool = False
    critics: int = 1
    upper: UpperConfig | None = None

    def __post_init__(self) -> None:
        one = dict.fromkeys(("cameras", "actions", "latent", "history", "critics"), 1)
        check_whole(self, "shape", {**one, "proprioception": 0, "goal": 0, "z": 0, "joints": 0})
        size = tuple(self.image_size)
        if len(size) != 2 or not all(isinstance(n, int) and n >= SMALLEST_IMAGE for n in size):
            raise ValueError(
                f"shape.image_size is {size!r}, expected height and width of at least "
                f"{SMALLEST_IMAGE} pixels"
            )
        object.__setattr__(self, "image_size", size)
        if self.latent % self.history:
            raise ValueError(
                f"shape.latent is {self.latent}, expected a multiple of the history, {self.history}"
            )

    @property
    def embedding(self) -> int:
        """Size of what a single frame is embedded in, the first part of the latent."""
        return self.latent // self.history

    @property
    def state(self) -> int:
        return self.proprioception + self.latent

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AgentShape:
        """Of what `dataclasses.asdict` gave, also after a round trip through JSON."""
        encoder = EncoderConfig(**values["encoder"])
        predictor = PredictorConfig(**values["predictor"])
        upper = UpperConfig(**values["upper"]) if values.get("upper") else None
        return cls(**{**values, "encoder": encoder, "predictor": predictor, "upper": upper})


class Readout(nn.Module):
    """Positions ``[N, G]`` (m) of latents ``[N, D]``: linear, plus a small MLP for the rest."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.scale = Scale(shape.goal)
        self.linear = nn.Linear(shape.latent, shape.goal)
        self.rest = nn.Sequential(
            nn.Linear(shape.latent, 128), nn.Tanh(), nn.Linear(128, shape.goal)
        )

    def forward(self, latent: Tensor) -> Tensor:
        return (self.linear(latent) + self.rest(latent)) * self.scale.std + self.scale.mean


def at_reaches(vector: Tensor) -> Tensor:
    """Vectors ``[N, 3]`` (m) as ``[N, 9]``: from far, from near, and to the centimetre."""
    return torch.cat([torch.tanh(vector / reach) for reach in REACHES], dim=1)


class GoalConditioned(nn.Module):
    """A function of states ``[N, S]`` and goal latents ``[N, D]``.

    It is told where the readout, if there is one, sees what goals are about, now and at the goal;
    and, with relations, where that is from the hand and from the goal, at several scales: a grasp
    is a matter of a centimetre anywhere in a metre.
    """

    def __init__(self, shape: AgentShape, readout: Readout | None, outputs: int) -> None:
        super().__init__()
        self.proprioception_size = shape.proprioception
        self.scale = Scale(self.proprioception_size)
        self.readout = readout
        has_places = readout is not None and shape.goal == PLACE and shape.joints > 0
        self.has_relations = shape.relations and has_places
        related = 2 * PLACE * len(REACHES) if self.has_relations else 0
        self.inputs = shape.state + shape.latent + 2 * shape.goal + related
        self.network = mlp(self.inputs, 256, outputs)

    def features(self, state: Tensor, goal_latent: Tensor) -> Tensor:
        """What the network is told."""
        proprioception = self.scale(state[:, : self.proprioception_size])
        latent = state[:, self.proprioception_size :]
        features = [proprioception, latent, goal_latent - latent]
        if self.readout is not None:
            places = [self.readout(z) for z in (latent, goal_latent)]
            here, there = map(self.readout.scale, places)
            features += [there, there - here]
            if self.has_relations:
                hand = hand_place(state[:, : self.proprioception_size])
                features += [at_reaches(hand - places[0]), at_reaches(places[1] - places[0])]
        return torch.cat(features, dim=1)


class Policy(GoalConditioned):
    """Mode-1: actions ``[N, A]`` in [-1, 1]."""

    def __init__(self, shape: AgentShape, readout: Readout | None) -> None:
        super().__init__(shape, readout, shape.actions)

    def forward(self, state: Tensor, goal_latent: Tensor) -> Tensor:
        return torch.tanh(self.network(self.features(state, goal_latent)))


class Critic(GoalConditioned):
    """The trainable cost: what the policy is expected to cost from a state on, ``[N]``.

    The mean of what several critics foresee, if there are several.
    """

    def __init__(self, shape: AgentShape, readout: Readout | None) -> None:
        super().__init__(shape, readout, 1)
        self.others = nn.ModuleList(mlp(self.inputs, 256, 1) for _ in range(shape.critics - 1))
        self.register_buffer("is_trained", torch.tensor(False))

    @property
    def networks(self) -> nn.ModuleList:
        """All that is learned."""
        return nn.ModuleList([self.network, *self.others])

    def foresee(self, state: Tensor, goal_latent: Tensor) -> Tensor:
        """What each foresees, ``[C, N]``."""
        features = self.features(state, goal_latent)
        foreseen = [network(features) for network in (self.network, *self.others)]
        return functional.softplus(torch.cat(foreseen, dim=1)).T

    def forward(self, state: Tensor, goal_latent: Tensor) -> Tensor:
        return self.foresee(state, goal_latent).mean(dim=0)


class Foresight(nn.Module):
    """Several critics' mean ``[N]``, and how far they are apart: their standard deviation."""

    def __init__(self, critic: Critic) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, state: Tensor, goal_latent: Tensor) -> tuple[Tensor, Tensor]:
        foreseen = self.critic.foresee(state, goal_latent)
        return foreseen.mean(dim=0), foreseen.std(dim=0)


class GoalEncoder(nn.Module):
    """Latents ``[N, D]`` of goal positions ``[N, G]`` (m)."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.scale = Scale(shape.goal)
        self.network = mlp(shape.goal, 128, shape.latent)

    def forward(self, position: Tensor) -> Tensor:
        return self.network(self.scale(position))


class Agent(nn.Module):
    """Everything that is trained, under the names of the bundle's graphs."""

    def __init__(self, shape: AgentShape) -> None:
        super().__init__()
        self.shape = shape
        self.encoder = Encoder(shape)
        self.views = Views(shape.cameras, shape.image_size, self.encoder.features)
        self.body = Body(shape)
        self.predictor = Predictor(shape)
        self.inverse = mlp(2 * shape.latent, 128, shape.actions)
        self.control = nn.Linear(shape.actions, shape.embedding, bias=False)
        self.readout = Readout(shape) if shape.goal else None
        self.policy = Policy(shape, self.readout)
        self.critic = Critic(shape, self.readout)
        self.goal_encoder = GoalEncoder(shape) if shape.goal else None
        self.upper = UpperLevel(shape.state, shape.goal, shape.upper) if shape.upper else None

    def rollout(self, state: Tensor, actions: Tensor, z: Tensor | None = None) -> Tensor:
        """Imagined states ``[N, H, S]`` of states ``[N, S]``, under actions ``[N, H, A]``.

        z is ``[N, H, Z]``, and 0 if it is left out.
        """
        states = []
        for step, action in enumerate(actions.unbind(dim=1)):
            state = self.predictor(state, action, None if z is None else z[:, step])
            states.append(state)
        return torch.stack(states, dim=1)
