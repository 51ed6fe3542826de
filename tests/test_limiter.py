"""The limiter: within every limit whatever comes, and always able to stop."""

import dataclasses

import numpy as np
import pytest
import yaml

from jepa_robot import resources
from jepa_robot.robot.collision import Clearance
from jepa_robot.robot.contract import InvalidContract, Obstacle, load_contract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.limiter import SafetyLimiter

PERIOD = 0.004


def with_joint_velocities(tmp_path, **changes):
    data = yaml.safe_load(resources.find("config/robots", "panda", ".yaml").read_text())
    names = [joint["name"] for joint in data["joints"]]
    channels = [{"name": name, "unit": "rad/s", "scale": 1.5} for name in names]
    data["actions"] = {"kind": "joint_velocity", "channels": channels}
    if "workspace" in changes:
        data["workspace"] = dict(zip(("lower", "upper"), changes["workspace"], strict=True))
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


@pytest.fixture(params=["ee_twist", "joint_velocity"])
def robot(request, tmp_path):
    if request.param == "joint_velocity":
        return with_joint_velocities(tmp_path)
    return load_contract("panda")


def assert_within(limits, before, after, period):
    """Two commands, one period apart, by their differences."""
    for name, one, two in (
        ("velocity", before.positions, after.positions),
        ("acceleration", before.velocities, after.velocities),
        ("jerk", before.accelerations, after.accelerations),
    ):
        assert (np.abs(two - one) / period <= limits(name) * 1.0001 + 1e-6).all(), name
    assert (after.positions >= limits("lower") - 1e-9).all()
    assert (after.positions <= limits("upper") + 1e-9).all()


@pytest.mark.parametrize("period", [0.004, 0.001, 0.017])
def test_commands_stay_within_the_limits_under_any_action(robot, period):
    limiter, rng = SafetyLimiter(robot), np.random.default_rng(0)
    limiter.reset(robot.home)
    lower, upper = (np.array(corner) for corner in robot.workspace)
    action = np.zeros(robot.actions.size)
    for step in range(2500):
        if step % 40 == 0:
            action = rng.choice([-5.0, -1.0, 0.0, 1.0, 5.0], robot.actions.size)
        before = limiter.motion
        limiter.step(period, None if step % 400 > 360 else action)
        assert_within(robot.limits, before, limiter.motion, period)
        position = limiter.kinematics.pose(limiter.positions)[0]
        assert (position > lower - 1e-3).all() and (position < upper + 1e-3).all()


def test_from_every_command_the_arm_can_stop_in_time(robot):
    limiter, rng = SafetyLimiter(robot), np.random.default_rng(2)
    limiter.reset(robot.home)
    clearance = Clearance(robot, limiter.kinematics)
    action = np.zeros(robot.actions.size)
    for step in range(600):
        if step % 60 == 0:
            action = rng.choice([-1.0, 1.0], robot.actions.size)
        limiter.step(PERIOD, action)
        if step % 20 == 19:
            stop = limiter.way_to_rest
            for share in np.linspace(0, 1, 8):
                motion = stop.at(share * stop.duration)
                assert clearance.distances(motion.positions).min() > robot.safety.margin - 2e-3
                assert (motion.positions >= robot.limits("lower")).all()
                assert (motion.positions <= robot.limits("upper")).all()


def test_the_hand_stays_upright(contract):
    limiter, rng = SafetyLimiter(contract), np.random.default_rng(1)
    limiter.reset(contract.home)
    upright = limiter.kinematics.pose(limiter.positions)[1]
    action = np.zeros(3)
    for step in range(3000):
        if step % 100 == 0:
            action = rng.choice([-1.0, 1.0], 3)
        limiter.step(PERIOD, action)
        rotation = limiter.kinematics.pose(limiter.positions)[1]
        assert np.trace(upright.T @ rotation) > 2.9  # within 18 degrees


@pytest.mark.parametrize("speed", [0.2, 1.0])
def test_an_obstacle_in_the_workspace_is_not_touched(contract, speed):
    wall = Obstacle("wall", (0.3, 0.15, -0.01), (0.8, 0.2, 0.8))
    safety = dataclasses.replace(contract.safety, obstacles=(*contract.safety.obstacles, wall))
    robot = dataclasses.replace(contract, safety=safety)
    limiter = SafetyLimiter(robot)
    clearance = Clearance(robot, limiter.kinematics)
    limiter.reset(robot.home)
    limited = set()
    for _ in range(600):
        _, active = limiter.step(PERIOD, np.array([0.0, speed, 0.0]))
        limited |= set(active)
        assert clearance.distances(limiter.positions).min() >= robot.safety.margin - 1e-6
    assert "obstacle" in limited
    nearest = clearance.names[int(np.argmin(clearance.distances(limiter.positions)))]
    assert "wall" in nearest
    assert clearance.distances(limiter.positions).min() < 0.03  # it does go near
    for _ in range(200):  # and away again
        limiter.step(PERIOD, np.array([0.0, -1.0, 0.0]))
    assert clearance.distances(limiter.positions).min() > 0.015


def test_the_arm_does_not_touch_itself(tmp_path):
    robot = with_joint_velocities(tmp_path, workspace=([-2, -2, -2], [2, 2, 2]))
    limiter = SafetyLimiter(robot)
    clearance = Clearance(robot, limiter.kinematics)
    for seed in range(4):
        rng = np.random.default_rng(seed)
        limiter.reset(robot.home)
        action = rng.choice([-1.0, 1.0], 7)
        for _ in range(500):
            limiter.step(PERIOD, action)
            assert clearance.distances(limiter.positions).min() >= robot.safety.margin - 1e-6


def test_a_base_that_is_near_its_table_is_told_by_its_line(tmp_path):
    data = yaml.safe_load(resources.find("config/robots", "panda", ".yaml").read_text())
    data["safety"]["obstacles"] = [{"name": "shelf", "lower": [0, -1, 0], "upper": [1, 1, 1]}]
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InvalidContract, match=r"robot.yaml:\d+: safety.obstacles\[0\] 'shelf' is"):
        SafetyLimiter(load_contract(path))


def test_the_gripper_opens_and_closes_within_its_limits(tmp_path):
    data = yaml.safe_load(resources.find("config/robots", "panda", ".yaml").read_text())
    data["gripper"] = {
        "joints": ["panda_finger_joint1", "panda_finger_joint2"],
        "topic": "gripper_command",
        **{"lower": 0.0, "upper": 0.04, "velocity": 0.1},
    }
    data["actions"]["channels"].append({"name": "gripper", "unit": "m/s", "scale": 0.2})
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    limiter = SafetyLimiter(load_contract(path))
    limiter.reset(limiter.contract.home, gripper=0.02)
    limiter.step(PERIOD, np.array([0, 0, 0, 1.0]))
    assert limiter.gripper == pytest.approx(0.02 + 0.1 * PERIOD)  # its velocity limit
    for _ in range(200):
        limiter.step(PERIOD, np.array([0, 0, 0, -1.0]))
    assert limiter.gripper == 0.0
    limiter.step(PERIOD, None)
    assert limiter.gripper == 0.0


def test_distances_and_their_gradients_agree_with_finite_differences(contract):
    kinematics = Kinematics(contract)
    clearance, rng = Clearance(contract, kinematics), np.random.default_rng(3)
    checked = 0
    for _ in range(20):
        joints = rng.uniform(contract.limits("lower"), contract.limits("upper"))
        distances = clearance.distances(joints)
        for pair in np.argsort(distances)[:3]:
            if not 0.01 < distances[pair] < 0.1:
                continue
            clearance.distances(joints)
            gradient = clearance.gradient(joints, pair)
            step = rng.normal(0, 1e-3, 7)
            change = (
                clearance.distances(joints + step)[pair] - clearance.distances(joints - step)[pair]
            )
            assert change == pytest.approx(2 * gradient @ step, abs=1e-5 + 0.02 * abs(change))
            checked += 1
    assert checked > 10


def test_twist_moves_the_hand_as_the_contract_says(contract):
    limiter = SafetyLimiter(contract)
    limiter.reset(contract.home, is_ramped=False)
    before = limiter.kinematics.pose(limiter.positions)[0]
    for _ in range(250):
        limiter.step(PERIOD, np.array([0.0, 0.25, -0.5]))
    moved = limiter.kinematics.pose(limiter.positions)[0] - before
    assert np.allclose(moved, [0.0, 0.1, -0.2], atol=0.01)  # 0.4 m/s for 1 s, less the ramp


def test_stepping_before_the_joints_are_known_is_an_error(contract):
    with pytest.raises(RuntimeError, match="before reset"):
        SafetyLimiter(contract).step(PERIOD, None)


def test_braking_hardly_leaves_the_way_of_the_hand():
    """Joints that stop one after the other would turn the hand off its way by centimetres."""
    limiter = SafetyLimiter(load_contract("panda_table"))
    limiter.reset(limiter.contract.home, is_ramped=False)
    for _ in range(100):
        limiter.step(PERIOD, np.array([1.0, 0.5, 0.0, 0.0]))
    stop = limiter.way_to_rest
    path = np.array(
        [
            limiter.kinematics.position(stop.at(time).positions)
            for time in np.linspace(0, stop.duration, 20)
        ]
    )
    way = (path[-1] - path[0]) / np.linalg.norm(path[-1] - path[0])
    assert np.linalg.norm(path[-1] - path[0]) > 0.02
    off = path - path[0] - np.outer((path - path[0]) @ way, way)
    assert np.linalg.norm(off, axis=1).max() < 0.003


def test_axes_without_a_channel_are_held_where_the_hand_is_at_home():
    limiter = SafetyLimiter(load_contract("panda_push"))
    home = limiter.kinematics.position(np.array(limiter.contract.home))
    limiter.reset(limiter.contract.home)
    rng, heights = np.random.default_rng(0), []
    for step in range(3000):
        if step % 50 == 0:
            action = rng.choice([-1.0, 0.0, 1.0], 2)
        limiter.step(PERIOD, action)
        heights.append(limiter.kinematics.position(limiter.positions)[2])
    assert np.abs(np.array(heights) - home[2]).max() < 0.002
    assert np.ptp(limiter.kinematics.position(limiter.positions)[:2] - home[:2]) > 0.01


def test_a_hand_that_is_off_its_height_comes_back_slowly():
    contract = load_contract("panda_push")
    lower, upper = contract.workspace
    contract = dataclasses.replace(contract, workspace=(lower, (*upper[:2], 0.3)))
    limiter = SafetyLimiter(contract)
    home = limiter.kinematics.position(np.array(contract.home))
    lifted = np.array(contract.home) + np.array([0, -0.15, 0, 0, 0, 0, 0])
    limiter.reset(lifted)
    height = limiter.kinematics.position(lifted)[2]
    assert height > home[2] + 0.05  # so far that it would like to be fast
    heights = [height]
    for _ in range(800):
        limiter.step(PERIOD, np.zeros(2))
        heights.append(limiter.kinematics.position(limiter.positions)[2])
    assert abs(heights[-1] - home[2]) < 0.002
    assert np.abs(np.diff(heights)).max() / PERIOD < 0.11
