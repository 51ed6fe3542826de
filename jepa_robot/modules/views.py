"""Judges what the cameras show: a picture that cannot be right must not move the arm.

A camera that is black or of one colour, or whose picture stands still while the hand moves in it,
is told without a bundle. What the encoder was not trained on is told by the encoder itself: its
``views`` are distances from the training pictures (docs/reference/bundle.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from jepa_robot.models import Bundle
from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.robot.contract import Camera, RobotContract
from jepa_robot.robot.geometry import project
from jepa_robot.robot.kinematics import Kinematics

LIMIT = 1.0  # of a distance from the training pictures
MOVED = 0.5  # pixels that the hand moves before a camera must show it
PLACES = 3  # of the hand with the same picture that tell a frozen camera
OUTLIERS = 1  # bad frames in a row that may be ones
ONE_COLOUR, BLACK = 4.0, 32.0  # standard deviation and mean of a channel, of 255
SAMPLED = 64  # rows that are enough to see whether a picture has any content


class Views:
    """How far camera pictures are from those that a bundle's encoder was trained on.

    Bundles from before there were views have none: ``are_told`` is False and distances are empty.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._perception = Perception(bundle)
        self._joints = len(bundle.manifest["joints"])
        self.are_told = self._perception.tells_views

    def distances(self, images: Sequence[np.ndarray]) -> dict[str, float]:
        """By camera, for one ``[H, W, 3]`` uint8 image a camera; above 1 is unlike training.

        Raises:
            InvalidObservation: for images of another size.
        """
        at_rest = np.zeros(self._joints)
        return self._perception.look(Observation(0, images, at_rest, at_rest, 0.0))[1]

    @staticmethod
    def judge(distances: Mapping[str, float]) -> str:
        """What is unlike the training pictures, in words; empty if nothing is."""
        return "; ".join(
            f"{_unlike(camera)}: distance {distance:.2f}, expected at most {LIMIT:g}"
            for camera, distance in distances.items()
            if distance > LIMIT
        )


class CameraWatch:
    """Notices cameras that are black or frozen or show something else, frame by frame.

    ``is_sure``: the last frame is no outlier among good ones.
    """

    def __init__(self, contract: RobotContract) -> None:
        self.is_sure = False
        self._bad_frames = 0
        self._kinematics = Kinematics(contract)
        self._cameras = [(camera, FrozenWatch(camera)) for camera in contract.cameras]

    def judge(self, observation: Observation, distances: Mapping[str, float]) -> dict[str, str]:
        """What is wrong with which camera, in words that stay the same while it lasts.

        Args:
            observation: the next frame.
            distances: by camera, of this frame from the training pictures; may lack cameras.
        """
        hand = self._kinematics.pose(observation.positions)[0]
        problems, is_any_frozen = {}, False
        for (camera, watch), image in zip(self._cameras, observation.images, strict=True):
            is_frozen = watch.look(image, hand)
            is_any_frozen |= is_frozen  # which three pictures have told
            problem = blank(image)
            if problem:
                problems[camera.name] = f"{camera.name} {problem}"
            elif distances.get(camera.name, 0.0) > LIMIT:
                problems[camera.name] = _unlike(camera.name)
            elif is_frozen:
                problems[camera.name] = f"{camera.name} is frozen: the hand moves, its picture not"
        self._bad_frames = self._bad_frames + 1 if problems else 0
        self.is_sure = is_any_frozen or self._bad_frames > OUTLIERS
        return problems


class FrozenWatch:
    """Whether a camera's picture stands still while the hand moves in it.

    Where nothing moves, one picture after another may well be the same to the bit. The hand must
    have been seen at three places with it: joints that are wrong for a while and then right again
    make two, and an arm that rests shows the same picture for ever.
    """

    def __init__(self, camera: Camera) -> None:
        self._camera = camera
        self._size = np.array([camera.width, camera.height])
        self._image: np.ndarray | None = None
        self._places: list[np.ndarray] = []  # of the hand, in pixels, further apart than MOVED

    def look(self, image: np.ndarray, hand: np.ndarray) -> bool:
        """Judge the next picture ``[H, W, 3]``, taken with the hand at ``[3]`` (m, base frame)."""
        if self._image is None or not np.array_equal(image, self._image):
            self._image, self._places = image, []
        place = project(self._camera, hand)
        is_new = all(np.linalg.norm(place - other) > MOVED for other in self._places)
        if is_new and len(self._places) < PLACES:
            self._places.append(place)
        places = np.array(self._places)
        is_in_view = np.all((places >= 0) & (places < self._size), axis=1).any()
        return bool(is_in_view and len(places) == PLACES)


def blank(image: np.ndarray) -> str:
    """What is wrong with an image ``[H, W, 3]`` uint8 without content; empty if it has some."""
    step = max(min(image.shape[:2]) // SAMPLED, 1)
    mean, deviation = cv2.meanStdDev(np.ascontiguousarray(image[::step, ::step]))
    if deviation.max() > ONE_COLOUR:
        return ""
    return "is black" if mean.max() < BLACK else "shows nothing but one colour"


def _unlike(camera: str) -> str:
    return f"{camera} is unlike the training pictures"
