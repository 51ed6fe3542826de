"""What the cameras show: real pictures raise no alarm, wrong ones do, by the camera's name."""

import dataclasses

import numpy as np
import pytest

from jepa_robot.models import Bundle
from jepa_robot.modules.perception import Observation, Perception
from jepa_robot.modules.views import CameraWatch, Views
from jepa_robot.robot.geometry import project, quaternion_from_rotation
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot_sim.exploration import explore
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.tasks import Reach

EPISODES, STEPS, REST = 10, 20, 40


@pytest.fixture(scope="module")
def perception():
    return Perception(Bundle("reach_panda"))


@pytest.fixture(scope="module")
def episodes(contract):
    """Observations of an arm that moves about; at the end of each episode it rests."""
    return drive(contract)


def drive(contract):
    rng = np.random.default_rng(3)
    robot, task = InProcessRobot(contract), Reach(contract)
    try:
        result = []
        for _ in range(EPISODES):
            seen = [robot.reset(task.joints_at(task.sample_position(rng)))]
            actions = explore(rng, STEPS, contract.actions.size)
            seen += [robot.step(action) for action in actions]
            seen += [robot.step(None) for _ in range(REST // EPISODES)]
            result.append(seen)
        result[-1] += [robot.step(None) for _ in range(REST)]
        return result
    finally:
        robot.close()


def judge(contract, perception, observations):
    """What is said of each frame."""
    watch = CameraWatch(contract)
    return [watch.judge(o, perception.look(o)[1]) for o in observations]


def spoil(observations, change):
    """The same frames with ``change`` done to a copy of their images."""
    copies = [[image.copy() for image in o.images] for o in observations]
    return [
        dataclasses.replace(o, images=change(images))
        for o, images in zip(observations, copies, strict=True)
    ]


def test_a_healthy_robot_raises_no_alarm_whether_it_moves_or_rests(contract, perception, episodes):
    assert perception.tells_views
    seen = [o for episode in episodes for o in episode]
    assert judge(contract, perception, seen) == [{}] * len(seen)


def blacken_side(images):
    images[0][:] = 0
    return images


def blacken_half_of_front(images):
    images[1][32:] = 0
    return images


def whiten_front(images):
    images[1][:] = 230
    return images


def turn_side(images):
    images[0] = images[0][::-1, ::-1]
    return images


WRONG = {
    "camera_side is black": (blacken_side, {"camera_side"}),
    "camera_front shows nothing but one colour": (whiten_front, {"camera_front"}),
    "camera_front is unlike the training pictures": (blacken_half_of_front, {"camera_front"}),
    "camera_side is unlike the training pictures": (turn_side, {"camera_side"}),
}


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_picture_is_told_in_every_frame_and_names_the_camera(
    contract, perception, episodes, says
):
    change, cameras = WRONG[says]
    for told in judge(contract, perception, spoil(episodes[0], change)):
        assert set(told) == cameras
        assert says in told.values()


def test_swapped_cameras_are_told_in_every_frame(contract, perception, episodes):
    for episode in episodes:
        for told in judge(contract, perception, spoil(episode, lambda images: images[::-1])):
            assert told


def test_a_camera_that_was_knocked_over_is_told(contract, perception, episodes):
    camera = contract.cameras[1]
    angle = np.deg2rad(10)
    turn = np.array(
        [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    )
    turned = dataclasses.replace(
        camera, orientation=quaternion_from_rotation(camera.rotation @ turn)
    )
    robot = InProcessRobot(dataclasses.replace(contract, cameras=(contract.cameras[0], turned)))
    try:
        seen = [robot.reset(o.positions) for o in episodes[0][::5]]
    finally:
        robot.close()
    for told in judge(contract, perception, seen):
        assert told == {"camera_front": "camera_front is unlike the training pictures"}


def test_a_frozen_camera_is_told_once_the_hand_has_visibly_moved(contract, perception, episodes):
    camera, kinematics = contract.cameras[1], Kinematics(contract)
    told_of = 0
    for episode in episodes:
        stopped = episode[0].images[1]
        frozen = spoil(episode, lambda images, stopped=stopped: [images[0], stopped])
        told = judge(contract, perception, frozen)
        hand = project(camera, kinematics.position([o.positions for o in episode]))
        steps = np.linalg.norm(np.diff(hand, axis=0), axis=1)
        moved = np.linalg.norm(hand - hand[0], axis=1)
        assert not any("camera_side" in problems for problems in told)
        assert not any(told[:2])
        for index in range(2, len(told)):
            problems, pixels = told[index], moved[: index + 1]
            if pixels.max() > 2 and steps[:index].max() < 1:  # it was between here and there, too
                assert problems == {
                    "camera_front": "camera_front is frozen: the hand moves, its picture not"
                }
                told_of += 1
            elif pixels.max() < 0.5:
                assert not problems
    assert told_of > EPISODES


@pytest.mark.parametrize("wrong", [slice(0, 1), slice(1, 2), slice(0, 3), slice(2, 5)])
def test_joints_that_were_wrong_do_not_make_a_resting_camera_frozen(contract, episodes, wrong):
    resting = episodes[-1][-REST // 2 :]
    resting[wrong] = [dataclasses.replace(o, positions=o.positions + 0.3) for o in resting[wrong]]
    watch = CameraWatch(contract)
    assert [watch.judge(o, {}) for o in resting] == [{}] * len(resting)


def test_one_bad_picture_is_an_outlier_and_a_frozen_camera_is_none(contract, perception, episodes):
    episode = max(episodes, key=lambda e: np.ptp([o.positions for o in e], axis=0).max())
    watch, black = CameraWatch(contract), spoil(episode[:3], blacken_side)
    sure = []
    for observation in (episode[0], black[1], episode[2], black[1], black[2]):
        watch.judge(observation, {})
        sure.append(watch.is_sure)
    assert sure == [False, False, False, False, True]
    frozen = spoil(episode, lambda images: [i.copy() for i in episode[0].images])
    assert any(watch.judge(observation, {}) for observation in frozen)  # up to the first
    assert watch.is_sure


def test_a_camera_that_goes_on_after_it_was_frozen_is_good_at_once(contract, perception, episodes):
    episode = max(episodes, key=lambda e: np.ptp([o.positions for o in e], axis=0).max())
    stopped = spoil(episode[:15], lambda images: [i.copy() for i in episode[0].images])
    told = judge(contract, perception, [*stopped, *episode[15:]])
    assert told[14]
    assert not any(told[15:])


def test_a_bundle_without_views_still_tells_black_cameras(contract, tiny, episodes):
    bundle = Bundle(tiny)
    assert not Views(bundle).are_told
    assert Views(bundle).distances(episodes[0][0].images) == {}
    assert judge(contract, Perception(bundle), episodes[0][:5]) == [{}] * 5
    for told in judge(contract, Perception(bundle), spoil(episodes[0], blacken_side)):
        assert told == {"camera_side": "camera_side is black"}


def test_views_are_judged_in_words_with_value_and_limit(episodes):
    views = Views(Bundle("reach_panda"))
    good = views.distances(episodes[0][0].images)
    assert set(good) == {"camera_side", "camera_front"}
    assert views.judge(good) == ""
    bad = views.distances(turn_side([image.copy() for image in episodes[0][0].images]))
    assert views.judge(bad) == (
        "camera_side is unlike the training pictures: "
        f"distance {bad['camera_side']:.2f}, expected at most 1"
    )


def test_a_robot_whose_hand_is_out_of_the_picture_is_not_called_frozen(contract, episodes):
    away = dataclasses.replace(contract.cameras[0], cx=-500.0)
    watch = CameraWatch(dataclasses.replace(contract, cameras=(away,)))
    picture = episodes[0][0].images[0]
    for o in episodes[0]:
        assert watch.judge(Observation(o.stamp, [picture], o.positions, o.velocities), {}) == {}
