"""Angles and orientations. Quaternions are (x, y, z, w); optical frames as in REP 103."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jepa_robot.robot.contract import Camera


def orientation_towards(position: tuple, target: tuple) -> tuple[float, float, float, float]:
    """The quaternion (x, y, z, w) of an optical frame at ``position`` that looks at ``target``.

    The image's up direction is the base frame's z where possible.
    """
    forward = np.subtract(target, position)
    forward = forward / np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return quaternion_from_rotation(np.stack([right, np.cross(forward, right), forward], axis=1))


def rotation_from_quaternion(quaternion: tuple) -> np.ndarray:
    """``[3, 3]`` of a unit quaternion (x, y, z, w)."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def quaternion_from_rotation(rotation: np.ndarray) -> tuple[float, float, float, float]:
    """The quaternion (x, y, z, w) with w >= 0 of a rotation matrix ``[3, 3]``.

    The eigenvector to the largest eigenvalue of a symmetric matrix (Bar-Itzhack 2000, J. Guidance).
    """
    r = np.asarray(rotation, dtype=float)
    k = np.zeros((4, 4))
    k[:3, :3] = r + r.T - np.trace(r) * np.eye(3)
    k[3, :3] = k[:3, 3] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
    k[3, 3] = np.trace(r)
    quaternion = np.linalg.eigh(k)[1][:, -1]
    return tuple(float(v) for v in (quaternion if quaternion[3] >= 0 else -quaternion))


def project(camera: Camera, points: np.ndarray) -> np.ndarray:
    """Pixels ``[..., 2]`` of points ``[..., 3]`` (m, base frame); NaN behind the camera."""
    local = (np.asarray(points) - camera.position) @ camera.rotation
    depth = np.where(local[..., 2:] > 1e-6, local[..., 2:], np.nan)
    return local[..., :2] / depth * [camera.fx, camera.fy] + [camera.cx, camera.cy]


def in_radians(value: float) -> str:
    """What a number would be if it was meant in degrees, in words."""
    return f"{value:g}° would be {np.radians(value):.4g} rad"
