"""Pictures of an episode: a strip and, where OpenCV can write one, an animated GIF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.geometry import project
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.scenes import Scene

ZOOM = 5
GOAL_COLOUR = (40, 170, 40)  # RGB
PATH_COLOUR = (230, 90, 20)
AHEAD_COLOUR = (150, 40, 170)  # what an upper level asks for, and expects
HAND_COLOUR = (20, 60, 200)
TEXT_COLOUR = (30, 30, 30)
STRIP_FRAMES = 6
CAPTION = 24  # pixels
AT_REST = 0.005  # m from where the hand ended


def draw_episode(
    contract: RobotContract,
    run,
    folder: Path,
    scene: Scene | None = None,
    episode: Episode | None = None,
) -> list[Path]:
    """Draw a recorded run: every camera large, with goal, past and imagined hand path.

    Args:
        contract: the robot.
        run: as `jepa_robot.cli.recorder.Recorder` records it.
        folder: where the files go.
        scene, episode: of a task with an object, which frames say the place of.

    Returns:
        The files written.
    """
    stage = SimulatedArm(contract, zoom=ZOOM, scene=scene)
    pictures, past = [], []
    try:
        for time, distance, frame in zip(run.times, run.distances, run.frames, strict=True):
            if episode is None:
                stage.reset(frame.joints)
            else:
                stage.arrange(replace(episode, object_start=frame.block), frame.joints)
            past.append(stage.ee_position())
            pictures.append(
                _picture(contract, stage.images(), run.goal, past, frame, time, distance)
            )
    finally:
        stage.close()
    moving = sum(distance > run.distances[-1] + AT_REST for distance in run.distances)
    last = min(moving, len(pictures) - 1)  # the strip ends where the hand arrives
    chosen = np.unique(np.linspace(0, last, STRIP_FRAMES).astype(int))
    strip = folder / "episode.png"
    cv2.imwrite(str(strip), np.concatenate([pictures[i] for i in chosen], axis=1))
    written = [strip]
    if hasattr(cv2, "imwriteanimation"):
        animation = cv2.Animation()
        animation.frames = pictures
        animation.durations = [int(1000 * contract.rates.time_step)] * len(pictures)
        gif = folder / "episode.gif"
        cv2.imwriteanimation(str(gif), animation)
        written.append(gif)
    return written


def _picture(
    contract: RobotContract, images, goal, past, frame, time: float, distance: float
) -> np.ndarray:
    """One frame, the cameras below each other, BGR."""
    drawn = []
    for camera, image in zip(contract.cameras, images, strict=True):
        if camera.encoding == "bgr8":
            image = np.ascontiguousarray(image[..., ::-1])

        def pixels(points, camera=camera) -> np.ndarray:
            return np.round(ZOOM * project(camera, np.asarray(points))).astype(np.int32)

        cv2.polylines(image, [pixels(past)], False, HAND_COLOUR, 1, cv2.LINE_AA)
        if frame.imagined is not None:
            path = pixels(np.concatenate([past[-1:], frame.imagined]))
            cv2.polylines(image, [path], False, PATH_COLOUR, 2, cv2.LINE_AA)
            for point in path[1:]:
                cv2.circle(image, tuple(map(int, point)), 3, PATH_COLOUR, -1, cv2.LINE_AA)
        if len(frame.ahead):
            asked, *places = pixels(frame.ahead)
            cv2.polylines(image, [np.array(places)], False, AHEAD_COLOUR, 2, cv2.LINE_AA)
            cv2.circle(image, tuple(map(int, asked)), 6, AHEAD_COLOUR, 2, cv2.LINE_AA)
        centre = tuple(map(int, pixels(goal)))
        cv2.circle(image, centre, 9, GOAL_COLOUR, 2, cv2.LINE_AA)
        cv2.circle(image, centre, 2, GOAL_COLOUR, -1, cv2.LINE_AA)
        seen = frame.images.get(camera.name)
        if seen is not None:  # what the agent sees, at its own size
            image[-camera.height - 3 : -3, 3 : camera.width + 3] = seen
        drawn.append(image)
    caption = np.full((CAPTION, drawn[0].shape[1], 3), 255, np.uint8)
    text = f"{time:.2f} s   {100 * distance:.1f} cm"
    font = cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(caption, text, (8, CAPTION - 8), font, 0.5, TEXT_COLOUR, 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.concatenate([caption, *drawn], axis=0)[..., ::-1])
