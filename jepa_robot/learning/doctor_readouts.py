"""How well labels are read from a latent, from few labels and many, and from pictures directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from jepa_robot.learning.doctor_gauges import Read, Seen
from jepa_robot.learning.encoders import Encoder
from jepa_robot.learning.networks import AgentShape
from jepa_robot.learning.optimize import Optimizer

SHARES = (0.01, 0.1, 1.0)
PART = {0.01: 0.2, 0.1: 0.4, 1.0: 1.0}  # of the supervised steps: few labels are learned soon
FEWEST_LABELS = 5
DRAWS = 3  # of less than all labels: which ones matters
PENALTIES = np.logspace(-4, 4, 17)
HIDDEN = 64
BATCH = 256
PICTURES = 32  # a batch of the supervised network
LINEAR, MLP, SUPERVISED, BUNDLE = "linear", "mlp", "supervised", "bundle"


@dataclass(frozen=True)
class Unit:
    """What lengths are shown in: so many of it are one in the data; its name may be empty."""

    scale: float
    name: str

    def text(self, value: float, digits: int = 1) -> str:
        """A length of the data in words; ``digits`` behind the point, where it has a name."""
        value = self.scale * value
        return f"{value:.{digits}f} {self.name}" if self.name else f"{value:.3g}"

    @property
    def axis(self) -> str:
        """What stands behind the name of an axis."""
        return f" ({self.name})" if self.name else ""


CENTIMETRES, NO_UNIT = Unit(100, "cm"), Unit(1, "")  # of an arm; of an environment, nobody knows


@dataclass(frozen=True)
class Reading:
    """How well one label is read: R² over all its numbers, and the mean distance in m."""

    label: str
    method: str
    share: float
    labels: int
    r2: float
    error: float


def read_latents(
    seen: Seen, label: str, fit: np.ndarray, test: np.ndarray, steps: int, rng: np.random.Generator
) -> tuple[list[Reading], Read]:
    """Probes of the latent alone.

    Args:
        seen: the encoded recording.
        label: its name.
        fit: rows whose labels are learned from.
        test: rows that are read, of other episodes.
        steps: of the MLP's optimiser.
        rng: draws the labels that are used.

    Returns:
        The mean of the draws a method and share, and the better readout that had all labels.
    """
    inputs, truth = seen.latents[seen.at(test)], seen.label(label, test)
    readings, best, best_error = [], None, np.inf
    for share in SHARES:
        count = _count(share, len(fit))
        found: dict[str, list[tuple[float, float]]] = {LINEAR: [], MLP: []}
        for _ in range(DRAWS if count < len(fit) else 1):
            chosen = rng.choice(fit, count, replace=False)
            pairs = seen.latents[seen.at(chosen)], seen.label(label, chosen)
            probes = {
                LINEAR: fit_linear(*pairs),
                MLP: fit_mlp(*pairs, steps, int(rng.integers(1 << 31))),
            }
            for method, read in probes.items():
                quality = r2_and_error(read(inputs), truth)
                found[method].append(quality)
                if share == 1 and (best is None or quality[1] < best_error):
                    best, best_error = read, quality[1]
        for method, qualities in found.items():
            mean = np.mean(qualities, axis=0).tolist()
            readings.append(Reading(label, method, share, count, *mean))
    return readings, best


def read_with_bundle(seen: Seen, label: str, test: np.ndarray) -> tuple[Reading, Read]:
    """The readout that the bundle came with."""

    def read(latents: np.ndarray) -> np.ndarray:
        return seen.bundle.session("readout")(latent=np.ascontiguousarray(latents))

    quality = r2_and_error(read(seen.latents[seen.at(test)]), seen.label(label, test))
    return Reading(label, BUNDLE, 0.0, 0, *quality), read


def read_pictures(
    seen: Seen,
    labels: list[str],
    fit: np.ndarray,
    test: np.ndarray,
    steps: int,
    seed: int,
    report: Callable[[int, int], None],
) -> list[Reading]:
    """An encoder as ours, trained from scratch on the labels alone, all of them at once."""
    data = seen.data
    truth = {name: seen.label(name, test) for name in labels}
    widths = [truth[name].shape[1] for name in labels]
    shape = AgentShape(data.cameras, data.image_size, 0, 1, sum(widths))
    rng, readings = np.random.default_rng(seed), []
    done, total = 0, max(1, round(steps * sum(PART.values())))
    for share in SHARES:
        count = _count(share, len(fit))
        chosen = rng.choice(fit, count, replace=False)
        target = np.concatenate([seen.label(name, chosen) for name in labels], axis=1)
        mean, std = target.mean(axis=0), target.std(axis=0) + 1e-6
        images = torch.from_numpy(data.images(chosen))
        wanted = torch.from_numpy((target - mean) / std)
        torch.manual_seed(seed)
        network = Encoder(shape)
        own_steps = max(1, round(steps * PART[share]))
        optimizer = Optimizer(network.parameters(), own_steps, 2e-3, weight_decay=1e-3)
        for _ in range(own_steps):
            batch = torch.from_numpy(rng.integers(count, size=min(PICTURES, 4 * count)))
            error = network(images[batch]) - wanted[batch]
            optimizer.step(error.square().mean())
            done += 1
            report(min(done, total), total)
        with torch.no_grad():
            parts = [network(torch.from_numpy(data.images(rows))) for rows in _chunks(test)]
        read = torch.cat(parts).numpy() * std + mean
        parts = np.split(read, np.cumsum(widths)[:-1], axis=1)
        for name, values in zip(labels, parts, strict=True):
            quality = r2_and_error(values, truth[name])
            readings.append(Reading(name, SUPERVISED, share, count, *quality))
    return readings


def fit_linear(latents: np.ndarray, truth: np.ndarray) -> Read:
    """Ridge regression of ``[N, D]`` to ``[N, n]``; its penalty leaves one out at a time.

    The closed form of that error is of Golub, Heath & Wahba 1979 (Technometrics 21), equation 1.2.
    """
    mean, std = latents.mean(axis=0), latents.std(axis=0) + 1e-6
    middle = truth.mean(axis=0)
    left, values, right = np.linalg.svd((latents - mean) / std, full_matrices=False)
    targets = left.T @ (truth - middle)
    best, best_error = None, np.inf
    for penalty in PENALTIES:
        shrunk = values**2 / (values**2 + penalty)
        leverage = (left**2 * shrunk).sum(axis=1) + 1 / len(truth)
        residual = truth - middle - left @ (shrunk[:, None] * targets)
        error = np.mean((residual / np.maximum(1 - leverage, 1e-3)[:, None]) ** 2)
        if best is None or error < best_error:
            weights = right.T @ ((values / (values**2 + penalty))[:, None] * targets)
            best, best_error = weights, error
    return lambda inputs: (((inputs - mean) / std) @ best + middle).astype(np.float32)


def fit_mlp(latents: np.ndarray, truth: np.ndarray, steps: int, seed: int) -> Read:
    """A linear map and a small MLP for the rest, as the bundle's readout."""
    mean, std = latents.mean(axis=0), latents.std(axis=0) + 1e-6
    middle, spread = truth.mean(axis=0), truth.std(axis=0) + 1e-6
    inputs = torch.from_numpy(((latents - mean) / std).astype(np.float32))
    targets = torch.from_numpy(((truth - middle) / spread).astype(np.float32))
    torch.manual_seed(seed)
    network = _Probe(inputs.shape[1], targets.shape[1])
    optimizer = Optimizer(network.parameters(), steps, 1e-2, weight_decay=1e-2)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (min(BATCH, len(inputs)),))
        noise = 0.01 * torch.randn(len(batch), inputs.shape[1])
        error = network(inputs[batch] + noise) - targets[batch]
        optimizer.step(error.square().mean())

    @torch.no_grad()
    def read(values: np.ndarray) -> np.ndarray:
        scaled = torch.from_numpy(((values - mean) / std).astype(np.float32))
        return (network(scaled).numpy() * spread + middle).astype(np.float32)

    return read


class _Probe(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self.rest = nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.linear(values) + self.rest(values)


def r2_and_error(read: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """R² over all numbers of ``[N, n]``, and the mean distance."""
    total = np.sum((truth - truth.mean(axis=0)) ** 2)
    r2 = 1 - np.sum((read - truth) ** 2) / max(total, 1e-12)
    return float(r2), float(np.linalg.norm(read - truth, axis=1).mean())


def _count(share: float, available: int) -> int:
    return min(available, max(FEWEST_LABELS, round(share * available)))


def _chunks(rows: np.ndarray) -> list[np.ndarray]:
    return np.array_split(rows, -(-len(rows) // BATCH))
