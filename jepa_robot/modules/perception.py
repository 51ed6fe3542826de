"""Perception: camera images and joint states to a state, ``s[t] = Enc(x[t])``.

The state is proprioception (joint positions in rad and velocities in rad/s, as measured, and the
opening in m of a gripper that actions move) followed by the latent. With joints, whose velocity is
measured, one frame is window enough; a bundle may ask for more, its history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.robot.contract import moves_gripper

LONGEST_GAP = 1.5  # time steps: frames further apart do not make a window


class InvalidObservation(ValueError):
    """An observation that must not be used; the message names what was expected."""


@dataclass(frozen=True)
class Observation:
    """What the robot measured at one instant.

    ``images`` holds one ``[H, W, 3]`` uint8 image a camera in the contract's order and encoding;
    ``positions`` (rad) and ``velocities`` (rad/s) are ``[J]`` in the contract's joint order;
    ``opening`` is a gripper's position (m), the mean of its joints, where it is measured.
    """

    stamp: int  # ns
    images: Sequence[np.ndarray]
    positions: np.ndarray
    velocities: np.ndarray
    opening: float | None = None

    def felt(self, has_gripper: bool) -> np.ndarray:
        """Joint positions, velocities, and the opening of a gripper that actions move: ``[2J]``
        or ``[2J + 1]`` float32.

        Raises:
            InvalidObservation: the gripper was not measured.
        """
        parts = [self.positions, self.velocities]
        if has_gripper:
            if self.opening is None:
                raise InvalidObservation(
                    "joint states do not tell the gripper's opening, expected its joints there"
                )
            parts.append([self.opening])
        return np.concatenate(parts).astype(np.float32)


class Perception:
    """Encodes observations with a bundle's encoder."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._cameras = bundle.manifest["cameras"]
        self._has_gripper = moves_gripper(bundle.manifest)
        self._encoder = bundle.session("encoder")
        self.tells_views = "views" in self._encoder.outputs
        self._past: deque[np.ndarray] = deque(maxlen=bundle.history)
        self._gap = LONGEST_GAP * bundle.manifest["time_step"] * 1e9
        self._stamp = 0

    def forget(self) -> None:
        """What comes next has no past: before it, its first frame is seen again."""
        self._past.clear()

    def encode(self, observation: Observation) -> np.ndarray:
        """The state ``[1, S]`` float32 of an observation; the rest is as in :meth:`look`."""
        return self.look(observation)[0]

    def look(self, observation: Observation) -> tuple[np.ndarray, dict[str, float]]:
        """The state ``[1, S]`` float32 of an observation, and how familiar its images are.

        Returns:
            The state, and by camera how far its image is from the training pictures: above 1 is
            unlike them. Empty for a bundle that does not tell.

        Raises:
            InvalidObservation: for images of another size, or joints that are no finite numbers.
        """
        images = self._window(observation)
        proprioception = observation.felt(self._has_gripper)
        expected = self.bundle.measured_size
        if proprioception.shape != (expected,):
            raise InvalidObservation(
                f"joint positions and velocities have {proprioception.size} values, "
                f"expected {expected}"
            )
        if not np.isfinite(proprioception).all():
            raise InvalidObservation(
                f"joint states hold {proprioception.tolist()}, expected finite numbers"
            )
        outputs = self._encoder.run(images=images[None], proprioception=proprioception[None])
        state = outputs["state"]
        if not np.isfinite(state).all():
            raise InvalidObservation(
                f"the encoder of {self.bundle.id} gave NaN or infinity, expected finite numbers"
            )
        if not self.tells_views:
            return state, {}
        names = [camera["name"] for camera in self._cameras]
        return state, dict(zip(names, outputs["views"][0].tolist(), strict=True))

    def encode_goal(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """The latent ``[1, D]`` of goal images, one a camera.

        Raises:
            InvalidObservation: for images of another size.
        """
        state = self._encoder(
            images=_as_window([self.preprocess(images)] * self.bundle.history)[None],
            proprioception=np.zeros((1, self.bundle.measured_size), np.float32),
        )
        return self.bundle.latent(state)

    def _window(self, observation: Observation) -> np.ndarray:
        """The last frames, which must follow each other: ``[K, cameras, h, w, 3]``."""
        images = self.preprocess(observation.images)
        if not 0 < observation.stamp - self._stamp <= self._gap:
            self.forget()
        self._stamp = observation.stamp
        self._past.extend([images] * (1 if self._past else self.bundle.history))
        return _as_window(list(self._past))

    def preprocess(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Crop, convert to RGB and resize: ``[cameras, h, w, 3]`` uint8."""
        return preprocess(images, self._cameras, self.bundle.manifest["image_size"])


def _as_window(frames: list[np.ndarray]) -> np.ndarray:
    """``[K, cameras, h, w, 3]``; without the first axis where K is 1, as the encoder takes it."""
    return frames[0] if len(frames) == 1 else np.stack(frames)


def preprocess(
    images: Sequence[np.ndarray], cameras: Sequence[dict], size: Sequence[int]
) -> np.ndarray:
    """Crop, convert to RGB and resize: what data collection and the encoder at run time share.

    Args:
        images: one ``[H, W, 3]`` uint8 a camera, as published.
        cameras: the cameras of ``RobotContract.interface()``.
        size: height and width of the result.

    Returns:
        ``[cameras, h, w, 3]`` uint8.

    Raises:
        InvalidObservation: for another number of images, or images of another size.
    """
    if len(images) != len(cameras):
        raise InvalidObservation(f"{len(images)} images, expected {len(cameras)}")
    pairs = zip(images, cameras, strict=True)
    return np.stack([_preprocess(image, camera, tuple(size)) for image, camera in pairs])


def _preprocess(image: np.ndarray, camera: dict, size: tuple[int, int]) -> np.ndarray:
    expected = (camera["height"], camera["width"], 3)
    if image.shape != expected or image.dtype != np.uint8:
        raise InvalidObservation(
            f"image of {camera['name']} is {image.shape} {image.dtype}, expected {expected} uint8"
        )
    x, y, width, height = camera["crop"]
    image = image[y : y + height, x : x + width]
    if image.shape[:2] != size:
        import cv2  # here, since not every process that knows of perception resizes images

        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return image if camera["encoding"] == "rgb8" else image[..., ::-1]
