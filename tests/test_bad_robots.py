"""Robots that cannot be right: refused before anything moves, by file and line."""

import re

import pytest

from jepa_robot import graph, resources
from jepa_robot.graph import Settings
from jepa_robot.robot.contract import InvalidContract, load_contract
from jepa_robot.robot.kinematics import Kinematics

CONTRACT = resources.find("config/robots", "panda", ".yaml").read_text()
JOINT = re.compile(r'<joint name="panda_joint(\d)".*?</joint>', re.DOTALL)


@pytest.fixture
def urdf(tmp_path):
    """The Panda's URDF without meshes, in a file of its own beside the contract."""
    path = tmp_path / "arm.urdf"
    text = load_contract("panda").urdf_path.read_text()
    path.write_text(re.sub(r"<(visual|collision)>.*?</\1>", "", text, flags=re.DOTALL))
    return path


def write(tmp_path, old="", new=""):
    """The Panda's contract on our URDF, with a text in place of another."""
    assert old in CONTRACT
    path = tmp_path / "robot.yaml"
    text = re.sub(r"(?m)^urdf: .*$", "urdf: arm.urdf", CONTRACT.replace(old, new, 1))
    path.write_text(text)
    return path


def line_of(path, text):
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


def refusal(path):
    with pytest.raises(InvalidContract) as error:
        Kinematics(load_contract(path))
    return str(error.value)


J2 = "{name: panda_joint2, lower: -1.7, upper: 1.7, velocity: 2.0, acceleration: 7.5, jerk: 1875}"
CONTRACTS = {
    "joint twice": (
        ("name: panda_joint2", "name: panda_joint1"),
        "name: panda_joint1, lower: -1.7",
        "joints[1].name is 'panda_joint1', expected each joint once",
    ),
    "joint left out": (
        (f"  - {J2}\n", ""),
        "home: [",
        "home is [0.0, -0.4, 0.0, -2.3, 0.0, 1.9, 0.785], expected a list of 6 numbers",
    ),
    "limits the wrong way round": (
        ("lower: -1.7, upper: 1.7", "lower: 1.7, upper: -1.7"),
        "lower: 1.7",
        "joints[1].lower is 1.7, expected a value below upper, which is -1.7",
    ),
    "limits in degrees": (
        ("lower: -1.7, upper: 1.7", "lower: -97, upper: 97"),
        "lower: -97",
        "joints[1].lower is -97, expected a number from -2π to 2π, in radians: "
        "-97° would be -1.693 rad",
    ),
    "home in degrees": (
        ("home: [0.0, -0.4, 0.0, -2.3", "home: [0.0, -23, 0.0, -132"),
        "home: [",
        "expected panda_joint2 within its limits -1.7 to 1.7: -23° would be -0.4014 rad",
    ),
    "velocity in degrees": (
        ("upper: 1.7, velocity: 2.0", "upper: 1.7, velocity: 115"),
        "velocity: 115",
        "joints[1].velocity is 115, expected a number from 0.001 to 50, in radians: "
        "115° would be 2.007 rad",
    ),
    "slow velocity in degrees": (
        ("upper: 1.7, velocity: 2.0", "upper: 1.7, velocity: 40"),
        "velocity: 40",
        "joints[1].velocity is 40, expected at most 2.175, the URDF's for panda_joint2 "
        "(40° would be 0.6981 rad)",
    ),
    "lower wider than the URDF's": (
        ("lower: -1.7, upper: 1.7", "lower: -2.9, upper: 1.7"),
        "lower: -2.9",
        "joints[1].lower is -2.9, expected at least -1.8326, the URDF's for panda_joint2",
    ),
    "upper wider than the URDF's": (
        ("lower: -1.7, upper: 1.7", "lower: -1.7, upper: 2.9"),
        "upper: 2.9",
        "joints[1].upper is 2.9, expected at most 1.8326",
    ),
    "unknown joint": (
        ("name: panda_joint2", "name: elbow"),
        "name: elbow",
        "joints names 'elbow', expected one of panda_joint1, panda_joint2",
    ),
    "fixed joint": (
        ("name: panda_joint2", "name: panda_hand_joint"),
        "name: panda_hand_joint",
        "joints names 'panda_hand_joint', expected a joint that moves",
    ),
    "mimic joint": (
        (J2, J2.replace("panda_joint2, lower: -1.7", "panda_finger_joint2, lower: -0.4")),
        "name: panda_finger_joint2",
        "joints[1].name is 'panda_finger_joint2', which mimics panda_finger_joint1",
    ),
    "mimic joint that nobody answers for": (
        (", panda_finger_joint2: 0.02", ""),
        "fixed_joints:",
        "panda_finger_joint2 (mimics panda_finger_joint1) of the URDF is neither in fixed_joints "
        "nor in gripper.joints",
    ),
    "unknown fixed joint": (
        ("panda_finger_joint2: 0.02", "finger: 0.02"),
        "fixed_joints:",
        "fixed_joints names 'finger', expected a joint of the URDF",
    ),
    "unknown base": (
        ("base_frame: panda_link0", "base_frame: base_link"),
        "base_frame: base_link",
        "base_frame is 'base_link', expected a link of the URDF",
    ),
    "unknown hand": (
        ("ee_frame: panda_grasptarget", "ee_frame: tool0"),
        "ee_frame: tool0",
        "ee_frame is 'tool0', expected a link of the URDF",
    ),
    "hand before the last joint": (
        ("ee_frame: panda_grasptarget", "ee_frame: panda_link6"),
        "name: panda_joint7",
        "joints[6].name is 'panda_joint7', which does not move panda_link6",
    ),
    "urdf that is not there": (
        ("", ""),
        "urdf: arm.urdf",
        "urdf is 'arm.urdf', expected a file that exists",
    ),
    "unknown field": (("jerk: 1875}", "jerk: 1875, effort: 87}"), "effort", "is not a known field"),
}


@pytest.mark.parametrize("name", CONTRACTS)
def test_a_contract_that_cannot_be_right_is_refused_by_file_and_line(name, tmp_path, urdf):
    (old, new), line, says = CONTRACTS[name]
    path = write(tmp_path, old, new)
    if "not there" in name:
        urdf.unlink()
    text = refusal(path)
    assert f"{path}:{line_of(path, line)}: " in text
    assert says in text


def test_a_joint_that_moves_the_hand_but_is_not_in_the_contract_is_missed(tmp_path, urdf):
    path = write(tmp_path, f"  - {J2}\n", "")
    path.write_text(path.read_text().replace("home: [0.0, -0.4, ", "home: [0.0, "))
    text = refusal(path)
    assert f"{path}:{line_of(path, 'joints:')}: joints lacks 'panda_joint2', which moves" in text


URDFS = {
    "another kind of joint": (
        ('name="panda_joint2" type="revolute"', 'name="panda_joint2" type="floating"'),
        "name: panda_joint2",
        "joints[1].name is 'panda_joint2', of type floating in the URDF, "
        "expected one of revolute, prismatic, continuous",
    ),
    "a linkage": (
        ("<!-- arm -->", ""),
        "ee_frame:",
        "panda_linkage mimics panda_joint2 between base_frame and ee_frame",
    ),
    "no XML": (("</robot>", ""), "urdf: arm.urdf", "urdf is 'arm.urdf', which is no XML"),
    "another XML": (("", ""), "urdf: arm.urdf", "which has a 'sdf' at its root, expected a robot"),
}


def linkage(text):
    """The Panda with a joint in its wrist that mimics the second one."""
    joint = next(found.group() for found in JOINT.finditer(text) if found.group(1) == "5")
    mimic = joint.replace("panda_joint5", "panda_linkage").replace(
        "</joint>", '<mimic joint="panda_joint2"/></joint>'
    )
    extra = re.sub(r'<parent link="\w+"', '<parent link="bar"', joint) + '<link name="bar"/>'
    return text.replace(joint, extra + re.sub(r'<child link="\w+"', '<child link="bar"', mimic))


@pytest.mark.parametrize("name", URDFS)
def test_a_urdf_that_cannot_be_driven_is_refused_by_file_and_line(name, tmp_path, urdf):
    (old, new), line, says = URDFS[name]
    text = urdf.read_text()
    if name == "a linkage":
        text = linkage(text)
    elif name == "another XML":
        text = "<sdf/>"
    else:
        assert old in text
        text = text.replace(old, new, 1)
    urdf.write_text(text)
    path = write(tmp_path)
    message = refusal(path)
    assert f"{path}:{line_of(path, line)}: " in message
    assert says in message


def test_a_continuous_joint_is_an_angle_as_any_other(tmp_path, urdf):
    path = write(tmp_path)
    before = Kinematics(load_contract(path))
    urdf.write_text(
        urdf.read_text().replace(
            'name="panda_joint7" type="revolute"', 'name="panda_joint7" type="continuous"'
        )
    )
    contract = load_contract(path)
    after = Kinematics(contract)
    assert (after.pose(contract.home)[1] == before.pose(contract.home)[1]).all()
    assert after.jacobian(contract.home).shape == (6, 7)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("upper: 1.7", "upper: 2.9", "joints[1].upper is 2.9"),
        ("-0.5], upper: [1.05, 0.75, -0.01]", "-0.5], upper: [1.05, 0.75, 0.4]", "'table' is"),
    ],
)
def test_nothing_starts_on_a_robot_that_cannot_be_right(old, new, says, tmp_path, tiny):
    path = tmp_path / "robot.yaml"
    assert old in CONTRACT
    path.write_text(CONTRACT.replace(old, new, 1))
    with pytest.raises(InvalidContract, match=re.escape(str(path)) + r":\d+: ") as error:
        graph.check(Settings(robot=str(path), model=str(tiny)))
    assert says in str(error.value)
