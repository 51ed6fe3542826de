"""Rows about cameras: size, encoding, intrinsics, and whether the picture is one."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.contract import Camera, RobotContract
from jepa_robot.robot.seen import FAIL, NOTE, PASS, SKIP, WARN, CameraSeen, Finding, Seen
from jepa_robot.robot.stream_checks import MOST_AGE, check_age, check_rate, check_topic, where

FOCAL_TOLERANCE = 0.02  # of the focal length
CENTRE_TOLERANCE = 0.02  # of the image's size
DISTORTION = 0.01  # of the first coefficients: about a pixel at the edge of a small image
BLACK, FLAT = 32, 4  # of 255: mean and standard deviation of a channel, as perception has them
UNLIKE = 1.0  # distance from the training pictures
MOVED = 0.05  # rad after which a picture must have changed


def check_camera(contract: RobotContract, index: int, seen: Seen) -> list[Finding]:
    camera = contract.cameras[index]
    found, name = seen.cameras[camera.name], camera.name
    oldest = max(MOST_AGE, contract.rates.time_step)
    return [
        check_topic(f"{name}: image topic", found.images, seen),
        check_rate(f"{name}: image rate", found.images, contract, "image", is_timed=True),
        check_age(f"{name}: clock", found.images, seen, oldest),
        _check_kind(contract, index, found),
        check_topic(f"{name}: camera_info topic", found.infos, seen),
        _check_intrinsics(contract, index, found),
        _check_picture(camera, found, seen),
        _check_view(camera, found),
    ]


def check_cameras_together(contract: RobotContract, seen: Seen) -> list[Finding]:
    """Whether images of one instant can be told: perception waits for a set of them."""
    streams = [seen.cameras[camera.name].images for camera in contract.cameras]
    if len(streams) < 2:
        return []
    name = "cameras together"
    if not all(stream.stamps for stream in streams):
        return [Finding(name, SKIP, "nothing came")]
    first = np.array(streams[0].stamps)
    apart = [
        float(np.median([np.abs(first - stamp).min() for stamp in other.stamps])) / 1e9
        for other in streams[1:]
    ]
    most = contract.rates.time_step / 2
    found = f"{1000 * max(apart):.0f} ms apart, at most {1000 * most:.0f}"
    if max(apart) > most:
        return [Finding(name, FAIL, found, "trigger the cameras together, or raise their rate")]
    return [Finding(name, PASS, found)]


def _check_kind(contract: RobotContract, index: int, found: CameraSeen) -> Finding:
    camera = contract.cameras[index]
    name = f"{camera.name}: size and encoding"
    if not found.kinds:
        return Finding(name, SKIP, "nothing came")
    wanted = (camera.width, camera.height, camera.encoding)
    wrong = [kind for kind in found.kinds if kind != wanted]
    if wrong:
        width, height, encoding = wrong[0]
        return Finding(
            name,
            FAIL,
            f"images are {width}x{height} {encoding}, the contract says "
            f"{camera.width}x{camera.height} {camera.encoding}",
            "set the driver (or put image_proc's resize between), or correct "
            + where(contract, f"cameras[{index}]"),
        )
    return Finding(name, PASS, "{}x{} {}".format(*wanted))


def _check_intrinsics(contract: RobotContract, index: int, found: CameraSeen) -> Finding:
    camera = contract.cameras[index]
    name = f"{camera.name}: intrinsics"
    if found.intrinsics is None or found.info_size is None:
        return Finding(name, SKIP, "no camera_info came")
    if not found.intrinsics[0]:
        return Finding(name, WARN, "camera_info is empty: not calibrated", "calibrate the camera")
    if found.info_size != (camera.width, camera.height):
        return Finding(
            name,
            FAIL,
            f"camera_info is for {found.info_size[0]}x{found.info_size[1]}, the contract says "
            f"{camera.width}x{camera.height}",
            "let the driver send the camera_info of the images that it sends",
        )
    for field, value in zip(("fx", "fy", "cx", "cy"), found.intrinsics, strict=True):
        wanted = getattr(camera, field)
        size = camera.width if field == "cx" else camera.height
        most = FOCAL_TOLERANCE * wanted if field[0] == "f" else CENTRE_TOLERANCE * size
        if abs(value - wanted) > most:
            return Finding(
                name,
                FAIL,
                f"{field} is {value:g} in camera_info, {wanted:g} in the contract",
                f"correct {where(contract, f'cameras[{index}].{field}')}, or set the camera's lens "
                "and binning to what the bundle was trained with",
            )
    if any(abs(d) > DISTORTION for d in found.distortion):
        return Finding(
            name,
            WARN,
            f"the lens is distorted: {[round(d, 3) for d in found.distortion]}",
            f"remap image_proc's rectified image to {found.images.topic}",
        )
    return Finding(name, PASS, "fx {:g}, fy {:g}, cx {:g}, cy {:g}".format(*found.intrinsics))


def _check_picture(camera: Camera, found: CameraSeen, seen: Seen) -> Finding:
    name = f"{camera.name}: picture"
    if found.picture is None:
        return Finding(name, SKIP, "no image that can be read came")
    mean, deviation = (
        float(values.max()) for values in (found.picture.mean((0, 1)), found.picture.std((0, 1)))
    )
    if deviation < FLAT:
        return Finding(
            name,
            FAIL,
            f"{'black' if mean < BLACK else 'of one colour'}: mean {mean:.0f}, deviation "
            f"{deviation:.1f} of 255",
            "take off the lens cap, switch on the light, look at exposure and shutter",
        )
    stamps = found.images.stamps
    if len(stamps) > 2 and len(set(stamps)) == 1:
        return Finding(
            name, FAIL, "every image has the same stamp: frozen", "start the camera's driver again"
        )
    if len(found.digests) > 2 and len(set(found.digests)) == 1:
        if _moved(seen) > MOVED:
            return Finding(
                name,
                FAIL,
                "the arm moves, the picture does not: frozen, or of something else",
                "start the camera's driver again; see what the camera shows",
            )
        return Finding(
            name,
            NOTE,
            f"{len(found.digests)} images without any noise: a simulator at rest does so, a real "
            "camera that does is frozen",
        )
    return Finding(name, PASS, f"mean {mean:.0f}, deviation {deviation:.0f} of 255")


def _check_view(camera: Camera, found: CameraSeen) -> Finding:
    """Where the camera stands and what it sees, by what the encoder was trained on."""
    name = f"{camera.name}: view"
    if found.distance is None:
        return Finding(name, SKIP, "no picture, or no bundle that tells")
    distance = f"{found.distance:.2f} of what the training pictures span"
    if found.distance > UNLIKE:
        return Finding(
            name,
            FAIL,
            f"unlike the training pictures: {distance}",
            "put camera, light, table and background back as they were when the data was collected "
            "(are two cameras swapped?), or collect data as they are and train",
        )
    return Finding(name, PASS, distance)


def _moved(seen: Seen) -> float:
    """The most that a joint moved, in rad, among messages of the same joints."""
    if not seen.samples:
        return 0.0
    names = seen.samples[0].names
    rows = [sample.positions for sample in seen.samples if sample.names == names]
    return float(np.ptp(rows, axis=0).max()) if rows[0].size else 0.0
