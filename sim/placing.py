"""Joint positions for places of the hand, and how low and wide the hand is there."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace

import numpy as np

from jepa_robot.robot.contract import TWIST_CHANNELS, ActionChannel, Actions, RobotContract
from jepa_robot.robot.kinematics import Kinematics
from jepa_robot.robot.limiter import SafetyLimiter
from jepa_robot_sim.arm import SimulatedArm

MARGIN = 0.03  # m: starts and goals keep this far from the workspace's faces
LINEAR_CHANNELS = TWIST_CHANNELS[:3]
LINEAR_SCALE = 0.25  # m/s, to find joints for places with, where the contract has none
QUICK = 0.04  # s, a period for data, of which there is much
LOW_PART = 0.02  # m: what of the hand is within this of its lowest point meets what it pushes


class Placer:
    """Puts the hand of a contract's arm at places, the way its actions would."""

    def __init__(self, contract: RobotContract) -> None:
        actions = _linear_actions(contract)
        self.keeps_orientation = actions.keeps_orientation
        self._limiter = SafetyLimiter(replace(contract, actions=actions))
        self._home = contract.home

    def joints_at(self, position: np.ndarray, period: float = 0.01) -> np.ndarray:
        """Joint positions ``[J]`` (rad) that put the hand at ``position`` (m), from home.

        A longer ``period`` (s) is as exact, sooner there, and comes to slightly other joints.
        """
        limiter = self._limiter
        limiter.reset(self._home)
        scale = limiter.contract.actions.scale
        for _ in range(400):
            error = position - limiter.kinematics.pose(limiter.positions)[0]
            if np.linalg.norm(error) < 2e-3:
                break
            limiter.step(period, np.clip(error / (0.1 * scale), -1, 1))
        return limiter.positions.copy()


def held_height(contract: RobotContract) -> float | None:
    """The height at which actions keep the hand (m); None where they move it up and down."""
    actions = contract.actions
    if actions.kind != "ee_twist" or "vz" in [channel.name for channel in actions.channels]:
        return None
    return float(Kinematics(contract).pose(np.array(contract.home))[0][2])


@dataclass(frozen=True)
class HandShape:
    """The low part of the hand, around ``ee_frame``, axes of the base frame (m).

    Attributes:
        depth: how far it goes below.
        lower, upper: its corners in x and y.
    """

    depth: float
    lower: tuple[float, float]
    upper: tuple[float, float]

    def extent(self, direction: np.ndarray) -> float:
        """How far it goes towards a unit vector ``[2]`` (m)."""
        corners = np.array(list(itertools.product(*zip(self.lower, self.upper, strict=True))))
        return float(np.max(corners @ direction))

    @property
    def radius(self) -> float:
        """Of a circle around ``ee_frame`` that holds it (m)."""
        return float(np.linalg.norm(np.maximum(np.abs(self.lower), np.abs(self.upper))))


@functools.lru_cache(maxsize=32)
def hand_shape(contract: RobotContract) -> HandShape:
    """Measured on the arm at home; in the workspace's low corners where the hand turns freely."""
    placer = Placer(contract)
    postures = [np.array(contract.home)]
    if not placer.keeps_orientation:
        (x0, y0, z), (x1, y1, _) = contract.workspace
        places = itertools.product(np.linspace(x0, x1, 3)[:2], np.linspace(y0, y1, 3), [z + 0.01])
        postures = [placer.joints_at(np.array(place)) for place in places]
    arm = SimulatedArm(replace(contract, cameras=()))
    lows, corners = [], []
    for joints in postures:
        arm.reset(joints)
        boxes = np.array(arm.hand_boxes()) - arm.ee_position()
        low = boxes[:, 0, 2]
        part = boxes[low < low.min() + LOW_PART]
        lows.append(low.min())
        corners.append((part[:, 0, :2].min(axis=0), part[:, 1, :2].max(axis=0)))
    arm.close()
    lower = np.min([one for one, _ in corners], axis=0)
    upper = np.max([other for _, other in corners], axis=0)
    return HandShape(float(-min(lows)), tuple(map(float, lower)), tuple(map(float, upper)))


def _linear_actions(contract: RobotContract) -> Actions:
    """Actions that move the hand along all three axes, and nothing else."""
    actions = contract.actions
    is_twist = actions.kind == "ee_twist"
    scale = {c.name: c.scale for c in actions.channels} if is_twist else {}
    turns = any(name in scale for name in TWIST_CHANNELS[3:])
    keeps = actions.keeps_orientation or (len(contract.joints) >= 6 and (turns or not is_twist))
    channels = [ActionChannel(n, "m/s", scale.get(n, LINEAR_SCALE)) for n in LINEAR_CHANNELS]
    return Actions("ee_twist", tuple(channels), keeps)
