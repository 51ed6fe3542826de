"""Loads a contract's URDF into PyBullet: meshes found, base frame at the world's origin."""

from __future__ import annotations

import copy
import os
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pybullet

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.urdf import parse
from jepa_robot_sim.quiet import quiet

PACKAGE = "package://"
FRAME_MASS, FRAME_INERTIA = "0.001", "1e-6"  # kg, kg m^2


def load(contract: RobotContract, client: int, is_light: bool = False, flags: int = 0) -> int:
    """The body of a contract's arm, fixed, with ``base_frame`` at the origin.

    Args:
        contract: names URDF and base frame.
        client: PyBullet's server.
        is_light: show the collision shapes in place of the visuals. They have fewer vertices, by
            which the software renderer is bound.
        flags: for ``loadURDF``.

    Raises:
        InvalidContract: the URDF or a mesh is not there.
    """
    urdf = contract.urdf_path
    tree = ElementTree.ElementTree(parse(urdf.read_bytes()))
    _weigh_frames(tree)
    if is_light:
        _show_collision_shapes(tree)
    for mesh in tree.iter("mesh"):
        mesh.set("filename", str(_find(mesh.get("filename", ""), urdf, contract)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / urdf.name
        tree.write(path)

        def load_at(position: tuple, orientation: tuple) -> int:
            with quiet():
                return pybullet.loadURDF(
                    str(path),
                    position,
                    orientation,
                    useFixedBase=True,
                    flags=flags,
                    physicsClientId=client,
                )

        body = load_at((0, 0, 0), (0, 0, 0, 1))
        position, orientation = _base_pose(contract, body, client)
        if np.allclose([*position, *orientation], [0, 0, 0, 0, 0, 0, 1]):
            return body
        pybullet.removeBody(body, physicsClientId=client)
        return load_at(*pybullet.invertTransform(position, orientation))


def link_index(body: int, client: int) -> dict[str, int]:
    """PyBullet's numbers of links and joints, by name; -1 is the root link."""
    index = {pybullet.getBodyInfo(body, physicsClientId=client)[0].decode(): -1}
    for joint in range(pybullet.getNumJoints(body, physicsClientId=client)):
        about = pybullet.getJointInfo(body, joint, physicsClientId=client)
        index[about[1].decode()] = joint
        index[about[12].decode()] = joint
    return index


def _base_pose(contract: RobotContract, body: int, client: int) -> tuple:
    """Where the base frame is, as the URDF's root is at the origin."""
    link = link_index(body, client)[contract.base_frame]
    if link < 0:
        return (0, 0, 0), (0, 0, 0, 1)
    state = pybullet.getLinkState(body, link, computeForwardKinematics=1, physicsClientId=client)
    return state[4], state[5]


def _weigh_frames(tree: ElementTree.ElementTree) -> None:
    """A link without ``inertial`` is a mere frame; PyBullet would give it 1 kg."""
    for link in tree.iter("link"):
        if link.find("inertial") is None:
            inertial = ElementTree.SubElement(link, "inertial")
            ElementTree.SubElement(inertial, "mass", value=FRAME_MASS)
            moments = {axis: FRAME_INERTIA for axis in ("ixx", "iyy", "izz")}
            products = {axis: "0" for axis in ("ixy", "ixz", "iyz")}
            ElementTree.SubElement(inertial, "inertia", moments | products)


def _show_collision_shapes(tree: ElementTree.ElementTree) -> None:
    for link in tree.iter("link"):
        shapes = link.findall("collision")
        for visual in link.findall("visual") if shapes else ():
            link.remove(visual)
        for shape in shapes:
            visual = copy.deepcopy(shape)
            visual.tag = "visual"
            link.append(visual)


def _find(name: str, urdf: Path, contract: RobotContract) -> Path:
    """The file of a mesh: beside the URDF, or where ROS packages are."""
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    folders = [urdf.parent]
    if name.startswith(PACKAGE):
        folders = [*urdf.parents[:3], *(Path(prefix) / "share" for prefix in prefixes)]
    relative = name.removeprefix(PACKAGE).removeprefix("file://")
    for folder in folders:
        if (folder / relative).is_file():
            return folder / relative
    raise contract.invalid("urdf", f"{urdf.name} names mesh {name!r}, expected a file that exists")
