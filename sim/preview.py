"""What a contract makes of an arm: poses in its workspace, checked and as its cameras see them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from jepa_robot.robot.collision import Clearance
from jepa_robot.robot.contract import Camera, RobotContract
from jepa_robot.robot.geometry import project
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot_sim.arm import SimulatedArm
from jepa_robot_sim.tasks import MARGIN, Reach

ZOOM = 6
RED = (255, 0, 0)
SHOWN = (0, 1, 8)  # of the poses: home, the lowest and the highest corner


@dataclass(frozen=True)
class Pose:
    """Where the hand should be (m, base frame), and what came of it.

    ``error`` (m) is what is left to there, ``singular`` the Jacobian's least singular value of the
    motion that the actions ask for, ``clearance`` (m) that of the nearest pair of bodies.
    """

    name: str
    wanted: np.ndarray
    joints: np.ndarray
    error: float
    singular: float
    clearance: float
    nearest: str


def poses(contract: RobotContract) -> list[Pose]:
    """Home, and the corners of the box that starts and goals are drawn from.

    Raises:
        InvalidContract: the URDF or what the contract says of it is wrong.
    """
    kinematics = Kinematics(contract)
    clearance, task = Clearance(contract, kinematics), Reach(contract)

    def pose(name: str, wanted: np.ndarray, joints: np.ndarray) -> Pose:
        jacobian = kinematics.jacobian(joints)[: None if task.keeps_orientation else 3]
        distances = clearance.distances(joints)
        nearest = int(np.argmin(distances)) if len(distances) else None
        return Pose(
            name,
            wanted,
            joints,
            float(np.linalg.norm(kinematics.pose(joints)[0] - wanted)),
            float(np.linalg.svd(jacobian, compute_uv=False)[-1]),
            np.inf if nearest is None else float(distances[nearest]),
            "" if nearest is None else clearance.names[nearest],
        )

    home = np.array(contract.home)
    lower, upper = task.lower + MARGIN, task.upper - MARGIN
    corners = [np.array(c) for c in itertools.product(*zip(lower, upper, strict=True))]
    return [
        pose("home", kinematics.pose(home)[0], home),
        *(pose(f"corner {i}", corner, task.joints_at(corner)) for i, corner in enumerate(corners)),
    ]


def draw(contract: RobotContract, found: list[Pose], file: Path) -> None:
    """Home and two corners of what :func:`poses` found, a row each, a column a camera, enlarged.

    The workspace's corners are red dots.

    Raises:
        ValueError: a file name that names no kind of picture.
    """
    if file.suffix not in (".png", ".jpg"):
        raise ValueError(f"picture is {str(file)!r}, expected a name that ends in .png or .jpg")
    arm = SimulatedArm(contract, zoom=ZOOM)
    try:
        rows = []
        for pose in [found[index] for index in SHOWN]:
            arm.reset(pose.joints)
            rows.append(
                [
                    _dotted(contract, *pair)
                    for pair in zip(contract.cameras, arm.images(), strict=True)
                ]
            )
    finally:
        arm.close()
    height = max(image.shape[0] for image in rows[0])
    lines = [np.hstack([_as_high(image, height) for image in row]) for row in rows]
    file.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(file), np.vstack(lines)[..., ::-1])


def _dotted(contract: RobotContract, camera: Camera, image: np.ndarray) -> np.ndarray:
    """An image ``[H, W, 3]`` in RGB with the workspace's corners."""
    image = image if camera.encoding == "rgb8" else image[..., ::-1].copy()
    for corner in itertools.product(*zip(*contract.workspace, strict=True)):
        pixel = ZOOM * project(camera, np.array(corner))
        if np.isfinite(pixel).all():
            cv2.circle(image, tuple(int(p) for p in pixel), ZOOM // 2, RED, -1)
    return image


def _as_high(image: np.ndarray, height: int) -> np.ndarray:
    return np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0)))
