"""The robot contract: read right, and refused with the file, field, value and expectation."""

import numpy as np
import pytest
import yaml

from jepa_robot import resources
from jepa_robot.robot.contract import InvalidContract, load_contract
from jepa_robot.robot.geometry import rotation_from_quaternion
from jepa_robot.robot.kinematics import Kinematics


@pytest.fixture
def panda():
    return yaml.safe_load(resources.find("config/robots", "panda", ".yaml").read_text())


def load(data, tmp_path):
    path = tmp_path / "robot.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_contract(path)


def set_at(data, path, value):
    *parents, last = path
    for key in parents:
        data = data[key]
    data[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (["schema"], 1, ["schema is 1", "expected 2"]),
        (["joints", 2, "lower"], 3.0, ["joints[2].lower is 3.0", "below upper"]),
        (["joints", 0, "upper"], 160.0, ["joints[0].upper is 160.0", "expected a number from"]),
        (["joints", 1, "name"], "panda_joint1", ["joints[1].name", "panda_joint1 is there twice"]),
        (["joints", 1, "velocity"], "fast", ["joints[1].velocity is 'fast'", "a number"]),
        (["home"], [0.0] * 6, ["home", "a list of 7 numbers"]),
        (["actions", "kind"], "telepathy", ["actions.kind is 'telepathy'", "ee_twist"]),
        (["actions", "channels", 0, "unit"], "mm/s", ["unit is 'mm/s'", "m/s"]),
        (["actions", "channels", 0, "name"], "vz", ["channels", "at most once"]),
        (["cameras", 0, "crop"], [0, 0, 65, 64], ["cameras[0].crop", "64x64"]),
        (["cameras", 0, "encoding"], "mono8", ["encoding is 'mono8'", "rgb8"]),
        (["rates", "safety"], 5, ["rates.safety is 5", "10"]),
        (["workspace", "lower"], [0.7, 0, 0], ["workspace.lower", "below upper"]),
        (["controller", "type"], "magic", ["controller.type is 'magic'", "forward_position"]),
        (["intrinsic"], {"effort": [2, 1]}, ["intrinsic.effort is [2, 1]", "[least, most]"]),
        (["intrinsic"], {"effort": 1}, ["intrinsic.effort is 1", "a list of 2 numbers"]),
        (["intrinsic"], {"effort": [0, 1e7]}, ["intrinsic.effort", "weights from 0 to 1e+06"]),
        (["intrinsic"], {"fun": [0, 1]}, ["intrinsic.fun is not a known field", "effort"]),
        (["colour"], "red", ["colour is not a known field"]),
    ],
)
def test_wrong_value_is_refused_by_name(panda, tmp_path, path, value, says):
    set_at(panda, path, value)
    with pytest.raises(InvalidContract) as error:
        load(panda, tmp_path)
    for text in [str(tmp_path / "robot.yaml"), *says]:
        assert text in str(error.value)


def test_missing_field_is_named(panda, tmp_path):
    del panda["watchdogs"]["action"]
    with pytest.raises(InvalidContract, match=r"watchdogs.action is missing, expected a number"):
        load(panda, tmp_path)


def test_limits_wider_than_the_urdf_are_refused(panda, tmp_path):
    panda["joints"][3]["upper"] = 0.5
    with pytest.raises(InvalidContract, match=r":\d+: joints\[3\].upper is 0.5.*the URDF's for"):
        Kinematics(load(panda, tmp_path))


def test_joint_that_the_urdf_lacks_is_named(panda, tmp_path):
    panda["joints"][6]["name"] = "elbow"
    with pytest.raises(InvalidContract, match=r"names 'elbow', expected one of"):
        Kinematics(load(panda, tmp_path))


def test_unknown_contract_lists_the_shipped_ones():
    with pytest.raises(FileNotFoundError, match=r"'r2d2'.*expected one of.*panda"):
        load_contract("r2d2")


def test_look_at_gives_an_optical_frame(contract):
    camera = contract.cameras[0]
    rotation = camera.rotation
    assert np.allclose(rotation.T @ rotation, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(rotation), 1)
    towards = np.array([0.47, 0.0, 0.28]) - camera.position
    assert np.allclose(rotation[:, 2], towards / np.linalg.norm(towards))
    assert rotation[2, 1] < 0  # y points down in the image
    assert np.allclose(rotation_from_quaternion((0, 0, 0, 1)), np.eye(3))


def test_jacobian_agrees_with_finite_differences(contract):
    kinematics, home = Kinematics(contract), np.array(contract.home)
    jacobian = kinematics.jacobian(home)
    for joint in range(7):
        moved = home + 1e-6 * np.eye(7)[joint]
        slope = (kinematics.position(moved) - kinematics.position(home)) / 1e-6
        assert np.allclose(slope, jacobian[:3, joint], atol=1e-5)


def test_joints_in_another_order_than_the_urdf_keep_the_contracts_order(panda, tmp_path):
    panda["joints"].reverse()
    panda["home"].reverse()
    reversed_order, order = Kinematics(load(panda, tmp_path)), Kinematics(load_contract("panda"))
    joints = np.array(load_contract("panda").home)
    assert np.allclose(reversed_order.position(joints[::-1]), order.position(joints))
    assert np.allclose(reversed_order.jacobian(joints[::-1])[:, ::-1], order.jacobian(joints))
