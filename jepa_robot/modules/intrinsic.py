"""Intrinsic cost: hard-wired terms of the body, which nothing learns and no bundle brings.

They are one ONNX graph of this package, ``intrinsic.onnx``, for any arm: what differs between arms
is an input, filled from the contract (`limits_of`). Bundles name the graph by its hash, and what
their fused graphs make of the terms is compared with it before anything is planned.
"""

from __future__ import annotations

import functools
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jepa_robot.files import sha256
from jepa_robot.models import Bundle, InvalidBundle, Session
from jepa_robot.modules.world_model import WorldModel
from jepa_robot.robot.contract import INTRINSIC, RobotContract

GRAPH = Path(__file__).with_suffix(".onnx")
JOINTS, SPHERES, BOXES = 8, 4, 8  # the most there can be: joints, spheres a link, obstacles
LINKS = JOINTS + 1  # with what stands, the first
PLACES = slice(5, 8)  # of the terms, those that are made of where links and hand are
NOWHERE = 1e6  # m, rad: a limit that is never met
TOLERANCE = 1e-3  # of a fused graph's terms, of the largest where that is above 1
PROBES = 16
# What a contract's numbers are packed into, in this order, and what is not there.
LAYOUT = MappingProxyType(
    {
        "lower": (JOINTS,),  # rad
        "upper": (JOINTS,),
        "slowness": (JOINTS,),  # 1 / (rad/s) of the velocity limit
        "step": (1,),  # s from one state to the next
        "near": (1,),  # m, from which on a distance costs
        "workspace": (2, 3),  # corners, m
        "order": (JOINTS, JOINTS),  # joints [1, J] @ order are in the order of the chain
        "turns": (JOINTS, 3, 9),
        "shifts": (JOINTS, 2, 3),
        "tip": (3,),
        "spheres": (LINKS, SPHERES, 4),  # centre and radius, m, in the joint's frame
        "apart": ((LINKS - 1) * (LINKS - 2) // 2,),  # 1 for pairs of links that are kept apart
        "boxes": (BOXES, 2, 3),  # corners, m, base frame
    }
)
SIZE = sum(int(np.prod(shape)) for shape in LAYOUT.values())


@functools.cache
def fingerprint() -> str:
    """SHA-256 of the graph, which is part of the provenance of all that is judged by it."""
    return sha256(GRAPH)


def weighs_places(weights: np.ndarray) -> bool:
    """Whether weights ``[W]`` of a cost ask for any of the terms that places are for."""
    return bool(np.any(weights[PLACES]))


@functools.lru_cache(maxsize=16)
def limits_of(contract: RobotContract | None, has_places: bool = True) -> np.ndarray:
    """A contract's numbers as the graph takes them, ``[L]`` float32; read only.

    None is an agent without a body: nothing but effort and surprise costs it anything.

    Args:
        contract: the robot.
        has_places: with what the terms of places are made of, for which the arm's description and
            meshes are read. Without it those terms are 0.

    Raises:
        InvalidContract: there are more joints or obstacles than the graph takes.
    """
    parts = {name: np.zeros(shape) for name, shape in LAYOUT.items()}
    parts["lower"][:], parts["upper"][:] = -NOWHERE, NOWHERE
    parts["step"][:] = parts["near"][:] = 1
    parts["workspace"][:] = [[-NOWHERE], [NOWHERE]]
    parts["order"][:] = np.eye(JOINTS)
    parts["turns"][:, :, :3] = np.eye(3)
    parts["spheres"][..., 3] = -NOWHERE
    parts["boxes"][:] = NOWHERE
    if contract is not None:
        _fill_joints(parts, contract)
    if contract is not None and has_places:
        _fill_places(parts, contract)
    packed = np.concatenate([part.ravel() for part in parts.values()]).astype(np.float32)
    packed.setflags(write=False)
    return packed


def _fill_joints(parts: dict[str, np.ndarray], contract: RobotContract) -> None:
    joints = _count(contract, "joints", len(contract.joints), JOINTS)
    parts["lower"][:joints], parts["upper"][:joints] = (
        contract.limits(end) for end in ("lower", "upper")
    )
    parts["slowness"][:joints] = 1 / contract.limits("velocity")
    parts["step"][:] = contract.rates.time_step


def _fill_places(parts: dict[str, np.ndarray], contract: RobotContract) -> None:
    # Here, since it takes time and memory, and few tasks weigh what it is for.
    from jepa_robot.robot.chain import Chain
    from jepa_robot.robot.collision import Clearance
    from jepa_robot.robot.kinematics import Kinematics
    from jepa_robot.robot.spheres import fit_spheres

    joints, boxes = len(contract.joints), contract.safety.obstacles
    _count(contract, "safety.obstacles", len(boxes), BOXES)
    parts["near"][:] = max(contract.safety.slow_distance, 1e-3)
    parts["workspace"][:] = contract.workspace
    parts["boxes"][: len(boxes)] = [(box.lower, box.upper) for box in boxes]
    kinematics = Kinematics(contract)
    chain = Chain.of(contract, kinematics)
    parts["order"][:joints, :joints] = np.eye(joints)[:, chain.order]
    parts["turns"][:joints], parts["shifts"][:joints] = chain.turns, chain.shifts
    parts["tip"][:] = chain.tip
    clearance = Clearance(contract, kinematics)
    moved = [0, *(kinematics.model.getJointId(contract.joint_names[i]) for i in chain.order)]
    to_base = kinematics.base_placement.inverse()
    for link, joint in enumerate(moved):
        if shapes := clearance.shapes_of(joint):
            parts["spheres"][link] = fit_spheres(shapes, SPHERES)
    pairs = ((link, link + apart) for apart in range(2, LINKS) for link in range(LINKS - apart))
    for index, (link, other) in enumerate(pairs):
        if other < len(moved):
            parts["apart"][index] = clearance.keeps_apart(moved[link], moved[other])
    centres = parts["spheres"][0, :, :3]
    parts["spheres"][0, :, :3] = centres @ to_base.rotation.T + to_base.translation


def _count(contract: RobotContract, field: str, count: int, most: int) -> int:
    if count > most:
        raise contract.invalid(field, f"{field} are {count}, expected at most {most}")
    return count


class Intrinsic:
    """The terms of measured or imagined states.

    Args:
        joints: J, in front of a state, followed by their velocities.
        limits: of `limits_of`.
    """

    def __init__(self, joints: int, limits: np.ndarray) -> None:
        self._joints, self.limits = joints, limits
        self._graph = Session(GRAPH, ["CPUExecutionProvider"], 1)

    def terms(
        self,
        states: np.ndarray,
        actions: np.ndarray,
        before: np.ndarray | None = None,
        surprise: np.ndarray | None = None,
        weights: np.ndarray | None = None,
    ) -> np.ndarray:
        """``[M, len(INTRINSIC)]``, unweighted.

        Args:
            states: ``[M, S]``.
            actions: ``[M, A]``, that led there.
            before: ``[M, S]``, a step before each; None for as it would be without jerk.
            surprise: ``[M]``, of what came against what was predicted; None for none.
            weights: ``[len(INTRINSIC)]``; what weighs nothing may then be 0. None for all.
        """
        positions, velocities = self._body(states)
        if before is None:
            was, had = positions - self.limits[3 * JOINTS] * velocities, velocities
        else:
            was, had = self._body(before)
        none = np.zeros(len(states), np.float32)
        all_ = np.ones(len(INTRINSIC), np.float32)
        return self._graph(
            joints=positions,
            velocities=velocities,
            joints_before=was,
            velocities_before=had,
            action=np.ascontiguousarray(actions, np.float32),
            surprise=none if surprise is None else np.float32(surprise),
            limits=self.limits,
            weights=all_ if weights is None else np.float32(weights),
        )

    def _body(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities ``[M, JOINTS]`` of states ``[M, S]``."""
        both = np.zeros((2, len(states), JOINTS), np.float32)
        count = self._joints
        both[0, :, :count] = states[:, :count]
        both[1, :, :count] = states[:, count : 2 * count]
        return both[0], both[1]

    def check(self, bundle: Bundle, graph: str) -> None:
        """Compare what a fused graph makes of the terms, one by one.

        Raises:
            InvalidBundle: it was exported with other terms, or says that it was not, and has them
                all the same; names the term that differs.
        """
        named = bundle.manifest.get("intrinsic")
        if named != fingerprint():
            raise InvalidBundle(
                f"bundle {bundle.id} was exported with intrinsic terms of SHA-256 {named!r}, "
                f"expected {fingerprint()!r}, those of this package: export its run again"
            )
        rng, limits = np.random.default_rng(0), self.limits
        lower, upper = limits[:JOINTS], limits[JOINTS : 2 * JOINTS]
        count, joints = self._joints, slice(0, self._joints)
        state = rng.normal(0, 0.5, (PROBES, bundle.state_size)).astype(np.float32)
        if count:
            drawn = rng.uniform(lower[joints] - 0.1, upper[joints] + 0.1, (PROBES, count))
            state[:, joints] = drawn
        actions = rng.uniform(-1, 1, (PROBES, 1, bundle.action_size)).astype(np.float32)
        session, z = bundle.session(graph), np.zeros((PROBES, bundle.z_size), np.float32)
        following = WorldModel(bundle).predict(state, actions[:, 0])
        for index, name in enumerate(INTRINSIC):
            weights = np.zeros(len(bundle.terms), np.float32)
            weights[index] = 1
            given = {
                "state": state,
                "actions": actions,
                "z": z[:, None, None],
                "goal_latent": np.zeros(bundle.latent_size, np.float32),
                "goal_position": np.zeros(bundle.goal_size, np.float32),
                "goal_encoded": np.zeros(bundle.latent_size, np.float32),
                "limits": limits,
                "weights": weights,
                "step_weights": np.ones(1, np.float32),
            }
            result = session.run(**given)
            reached = result["states"][:, 0, 0] if "states" in result else following
            expected = self.terms(reached, actions[:, 0], state)[:, index]
            error = np.abs(result["costs"][:, 0] - expected) / np.maximum(1, np.abs(expected))
            if not error.max() <= TOLERANCE:
                raise InvalidBundle(
                    f"{bundle.path / graph}.onnx: its intrinsic term {name!r} differs by up to "
                    f"{error.max():.2g} from this package's, expected at most {TOLERANCE:g}: "
                    "export the bundle again"
                )
