"""Trains a JEPA with Lightning: checkpoints, logs, resuming, several devices or machines."""

from __future__ import annotations

import ctypes
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from jepa_robot.dataset import Dataset
from jepa_robot.learning.batches import Batches, Numbers, loader
from jepa_robot.learning.jepa import JEPA, JEPAConfig, new_agent
from jepa_robot.learning.networks import Agent
from jepa_robot.learning.optimize import GRADIENT_NORM

LAST = "last"  # the checkpoint that training resumes from
LOGS = "logs"  # of TensorBoard
CHECKPOINT_EVERY = 100  # steps

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Devices:
    """What computes: Lightning's own flags, under their names.

    ``workers``: processes that prepare batches beside. ``threads``: of this process; more than one
    pay on cores that nothing else uses, and cost where something does, as they wait for each other.
    """

    accelerator: str = "auto"
    devices: str = "1"
    num_nodes: int = 1
    strategy: str = "auto"
    workers: int = 0
    threads: int = 1


def train_jepa(
    data: Dataset,
    config: JEPAConfig,
    folder: str | Path | None = None,
    devices: Devices | None = None,
    progress: Progress | None = None,
    agent: Agent | None = None,
) -> tuple[Agent, dict[str, float]]:
    """Train encoder, predictor and what helps them on a dataset's windows.

    Args:
        data: what is learned from.
        config: settings.
        folder: for checkpoints and TensorBoard's logs; a checkpoint that is there is resumed.
        devices: what computes.
        progress: called with steps done and to do.
        agent: what is trained, in place; a new one if not given.

    Returns:
        The agent, and how long training took, also before it was stopped: ``seconds``, those of a
        step, and ``share_beside``, the share in which no network was computed.
    """
    devices = devices or Devices()
    _keep_freed_memory()
    module = JEPA(agent or new_agent(data, config), config)
    clock = _Clock(progress, config.iterations)
    callbacks: list[Callback] = [clock]
    last = None
    if folder is not None:
        callbacks.append(
            ModelCheckpoint(
                folder,
                filename=LAST,
                every_n_train_steps=CHECKPOINT_EVERY,
                enable_version_counter=False,
            )
        )
        last = Path(folder) / f"{LAST}.ckpt"
    with warnings.catch_warnings():
        # Advice on worker processes and on logging intervals that do not fit so short a training.
        warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
        warnings.filterwarnings("ignore", category=FutureWarning, module="lightning")
        trainer = lightning.Trainer(
            accelerator=devices.accelerator,
            devices=int(devices.devices) if devices.devices.isdigit() else devices.devices,
            num_nodes=devices.num_nodes,
            strategy=devices.strategy,
            max_steps=config.iterations,
            max_epochs=1,
            gradient_clip_val=GRADIENT_NORM,
            logger=TensorBoardLogger(folder, name="", version=LOGS) if folder else False,
            enable_checkpointing=folder is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            log_every_n_steps=10,
            callbacks=callbacks,
        )
        history, paired = module.agent.shape.history, config.moving > 0
        batches = Batches(data, config.batch, config.horizon, history, config.seed, paired)
        numbers = Numbers(
            config.iterations,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
        )
        trainer.fit(
            module,
            loader(batches, numbers, devices.workers),
            ckpt_path=str(last) if last is not None and last.exists() else None,
            weights_only=True if last is not None and last.exists() else None,
        )
    if not trainer.is_global_zero:
        raise SystemExit(0)  # this process was started to help with the above, and nothing else
    return module.agent.cpu().requires_grad_(True).eval(), clock.figures()


def _keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library can (glibc's ``mallopt``).

    Each step frees large arrays and asks for the same again. Given back to the system in between,
    they come as new pages, and clearing those took two fifths of the time of a training.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


class _Clock(Callback):
    """Tells how far training is, how long it took, and how much of that went beside the network.

    What a run took before it was stopped is in its checkpoint.
    """

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total = progress, total
        self._before = self._inside = 0.0
        self._steps = 0
        self._begin = self._started = self._ended = time.perf_counter()

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self._seconds, "inside": self._inside, "steps": self._steps}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._before, self._inside, self._steps = (
            state[name] for name in ("seconds", "inside", "steps")
        )

    def on_train_start(self, *_: object) -> None:
        self._begin = self._ended = time.perf_counter()

    def on_train_batch_start(self, *_: object) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        self._ended = time.perf_counter()
        self._inside += self._ended - self._started
        self._steps += 1
        if self._progress is not None and trainer.is_global_zero:
            self._progress(min(trainer.global_step, self._total), self._total)

    @property
    def _seconds(self) -> float:
        return self._before + self._ended - self._begin

    def figures(self) -> dict[str, float]:
        total = max(self._seconds, 1e-9)
        return {
            "seconds": total,
            "step_seconds": total / max(self._steps, 1),
            "share_beside": 1 - self._inside / total,
        }
