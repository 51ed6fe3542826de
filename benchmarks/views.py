"""What perception notices in the cameras' pictures: false alarms, faults told, the time it takes.

`jepa-robot bench views` moves the simulated arm at random, as in training but with a seed of its
own, and judges its pictures as they are and as broken cameras would show them.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from _report import Report, Row

from jepa_robot.models import Bundle
from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.modules.views import CameraWatch
from jepa_robot.robot.contract import RobotContract, load_contract
from jepa_robot.robot.geometry import quaternion_from_rotation
from jepa_robot_sim.exploration import explore
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import Reach

RENDERED = 200  # frames that are taken again with another camera

Pictures = np.ndarray  # [cameras, h, w, 3] uint8 of one instant


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Few episodes.")] = False,
    seed: int = 1000,
    robot: str = "panda",
    bundle: str = "reach_panda",
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Measure what is told of pictures, healthy and broken."""
    contract, perception = load_contract(robot), Perception(Bundle(bundle))
    rng = np.random.default_rng(seed)
    seen = list(drive(contract, rng, 10 if quick else 150))
    report = Report("views")
    judge(report, contract, perception, "healthy", seen, is_timed=True)
    for name, change in faults(rng):
        broken = [
            dataclasses.replace(o, images=list(change(np.stack(o.images).copy()))) for o in seen
        ]
        judge(report, contract, perception, name, broken)
    for name, moved in moved_cameras(contract):
        taken = list(take_again(moved, seen[:: max(len(seen) // RENDERED, 1)]))
        judge(report, contract, perception, name, taken)
    report.write(full=not quick, json_file=json_file)


def drive(contract: RobotContract, rng: np.random.Generator, episodes: int) -> Iterator:
    """Observations of random motion; a seventh of the episodes ends at rest."""
    robot, task = InProcessRobot(contract), Reach(contract)
    try:
        for _ in range(episodes):
            yield robot.reset(task.joints_at(task.sample_position(rng)))
            for action in explore(rng, Reach.recorded_steps, contract.actions.size):
                yield robot.step(action)
    finally:
        robot.close()


def judge(
    report: Report,
    contract: RobotContract,
    perception: Perception,
    name: str,
    seen: list[Observation],
    is_timed: bool = False,
) -> None:
    """Rows of one kind of pictures."""
    watch = CameraWatch(contract)
    told, distances, times = [], [], []
    for observation in seen:
        found = perception.look(observation)[1]
        begin = time.perf_counter()
        told.append(bool(watch.judge(observation, found)))
        times.append(time.perf_counter() - begin)
        distances.append(max(found.values(), default=0.0))
    report.add(Row(f"{name}: told", 100 * float(np.mean(told)), "%", n=len(seen)))
    for what, value in (
        ("least", np.min(distances)),
        ("median", np.median(distances)),
        ("largest", np.max(distances)),
    ):
        report.add(Row(f"{name}: distance, {what}", float(value), "", "1", len(seen)))
    if is_timed:
        report.add(Row("time to judge a frame", 1000 * float(np.median(times)), "ms", n=len(seen)))


def faults(rng: np.random.Generator) -> Iterator[tuple[str, Callable[[Pictures], Pictures]]]:
    """What is done to the pictures of an instant."""

    def half(pictures: Pictures) -> Pictures:
        pictures[:, pictures.shape[1] // 2 :] = 0
        return pictures

    def one(camera: int, change: Callable[[Pictures], Pictures]) -> Callable:
        def changed(pictures: Pictures) -> Pictures:
            pictures[camera : camera + 1] = change(pictures[camera : camera + 1])
            return pictures

        return changed

    def brighter(factor: float) -> Callable[[Pictures], Pictures]:
        return lambda pictures: np.clip(factor * pictures, 0, 255).astype(np.uint8)

    def noisy(deviation: float) -> Callable[[Pictures], Pictures]:
        def changed(pictures: Pictures) -> Pictures:
            noise = rng.normal(0, deviation, pictures.shape)
            return np.clip(pictures + noise, 0, 255).astype(np.uint8)

        return changed

    for camera in (0, 1):
        yield f"black, camera {camera}", one(camera, np.zeros_like)
        yield f"lower half black, camera {camera}", one(camera, half)
    yield "swapped cameras", lambda pictures: pictures[::-1]
    yield "upside down", lambda pictures: pictures[:, ::-1, ::-1]
    yield "red and blue swapped", lambda pictures: pictures[..., ::-1]
    for pixels in (2, 4, 8):
        yield f"shifted by {pixels} pixels", lambda x, n=pixels: np.roll(x, n, axis=2)
    for factor in (0.5, 0.8, 1.2, 1.5):
        yield f"brightness x {factor}", brighter(factor)
    for deviation in (5, 15):
        yield f"noise, standard deviation {deviation} of 255", noisy(deviation)


def moved_cameras(contract: RobotContract) -> Iterator[tuple[str, RobotContract]]:
    """The robot with its first camera elsewhere than the contract says."""
    camera, *others = contract.cameras

    def placed(**changes: tuple) -> RobotContract:
        moved = dataclasses.replace(camera, **changes)
        return dataclasses.replace(contract, cameras=(moved, *others))

    for distance in (0.01, 0.05):
        position = (camera.position[0] + distance, *camera.position[1:])
        yield f"camera moved by {100 * distance:g} cm", placed(position=position)
    for degrees in (1, 5, 30):
        angle = np.deg2rad(degrees)
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        orientation = quaternion_from_rotation(camera.rotation @ turn)
        yield f"camera turned by {degrees} degrees", placed(orientation=orientation)


def take_again(contract: RobotContract, seen: list[Observation]) -> Iterator[Observation]:
    """The same poses through other cameras."""
    robot = InProcessRobot(contract)
    try:
        for observation in seen:
            yield robot.reset(observation.positions)
    finally:
        robot.close()


if __name__ == "__main__":
    typer.run(main)
