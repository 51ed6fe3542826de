"""Collects the data that a model learns from: random exploration of the reach scene.

A dataset is a folder of HDF5 shards, one a block of episodes. What is in a block depends on the
seed and the block's number alone, so any number of processes collects the same data.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from jepa_robot.modules.perception import Observation, preprocess
from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import Reach

FORMAT = 1
EPISODE_STEPS = 25
BLOCK_EPISODES = 20
AMPLITUDE = (0.15, 1.5)  # standard deviation of the actions, log-uniform over episodes
CORRELATION = (0.6, 0.97)  # of an action with the next, uniform over episodes
REST_SHARE = 0.15  # of the episodes: stop half-way and stay


@dataclass(frozen=True)
class _Block:
    """What one process is told to collect."""

    contract: RobotContract
    folder: Path
    seed: int
    number: int
    episodes: int
    image_size: tuple[int, int]


def collect(
    contract: RobotContract,
    folder: str | Path,
    transitions: int,
    seed: int = 0,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
    image_size: tuple[int, int] = (64, 64),
) -> int:
    """Collect random episodes into a new folder, which appears when it is complete.

    Episodes start at rest with the hand anywhere in the workspace. Actions are smooth noise, an
    AR(1) process whose size and correlation differ from episode to episode, and go through the
    same safety limiter as in deployment.

    Args:
        contract: the robot.
        folder: the dataset to make; must not exist.
        transitions: at least so many; episodes of 25 steps are completed.
        seed: the same seed gives the same data, whatever ``processes`` is.
        processes: how many collect at once.
        progress: called with the number of transitions done and wanted.
        image_size: height and width of the stored images.

    Returns:
        How many transitions there are.

    Raises:
        FileExistsError: if ``folder`` exists.
        ValueError: names the argument that is out of range.
    """
    folder = Path(folder)
    for name, value in (("transitions", transitions), ("processes", processes)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}, expected a whole number above 0")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}, expected a whole number from 0")
    if folder.exists():
        raise FileExistsError(f"{folder}: exists, expected the name of a new dataset")
    episodes = math.ceil(transitions / EPISODE_STEPS)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True)
    try:
        blocks = [
            _Block(contract, temporary, seed, n, min(BLOCK_EPISODES, episodes - first), image_size)
            for n, first in enumerate(range(0, episodes, BLOCK_EPISODES))
        ]
        done = 0
        for count in _run(blocks, processes):
            done += count
            if progress is not None:
                progress(done, episodes * EPISODE_STEPS)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return done


def explore(rng: np.random.Generator, steps: int, size: int) -> np.ndarray:
    """Exploratory actions ``[steps, size]`` in [-1, 1]: an AR(1) process, clipped."""
    amplitude = math.exp(rng.uniform(*np.log(AMPLITUDE)))
    correlation = rng.uniform(*CORRELATION)
    noise = rng.standard_normal((steps, size))
    for step in range(1, steps):
        fresh = math.sqrt(1 - correlation**2) * noise[step]
        noise[step] = correlation * noise[step - 1] + fresh
    if rng.uniform() < REST_SHARE:
        noise[steps // 2 :] = 0
    return np.clip(amplitude * noise, -1, 1).astype(np.float32)


def _run(blocks: list[_Block], processes: int):
    """Yield the transitions of each block as it is done."""
    if processes == 1:
        yield from map(_collect_block, blocks)
        return
    # Spawned, not forked: a physics server must not be inherited.
    context = multiprocessing.get_context("spawn")
    with context.Pool(min(processes, len(blocks))) as pool:
        yield from pool.imap_unordered(_collect_block, blocks)


def _collect_block(block: _Block) -> int:
    rng = np.random.default_rng([block.seed, block.number])
    robot = InProcessRobot(block.contract)
    try:
        task = Reach(block.contract)
        episodes = [_episode(robot, task, rng, block.image_size) for _ in range(block.episodes)]
    finally:
        robot.close()
    _write(block, {key: np.stack([e[key] for e in episodes]) for key in episodes[0]})
    return block.episodes * EPISODE_STEPS


def _episode(
    robot: InProcessRobot, task: Reach, rng: np.random.Generator, image_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    cameras = robot.contract.interface()["cameras"]
    actions = explore(rng, EPISODE_STEPS, robot.contract.actions.size)
    observations: list[Observation] = [robot.reset(task.joints_at(task.sample_position(rng)))]
    ee_positions = [robot.arm.ee_position()]
    for action in actions:
        observations.append(robot.step(action))
        ee_positions.append(robot.arm.ee_position())
    return {
        "images": np.stack([preprocess(o.images, cameras, image_size) for o in observations]),
        "positions": np.stack([o.positions for o in observations]).astype(np.float32),
        "velocities": np.stack([o.velocities for o in observations]).astype(np.float32),
        "actions": actions,
        "ee_position": np.stack(ee_positions).astype(np.float32),
    }


def _write(block: _Block, arrays: dict[str, np.ndarray]) -> None:
    """One shard, every array ``[episodes, ...]``; under its name only when it is on disk."""
    path = block.folder / f"block-{block.number:05d}.h5"
    temporary = path.with_suffix(".part")
    with h5py.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["seed"] = block.seed
        file.attrs["interface"] = json.dumps(block.contract.interface(), sort_keys=True)
        for name, array in arrays.items():
            chunks = (1, *array.shape[1:])
            file.create_dataset(name, data=array, chunks=chunks, compression="lzf")
    with temporary.open("rb+") as stream:
        os.fsync(stream.fileno())
    temporary.rename(path)
