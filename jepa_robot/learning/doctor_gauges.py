"""What `jepa_robot.learning.doctor` measures of a world model: latents, prediction, cost, paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jepa_robot.dataset import Dataset
from jepa_robot.models import Bundle
from jepa_robot.modules.world_model import WorldModel

CHUNK = 256  # frames that are encoded at once
DEAD = 1e-4  # variance; every prevention of collapse aims at about 1
DEAD_SHARE = 1e-3  # of the largest variance
MOVED = 0.01  # m, by which a label has moved
FEWEST = 20  # windows that a figure is made of
GOALS = 64
PAIRS = 3000
PATHS = 3

Read = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Seen:
    """The usable frames of a recording as a bundle sees them.

    ``rows`` ``[N]`` ascend; ``states`` ``[N, S]`` are theirs.
    """

    bundle: Bundle
    data: Dataset
    rows: np.ndarray
    states: np.ndarray

    @property
    def latents(self) -> np.ndarray:
        return self.bundle.latent(self.states)

    def at(self, rows: np.ndarray) -> np.ndarray:
        """Indices into ``states`` of rows of the recording."""
        return np.searchsorted(self.rows, rows)

    def label(self, name: str, rows: np.ndarray) -> np.ndarray:
        """``[..., n]`` float32 of rows ``[...]``, in m."""
        return self.data.columns[name][rows].astype(np.float32)


def look(bundle: Bundle, data: Dataset, report: Callable[[int, int], None]) -> Seen:
    """Encode every usable frame. Before an episode's first frame, it is seen again."""
    pairs = zip(data.offsets, data.lengths, strict=True)
    rows = np.sort(data.rows)
    first = np.sort(np.concatenate([np.full(length, offset) for offset, length in pairs]))
    back = np.arange(1 - bundle.history, 1)
    frames = np.maximum(rows[:, None] + back, first[:, None])
    states = []
    for begin in range(0, len(rows), CHUNK):
        part = slice(begin, begin + CHUNK)
        states.append(_encode(bundle, data, frames[part], data.proprioception(rows[part])))
        report(min(begin + CHUNK, len(rows)), len(rows))
    return Seen(bundle, data, rows, np.concatenate(states))


def _encode(
    bundle: Bundle, data: Dataset, frames: np.ndarray, proprioception: np.ndarray
) -> np.ndarray:
    """States ``[B, S]`` of rows ``[B, K]``."""
    images = data.images(frames if bundle.history > 1 else frames[:, 0])
    return bundle.session("encoder")(
        images=np.ascontiguousarray(images),
        proprioception=np.ascontiguousarray(proprioception, np.float32),
    )


@dataclass(frozen=True)
class Latents:
    """How much of the latent is used: ``variances`` ``[D]``, and the effective rank.

    The rank is ``exp(−Σ p log p)``, p the singular values of the centred latents over their sum:
    Roy & Vetterli 2007, equations 2 to 4.
    """

    effective_rank: float
    variances: np.ndarray

    @property
    def dead(self) -> int:
        """Numbers of the latent that do not vary."""
        least = max(DEAD, DEAD_SHARE * float(self.variances.max()))
        return int((self.variances < least).sum())


def measure_latents(latents: np.ndarray) -> Latents:
    """Of latents ``[N, D]``; the rank of latents that are all alike is 0."""
    centred = latents.astype(np.float64) - latents.mean(axis=0, dtype=np.float64)
    values = np.linalg.svd(centred, compute_uv=False)
    rank = 0.0
    if values.sum() > 1e-6 * (1 + np.abs(latents).max()):
        shares = values[values > 0] / values.sum()
        rank = float(np.exp(-(shares * np.log(shares)).sum()))
    return Latents(rank, centred.var(axis=0))


@dataclass(frozen=True)
class Rollouts:
    """Windows that were imagined: ``states`` ``[W, H, S]`` after each action from ``starts``.

    ``shuffled`` are those with the actions of another window.
    """

    starts: np.ndarray
    states: np.ndarray
    shuffled: np.ndarray

    @property
    def horizon(self) -> int:
        return self.states.shape[1]


def imagine(seen: Seen, starts: np.ndarray, horizon: int, rng: np.random.Generator) -> Rollouts:
    """Roll out from rows ``[W]``, with the actions that were taken and with those of another."""
    model = WorldModel(seen.bundle)
    actions = seen.data.columns["action"][starts[:, None] + np.arange(horizon)]
    order = rng.permutation(len(starts))
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)  # nobody keeps its own
    states = seen.states[seen.at(starts)]
    return Rollouts(starts, model.rollout(states, actions), model.rollout(states, actions[others]))


@dataclass(frozen=True)
class Prediction:
    """Mean squared latent error after each step, ``[H]``: of the model, of its start state kept,
    and of the model with the actions of another window.
    """

    error: np.ndarray
    copy: np.ndarray
    shuffled: np.ndarray

    def ratio(self, step: int) -> float:
        """Error to that of the copy; below 1 is better than predicting that nothing moves."""
        return _ratio(self.error[step - 1], self.copy[step - 1])

    def shuffled_ratio(self, step: int) -> float:
        """Error with shuffled actions to the error; about 1 if actions are ignored."""
        return _ratio(self.shuffled[step - 1], self.error[step - 1])


def measure_prediction(seen: Seen, rollouts: Rollouts) -> Prediction:
    steps = np.arange(1, rollouts.horizon + 1)
    truth = seen.latents[seen.at(rollouts.starts[:, None] + steps)]
    start = seen.latents[seen.at(rollouts.starts)][:, None]

    def error(latents: np.ndarray) -> np.ndarray:
        return np.mean((latents - truth).astype(np.float64) ** 2, axis=(0, 2))

    latent = seen.bundle.latent
    return Prediction(
        error(latent(rollouts.states)), error(start), error(latent(rollouts.shuffled))
    )


@dataclass(frozen=True)
class Imagined:
    """Where a label is imagined to be, after each step ``[H]``, in m; NaN where too few moved.

    Only windows in which the label moved by more than `MOVED` until that step: ``windows`` is how
    many. ``error``: of the readout of the imagined latent; ``still``: of "it stays where it is";
    ``read``: of the readout of the true latent, what an exact prediction would have. ``paths``:
    some true ones ``[H + 1, n]``, each with the imagined ``[H, n]``.
    """

    label: str
    windows: np.ndarray
    error: np.ndarray
    still: np.ndarray
    read: np.ndarray
    paths: tuple[tuple[np.ndarray, np.ndarray], ...] = ()

    @property
    def usable_horizon(self) -> int:
        """The most steps after which the error is at most half of "it stays where it is"."""
        good = np.flatnonzero(self.error <= self.still / 2)
        return int(good[-1]) + 1 if len(good) else 0

    @property
    def is_measured(self) -> bool:
        return bool(np.isfinite(self.error).any())


def measure_imagined(seen: Seen, rollouts: Rollouts, label: str, read: Read) -> Imagined:
    """Compare imagined with true places. ``read`` takes latents ``[N, D]``, gives ``[N, n]``."""
    rows = rollouts.starts[:, None] + np.arange(1, rollouts.horizon + 1)
    truth = seen.label(label, rows)
    start = seen.label(label, rollouts.starts)[:, None]

    def places(latents: np.ndarray) -> np.ndarray:
        return read(latents.reshape(-1, latents.shape[-1])).reshape(*truth.shape)

    imagined = places(seen.bundle.latent(rollouts.states))
    still = np.linalg.norm(truth - start, axis=-1)
    distances = {
        "error": np.linalg.norm(imagined - truth, axis=-1),
        "still": still,
        "read": np.linalg.norm(places(seen.latents[seen.at(rows)]) - truth, axis=-1),
    }
    moved = still > MOVED
    enough = moved.sum(axis=0) >= FEWEST
    means = {
        name: np.where(enough, _masked_mean(values, moved), np.nan)
        for name, values in distances.items()
    }
    order = np.argsort(still[:, -1])
    order = order[still[order, -1] > MOVED] if moved[:, -1].any() else order
    chosen = order[(np.linspace(0.3, 0.95, PATHS) * (len(order) - 1)).astype(int)]
    paths = tuple((np.concatenate([start[i], truth[i]]), imagined[i]) for i in chosen)
    return Imagined(label, moved.sum(axis=0), **means, paths=paths)


@dataclass(frozen=True)
class Order:
    """Whether the cost falls when the true distance to the goal falls.

    Spearman's rank correlation over pairs of frame and goal frame; ``latent``: of the distance to
    the goal frame's latent, ``position``: of the distance of the bundle's readout to the goal's
    true place, None without a readout of this label. ``distances`` (m) and ``costs`` ``[P]`` are
    the pairs.
    """

    label: str
    latent: float
    position: float | None
    distances: np.ndarray
    costs: np.ndarray


def measure_order(
    seen: Seen, label: str, rows: np.ndarray, has_readout: bool, rng: np.random.Generator
) -> Order:
    """Over pairs of ``rows``, the goals as the run time encodes them: one frame, no joints.

    ``has_readout``: the bundle's readout gives this label.
    """
    bundle = seen.bundle
    goals = rng.choice(rows, min(GOALS, len(rows)), replace=False)
    joints = np.zeros((len(goals), bundle.measured_size), np.float32)
    frames = np.repeat(goals[:, None], bundle.history, axis=1)
    latents = bundle.latent(_encode(bundle, seen.data, frames, joints))
    which, other = rng.integers(len(goals), size=PAIRS), rng.choice(rows, PAIRS)
    goal_places, here = seen.label(label, goals)[which], seen.latents[seen.at(other)]
    distances = np.linalg.norm(seen.label(label, other) - goal_places, axis=1)
    costs = np.linalg.norm(_told_by(bundle, here) - _told_by(bundle, latents)[which], axis=1)
    position = None
    if has_readout:
        read = bundle.session("readout")(latent=np.ascontiguousarray(here))
        position = spearman(distances, np.linalg.norm(read - goal_places, axis=1))
    return Order(label, spearman(distances, costs), position, distances, costs)


def _told_by(bundle: Bundle, latents: np.ndarray) -> np.ndarray:
    """Latents ``[N, D]``, or features without a label: what tells goal pictures apart."""
    if bundle.reads_positions or not bundle.goal_size:
        return latents
    return bundle.session("readout")(latent=np.ascontiguousarray(latents))


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of the ranks of ``[N]`` and ``[N]``, equal values sharing theirs; 0 if one has
    no order.
    """
    ranks = []
    for values in (one, other):
        _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[index])
    if min(rank.std() for rank in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])


def _masked_mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return (values * mask).sum(axis=0) / np.maximum(mask.sum(axis=0), 1)


def _ratio(one: float, other: float) -> float:
    return float(one / other) if other > 0 else float("inf" if one > 0 else "nan")
