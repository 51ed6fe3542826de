"""Pinhole cameras of the contract as PyBullet renders them, and the projection of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pinocchio
import pybullet

from jepa_robot.robot.contract import Camera
from jepa_robot_sim.scenes import Light

NEAR, FAR = 0.05, 6.0


class Renderer:
    """Renders one contract camera, optionally larger than the camera itself is."""

    def __init__(self, camera: Camera, client: int, zoom: int = 1) -> None:
        self.camera, self._client = camera, client
        self.width, self.height = camera.width * zoom, camera.height * zoom
        self.vary()
        left, right = -camera.cx / camera.fx * NEAR, (camera.width - camera.cx) / camera.fx * NEAR
        top, bottom = camera.cy / camera.fy * NEAR, (camera.cy - camera.height) / camera.fy * NEAR
        self._projection = pybullet.computeProjectionMatrix(left, right, bottom, top, NEAR, FAR)

    def vary(self, shift: Sequence[float] | None = None, light: Light | None = None) -> None:
        """Look from elsewhere and in another light than the nominal; without arguments, as nominal.

        Args:
            shift: of position (m) and orientation (rotation vector, rad), base frame: ``[6]``.
            light: the light.
        """
        self._light = light or Light()
        rotation, position = self.camera.rotation, np.array(self.camera.position)
        if shift is not None:
            rotation = pinocchio.exp3(np.array(shift[3:], float)) @ rotation
            position = position + shift[:3]
        # OpenGL looks along -z with y up, an optical frame along +z with y down (REP 103).
        view = np.eye(4)
        view[:3, :3] = (rotation * [1, -1, -1]).T
        view[:3, 3] = -view[:3, :3] @ position
        self._view = view.T.ravel().tolist()

    def render(self) -> np.ndarray:
        """``[height, width, 3]`` uint8, in the camera's encoding."""
        _, _, pixels, _, _ = pybullet.getCameraImage(
            self.width,
            self.height,
            self._view,
            self._projection,
            lightDirection=list(self._light.direction),
            lightAmbientCoeff=self._light.ambient,
            lightDiffuseCoeff=self._light.diffuse,
            lightSpecularCoeff=0.0,
            shadow=0,
            flags=pybullet.ER_NO_SEGMENTATION_MASK,
            renderer=pybullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )
        image = np.reshape(np.asarray(pixels, np.uint8), (self.height, self.width, 4))[..., :3]
        return np.ascontiguousarray(image if self.camera.encoding == "rgb8" else image[..., ::-1])
