"""Every shipped arm, from its contract alone: where it can be, how it moves, who sees it."""

import dataclasses
import itertools
import re
from pathlib import Path

import coal
import cv2
import numpy as np
import pinocchio
import pytest

from jepa_robot import resources
from jepa_robot.cli.preview import run_preview
from jepa_robot.dataset import open_dataset
from jepa_robot.robot.collision import Clearance
from jepa_robot.robot.contract import Obstacle, load_contract
from jepa_robot.robot.geometry import project
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.limiter import NEAR_SINGULAR
from jepa_robot_sim import preview
from jepa_robot_sim.arm import PHYSICS_RATE, SimulatedArm
from jepa_robot_sim.collect import ArmSource, collect
from jepa_robot_sim.exploration import explore
from jepa_robot_sim.geometry import Geometry
from jepa_robot_sim.in_process import InProcessRobot
from jepa_robot_sim.judge import Judge
from jepa_robot_sim.recording import Recorder
from jepa_robot_sim.tasks import Reach, make_task, oracle_action

ROBOTS = sorted(
    path.stem for path in (resources.share_directory() / "config/robots").glob("*.yaml")
)
FRAMES = 40
ROUNDING = 1 + 1e-4


@pytest.fixture(scope="module", params=ROBOTS)
def robot(request):
    return load_contract(request.param)


@pytest.fixture(scope="module")
def kinematics(robot):
    return Kinematics(robot)


@pytest.fixture(scope="module")
def arm(robot):
    arm = SimulatedArm(robot)
    yield arm
    arm.close()


def corners(contract):
    """Of the workspace, 5 mm inside."""
    lower, upper = (np.array(corner) for corner in contract.workspace)
    return [np.array(c) for c in itertools.product(*zip(lower + 0.005, upper - 0.005, strict=True))]


def poses(contract, count=20):
    rng = np.random.default_rng(5)
    return rng.uniform(
        contract.limits("lower"), contract.limits("upper"), (count, len(contract.joints))
    )


def without_cameras(contract):
    """For motion alone: nothing is rendered."""
    return dataclasses.replace(contract, cameras=())


def test_the_shipped_arms_are_of_different_kinds():
    contracts = [load_contract(name) for name in ROBOTS]
    assert {len(c.joints) for c in contracts} == {5, 6, 7}
    assert {c.controller.type for c in contracts} == {
        "forward_position",
        "forward_velocity",
        "joint_trajectory",
    }
    assert any(c.gripper for c in contracts)


def test_home_is_clear_of_obstacles_and_singularities_and_inside_the_workspace(robot, kinematics):
    home = np.array(robot.home)
    assert Clearance(robot, kinematics).distances(home).min() >= robot.safety.margin
    hand, lower, upper = kinematics.pose(home)[0], *robot.workspace
    assert (hand > lower).all() and (hand < upper).all()
    jacobian = kinematics.jacobian(home)[: 6 if len(robot.joints) >= 6 else 3]
    assert np.linalg.svd(jacobian, compute_uv=False)[-1] > NEAR_SINGULAR


def test_links_are_as_far_from_the_ground_as_the_lowest_points_of_their_meshes(robot, kinematics):
    """Meshes are not convex: a distance that takes them for it would be too large."""
    depth = 2.0
    ground = Obstacle("ground", (-9, -9, -depth - 1), (9, 9, -depth))
    safety = dataclasses.replace(robot.safety, obstacles=(ground,))
    clearance = Clearance(dataclasses.replace(robot, safety=safety), kinematics)
    model = kinematics.full_model
    geometry = pinocchio.buildGeomFromUrdf(
        model,
        str(robot.urdf_path),
        pinocchio.GeometryType.COLLISION,
        package_dirs=[str(folder) for folder in robot.urdf_path.parents[:3]],
    )
    _, geometry = pinocchio.buildReducedModel(model, geometry, *kinematics.locked)
    placed = geometry.createData()
    meshes = [
        (index, f"{kinematics.model.frames[shape.parentFrame].name} and ground")
        for index, shape in enumerate(geometry.geometryObjects)
        if isinstance(shape.geometry, coal.BVHModelBase)
    ]
    for positions in poses(robot):
        distances = dict(zip(clearance.names, clearance.distances(positions), strict=True))
        data = kinematics.place(positions)
        pinocchio.updateGeometryPlacements(kinematics.model, data, geometry, placed)
        for index, name in meshes:
            if name in distances:
                pose = kinematics.base_placement.actInv(placed.oMg[index])
                points = geometry.geometryObjects[index].geometry.vertices()
                lowest = (points @ pose.rotation.T + pose.translation)[:, 2].min()
                assert distances[name] == pytest.approx(lowest + depth, abs=1e-4), name


def test_starts_and_goals_can_be_anywhere_in_the_workspace(robot):
    found = preview.poses(robot)
    assert [pose.name for pose in found] == ["home", *(f"corner {i}" for i in range(8))]
    for pose in found:
        assert pose.error < 0.005, pose
        assert pose.clearance >= robot.safety.margin, pose
        assert pose.singular > NEAR_SINGULAR, pose


def test_pybullet_and_pinocchio_agree_on_where_the_hand_is(robot, kinematics, arm):
    geometry = Geometry(robot)
    for joints in poses(robot):
        hand = kinematics.pose(joints)[0]
        geometry.place(joints)
        assert np.linalg.norm(geometry.hand() - hand) < 1e-3
        arm.reset(joints)
        assert np.linalg.norm(arm.ee_position() - hand) < 1e-3
    geometry.close()


def test_the_cameras_see_the_hand_wherever_it_may_be(robot, kinematics, arm):
    task = Reach(robot)
    for place in [kinematics.pose(robot.home)[0], *corners(robot)]:
        arm.reset(task.joints_at(place))
        seen = []
        for camera, image in zip(robot.cameras, arm.images(), strict=True):
            pixel = project(camera, place)
            assert (pixel > 2).all() and (pixel < np.array([camera.width, camera.height]) - 2).all()
            seen.append(is_hand_near(image, pixel))
        assert any(seen), place
    for camera in robot.cameras:
        for obstacle in robot.safety.obstacles:
            inside = np.greater(camera.position, obstacle.lower) & np.less(
                camera.position, obstacle.upper
            )
            assert not inside.all(), f"{camera.name} is in {obstacle.name}"


def is_hand_near(image, pixel):
    """Whether the hand's blue is within 6 pixels."""
    u, v = pixel.astype(int)
    part = image[max(v - 6, 0) : v + 7, max(u - 6, 0) : u + 7].astype(float)
    return bool((part[..., 2] > 1.5 * part[..., 0]).any())


def test_random_actions_stay_within_all_limits_and_the_arm_follows(robot):
    """By differences of the commanded positions, and by the judge that is not the limiter's."""
    simulated, recorder = InProcessRobot(without_cameras(robot)), Recorder(len(robot.joints))
    sender, rng, lag = recorder.sender("safety"), np.random.default_rng(1), []
    follow = simulated.arm.follow

    def record(motion, measured):
        follow(motion, measured)
        now = simulated.arm.time_ns
        rows = [motion.positions, motion.velocities, motion.accelerations]
        recorder.add(command_time=now / 1e9, command_sender=sender, command=motion.positions)
        recorder.add(command_number=len(lag))
        recorder.add(echo_time=now / 1e9, echo_stamp=now, echo_tick=now, echo=np.array(rows))
        recorder.add(joints_time=now / 1e9, joints=measured)
        lag.append(np.abs(motion.positions - simulated.arm.joint_states()[0]).max())

    simulated.reset(np.array(robot.home))
    simulated.arm.follow = record
    for action in explore(rng, FRAMES, robot.actions.size):
        simulated.step(np.clip(2 * action, -1, 1))
    simulated.close()
    recording = recorder.recording()
    judge = Judge(robot)
    assert judge.judge(recording) == []
    judge.close()
    assert max(lag) < 0.1 * robot.safety.tracking_tolerance + 0.01
    period, moved = 1 / robot.rates.safety, recording.command
    assert (moved >= robot.limits("lower")).all() and (moved <= robot.limits("upper")).all()
    for order, name in enumerate(("velocity", "acceleration", "jerk"), start=1):
        rates = np.abs(np.diff(moved, order, axis=0)) / period**order
        assert (rates <= ROUNDING * robot.limits(name)).all(), name
    assert np.ptp(moved, axis=0).max() > 0.1  # it did move


def test_the_oracle_reaches_a_goal(robot):
    if why := Reach.refusal(robot):
        with pytest.raises(ValueError, match=re.escape(why)):
            make_task("reach", robot)
        return
    task, simulated = Reach(robot), InProcessRobot(without_cameras(robot))
    episode = task.sample(np.random.default_rng(2))
    assert np.linalg.norm(episode.goal - Kinematics(robot).pose(episode.start)[0]) > 0.03
    simulated.reset(episode.start)
    for _ in range(task.steps):
        simulated.step(oracle_action(robot, simulated.arm.ee_position(), episode.goal))
    assert task.is_success({"hand_position": simulated.arm.ee_position()}, episode.goal)
    simulated.close()


def test_data_of_it_can_be_collected(robot, tmp_path):
    source = ArmSource(robot, "push" if Reach.refusal(robot) else "reach", steps=25)
    assert collect(source, tmp_path / "data.h5", transitions=25) == 25
    data = open_dataset(tmp_path / "data.h5", robot.interface())
    assert data.columns["action"].shape == (26, robot.actions.size)
    assert np.ptp(data.images(data.rows).astype(float), axis=0).max() > 50  # something moved


def test_a_gripper_closes_by_its_channel_and_stays_so_on_hold():
    contract = load_contract("hobby5")
    simulated = InProcessRobot(without_cameras(contract))
    simulated.reset(np.array(contract.home))
    assert np.allclose(simulated.arm.gripper_states()[0], 0.02)
    for _ in range(15):
        simulated.step(np.array([0, 0, 0, -1]))
    assert simulated.limiter.gripper == contract.gripper.lower
    assert np.allclose(simulated.arm.gripper_states()[0], contract.gripper.lower, atol=1e-3)
    for _ in range(5):
        simulated.step(None)
    assert np.allclose(simulated.arm.gripper_states()[0], contract.gripper.lower, atol=1e-3)
    simulated.close()


def test_the_arm_catches_up_with_a_command_that_is_far_at_the_speed_that_it_has():
    contract = load_contract("panda")
    arm, limit = SimulatedArm(without_cameras(contract)), contract.limits("velocity")
    target = np.array(contract.home) + 0.4
    arm.command(target)
    speeds = []
    for _ in range(PHYSICS_RATE):
        arm.step()
        speeds.append(np.abs(arm.joint_states()[1]))
    assert np.max(speeds, axis=0) == pytest.approx(limit, rel=0.01)
    assert arm.joint_states()[0] == pytest.approx(target, abs=0.01)
    arm.close()


def test_an_arm_that_takes_velocities_stands_when_commands_end():
    contract = load_contract("xarm6")
    arm = SimulatedArm(without_cameras(contract))
    arm.command_velocities([0.5, 0, 0, 0, 0, 0])
    timeout = round(contract.controller.timeout * PHYSICS_RATE)
    for _ in range(timeout):
        arm.step()
    moved, speed = arm.joint_states()
    assert speed[0] == pytest.approx(0.5, abs=0.02)
    for _ in range(timeout):
        arm.step()
    assert arm.joint_states()[0][0] == pytest.approx(moved[0], abs=0.01)
    assert arm.joint_states()[1] == pytest.approx(np.zeros(6), abs=0.01)
    arm.close()


def test_an_arm_on_a_stand_is_the_same_in_its_base_frame(tmp_path):
    contract = load_contract("hobby5")
    stand = (
        '<link name="world"/><joint name="stand" type="fixed"><parent link="world"/>'
        '<child link="base"/><origin xyz="0.3 -0.2 0.7" rpy="0 0 1.2"/></joint></robot>'
    )
    urdf = Path(tmp_path / "stand.urdf")
    urdf.write_text(contract.urdf_path.read_text().replace("</robot>", stand))
    mounted = dataclasses.replace(contract, urdf="stand.urdf", source=str(tmp_path / "stand.yaml"))
    kinematics, geometry, arm = Kinematics(contract), Geometry(mounted), SimulatedArm(mounted)
    plain = SimulatedArm(contract)
    for joints in poses(contract, 3):
        hand = kinematics.pose(joints)[0]
        geometry.place(joints)
        arm.reset(joints)
        plain.reset(joints)
        assert geometry.hand() == pytest.approx(hand, abs=1e-5)
        assert arm.ee_position() == pytest.approx(hand, abs=1e-5)
        for mine, other in zip(arm.images(), plain.images(), strict=True):
            assert np.mean(mine != other) < 0.01
    for made in (geometry, arm, plain):
        made.close()


def test_the_preview_tells_what_is_out_of_reach_and_draws_what_the_cameras_see(tmp_path, capsys):
    picture = tmp_path / "preview.png"
    run_preview("hobby5", picture)
    shown = capsys.readouterr().out
    assert "hobby5: tip in base" in shown and "corner 7" in shown
    assert cv2.imread(str(picture)).shape == (3 * 6 * 64, 2 * 6 * 64, 3)

    contract = load_contract("hobby5")
    far = tmp_path / "far.yaml"
    text = Path(contract.source).read_text().replace("upper: [0.25, 0.10", "upper: [0.55, 0.10")
    far.write_text(text.replace("urdf: hobby5.urdf", f"urdf: {contract.urdf_path}"))
    with pytest.raises(ValueError, match=r"far\.yaml:\d+: workspace has corner 4, .*out of reach"):
        run_preview(str(far), picture)


def test_a_urdf_with_prefixes_that_nobody_bound_is_read_as_ros_reads_it(tmp_path):
    contract = load_contract("hobby5")
    text = contract.urdf_path.read_text().replace("<limit ", '<limit drake:acceleration="2.5" ')
    (tmp_path / "arm.urdf").write_text(text)
    other = dataclasses.replace(contract, urdf="arm.urdf", source=str(tmp_path / "arm.yaml"))
    hand = Kinematics(contract).pose(contract.home)[0]
    assert Kinematics(other).pose(contract.home)[0] == pytest.approx(hand)
    arm = SimulatedArm(other)
    assert arm.ee_position() == pytest.approx(hand, abs=1e-5)
    arm.close()
