"""How joints that take velocities are kept on a motion. No ROS."""

from __future__ import annotations

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.profile import JointMotion

GAIN = 4.0  # 1/s: how fast a position error is corrected
CORRECTION = 0.1  # of the velocity limit: the most that a correction may add


def tracking_velocities(
    contract: RobotContract, motion: JointMotion, measured: np.ndarray | None
) -> np.ndarray:
    """Velocities ``[J]`` (rad/s) of a motion, with the position error fed back.

    Args:
        contract: gives the velocity limits.
        motion: where the joints should be and how fast.
        measured: where they are ``[J]`` (rad), None where that is not known.
    """
    limit = contract.limits("velocity")
    velocities = motion.velocities
    if measured is not None:
        error = GAIN * (motion.positions - measured)
        velocities = velocities + np.clip(error, -CORRECTION * limit, CORRECTION * limit)
    return np.clip(velocities, -limit, limit)
