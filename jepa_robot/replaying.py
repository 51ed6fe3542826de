"""Replays a recording open loop: what an agent foresees and would do, beside what came of what.

Nothing moves. Each episode's last frame is the goal: the agent is asked how it would have got to
where the recording went.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from jepa_robot.dataset import Dataset, InvalidDataset
from jepa_robot.models import Bundle
from jepa_robot.modules.actor import Actor, ActorConfig
from jepa_robot.modules.configurator import Configurator, OutOfReach
from jepa_robot.modules.cost import Cost, CostConfig
from jepa_robot.modules.tasks import Task
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.contract import RobotContract

AHEAD = (1, 3, 5, 10)  # steps
BATCH = 64  # frames that are encoded at once


@dataclass(frozen=True)
class Foreseen:
    """So many steps ahead: the latent's error, relative to that of no change; and a place's (m).

    The place is what the readout tells of the state that was foreseen, against that of the one that
    came; NaN where the bundle reads no positions.
    """

    steps: int
    ratio: float
    place: float


@dataclass(frozen=True)
class Agreed:
    """A channel's actions, the agent's and what was done: correlation and mean difference."""

    channel: str
    correlation: float
    difference: float


@dataclass(frozen=True)
class Replayed:
    """What came of it. ``surprise``: median and 95th percentile; ``decision_ms`` a median.

    ``goals_refused``: episodes that end where the agent takes no goal.
    """

    bundle: str
    data: str
    task: str
    mode: int
    episodes: int
    frames: int
    goals_refused: int
    foreseen: tuple[Foreseen, ...]
    surprise: tuple[float, float]
    agreed: tuple[Agreed, ...]
    decision_ms: float
    done: np.ndarray  # [n, A]
    would: np.ndarray  # [n, A]

    def to_dict(self) -> dict:
        """Plain JSON values, without each action."""
        return {name: one for name, one in asdict(self).items() if name not in ("done", "would")}


def replay(
    bundle: Bundle,
    contract: RobotContract,
    data: Dataset,
    task: Task,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Replayed:
    """Replay all usable episodes.

    Args:
        bundle: the agent.
        contract: of the robot that was recorded.
        data: what was recorded.
        task: without a goal; its mode acts.
        progress: called with the episodes done and to do.

    Raises:
        InvalidBundle: it is of another robot.
        InvalidDataset: its pictures have another size, or no episode ends at a possible goal.
    """
    bundle.check_fits(contract)
    size = tuple(bundle.manifest["image_size"])
    if data.image_size != size:
        raise InvalidDataset(
            f"{data.path}: pictures are {data.image_size[1]}x{data.image_size[0]}, expected "
            f"{size[1]}x{size[0]}, those of bundle {bundle.id}"
        )
    player = _Player(bundle, contract)
    latents, places, surprises = ({steps: [] for steps in AHEAD} for _ in range(3))
    done, would, seconds, refused = [], [], [], 0
    for number, (offset, length) in enumerate(zip(data.offsets, data.lengths, strict=True)):
        rows = np.arange(offset, offset + length)
        states = player.encode(data.images(rows), data.proprioception(rows))
        actions = data.columns["action"][rows[:-1]]
        for steps in AHEAD:
            if length > steps:
                player.foresee(states, actions, steps, latents[steps], places[steps])
        if length > 1:
            surprises[1].append(player.surprise(states, actions))
        try:
            acted, taken = player.act(states[:-1], task, states[-1])
            done.append(actions)
            would.append(acted)
            seconds.append(taken)
        except OutOfReach:
            refused += 1
        progress(number + 1, data.episodes)
    if not done:
        raise InvalidDataset(f"{data.path}: no episode ends where the agent takes a goal")
    return Replayed(
        bundle=bundle.id,
        data=str(data.path),
        task=task.name,
        mode=task.mode,
        episodes=data.episodes,
        frames=int(data.lengths.sum()),
        goals_refused=refused,
        foreseen=tuple(
            Foreseen(steps, _ratio(latents[steps]), _mean(places[steps]))
            for steps in AHEAD
            if latents[steps]
        ),
        surprise=tuple(np.quantile(np.concatenate(surprises[1]), [0.5, 0.95]).tolist()),
        agreed=_agreed(contract, np.concatenate(done), np.concatenate(would)),
        decision_ms=1000 * float(np.median(np.concatenate(seconds))),
        done=np.concatenate(done),
        would=np.concatenate(would),
    )


class _Player:
    """The agent's modules, on frames that are there already."""

    def __init__(self, bundle: Bundle, contract: RobotContract) -> None:
        self._bundle, self._contract = bundle, contract
        self._encoder, self._readout = bundle.session("encoder"), bundle.session("readout")
        self._model, self._cost = WorldModel(bundle), Cost(bundle, contract)
        self._actor = Actor(bundle, self._model, self._cost)
        self._configurator = Configurator(contract, bundle)

    def encode(self, images: np.ndarray, felt: np.ndarray) -> np.ndarray:
        """States ``[T, S]`` of an episode's pictures ``[T, cameras, h, w, 3]`` and joints."""
        history = self._bundle.history
        if history > 1:
            past = np.arange(len(images))[:, None] - np.arange(history)[::-1]
            images = images[np.maximum(past, 0)]
        batches = [slice(begin, begin + BATCH) for begin in range(0, len(images), BATCH)]
        states = [
            self._encoder.run("state", images=images[some], proprioception=felt[some])["state"]
            for some in batches
        ]
        return np.concatenate(states)

    def foresee(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        steps: int,
        latents: list[tuple[float, float]],
        places: list[float],
    ) -> None:
        """Errors of what is foreseen from every frame that has so many after it."""
        starts = np.arange(len(states) - steps)
        known = actions[starts[:, None] + np.arange(steps)]
        foreseen = self._bundle.latent(self._model.rollout(states[starts], known)[:, -1])
        came, was = (self._bundle.latent(states[rows]) for rows in (starts + steps, starts))
        latents += zip(
            np.mean((foreseen - came) ** 2, axis=1), np.mean((was - came) ** 2, axis=1), strict=True
        )
        if self._bundle.reads_positions:
            read = [self._readout(latent=np.ascontiguousarray(one)) for one in (foreseen, came)]
            places += np.linalg.norm(read[0] - read[1], axis=1).tolist()

    def surprise(self, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """``[T - 1]``: the energy of each frame after what was done before it."""
        expected = self._model.predict(states[:-1], np.ascontiguousarray(actions, np.float32))
        difference = self._bundle.latent(expected) - self._bundle.latent(states[1:])
        return np.mean(difference**2, axis=1)

    def act(self, states: np.ndarray, task: Task, goal: np.ndarray) -> tuple[np.ndarray, list]:
        """What the agent would do in states ``[T, S]`` for a goal state ``[S]``; and s for each."""
        meant = self._configurator.with_latent(task, self._bundle.latent(goal[None])[0])
        sections = self._configurator.sections(meant)
        self._cost.configure(CostConfig.for_bundle(sections["cost"], self._bundle, self._contract))
        known = (self._bundle.latent_size, self._bundle.precisions)
        self._actor.configure(ActorConfig.from_section(sections["actor"], *known))
        acted, seconds = [], []
        for state in states:
            begin = time.perf_counter()
            acted.append(self._actor.act(state[None])[0])
            seconds.append(time.perf_counter() - begin)
        return np.array(acted), seconds


def _ratio(errors: list[tuple[float, float]]) -> float:
    foreseen, copied = np.mean(errors, axis=0)
    return float(foreseen / max(copied, 1e-12))


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _agreed(contract: RobotContract, done: np.ndarray, would: np.ndarray) -> tuple[Agreed, ...]:
    agreed = []
    for index, channel in enumerate(contract.actions.channels):
        one, other = done[:, index], would[:, index]
        varies = one.std() > 1e-6 and other.std() > 1e-6
        correlation = float(np.corrcoef(one, other)[0, 1]) if varies else float("nan")
        agreed.append(Agreed(channel.name, correlation, float(np.abs(one - other).mean())))
    return tuple(agreed)
