"""The simulated robot behind the safety limiter, in this process: for data and for `--no-ros`.

It takes physics steps, limiter steps and frames at the same instants as the simulator and safety
nodes do in lock-step, so the same actions give the same motion to the bit.
"""

from __future__ import annotations

import numpy as np

from jepa_robot.modules.perception import Observation
from jepa_robot.robot.contract import RobotContract
from jepa_robot.robot.limiter import SafetyLimiter
from jepa_robot_sim.arm import PHYSICS_RATE, SimulatedArm
from jepa_robot_sim.episodes import Episode
from jepa_robot_sim.scenes import Scene

DECISIONS = 3  # a frame, of the limiter, where it is to be quick
EPISODE_GRID = 50  # physics steps: episodes begin where images, joint states and ticks coincide


class InProcessRobot:
    """A simulated arm that takes one normalised action a frame.

    Args:
        contract: the robot.
        gui: open PyBullet's window.
        scene: what there is beside the arm.
        is_quick: the limiter decides thrice a frame, and what it decided on is interpolated at the
            safety stage's rate: nearly the same motion, for a fraction of the time.
    """

    def __init__(
        self,
        contract: RobotContract,
        gui: bool = False,
        scene: Scene | None = None,
        is_quick: bool = False,
    ) -> None:
        self.contract = contract
        self.arm = SimulatedArm(contract, gui=gui, scene=scene)
        self._is_quick = is_quick
        period = contract.rates.time_step if is_quick else None
        self.limiter = SafetyLimiter(contract, longest_period=period)
        self._last_tick = 0
        self._measured = np.array(contract.home)  # the joint states that a driver last published

    def reset(self, positions: np.ndarray) -> Observation:
        """Start an episode at rest at joint positions ``[J]`` (rad)."""
        begin_episode(self.arm, positions)
        return self._begin()

    def start(self, episode: Episode) -> Observation:
        """Start an episode at rest with the arm, its scene and its looks as the episode says."""
        begin_episode(self.arm, episode.start, episode)
        return self._begin()

    def _begin(self) -> Observation:
        self._measured = self.arm.joint_states()[0]
        gripper = self.arm.gripper_states()[0]
        self.limiter.reset(self._measured, np.mean(gripper) if len(gripper) else None)
        self._last_tick = self.arm.steps
        return self.observe()

    def step(self, action: np.ndarray | None) -> Observation:
        """Apply a normalised action ``[A]`` (or hold, if None) for one decision period."""
        if self._is_quick:
            frame = self.arm.every["image"]
            ends = np.linspace(0, frame, DECISIONS + 1).astype(int)
            for steps in np.diff(ends).tolist():
                self._decide(action, steps)
            return self.observe()
        arm = self.arm
        while True:
            if arm.steps % arm.every["joint_states"] == 0:
                self._measured = arm.joint_states()[0]
            if arm.steps % arm.every["safety"] == 0:
                period = (arm.steps - self._last_tick) / PHYSICS_RATE
                self._last_tick = arm.steps
                self.limiter.step(period, action)
                arm.follow(self.limiter.motion, self._measured)
                if self.limiter.gripper is not None:
                    arm.command_gripper(self.limiter.gripper)
            arm.step()
            if arm.steps % arm.every["image"] == 0:
                return self.observe()

    def _decide(self, action: np.ndarray | None, steps: int) -> None:
        """Step the limiter once and follow what it decided for so many physics steps."""
        arm, limiter = self.arm, self.limiter
        limiter.step(steps / PHYSICS_RATE, action)
        if limiter.gripper is not None:
            arm.command_gripper(limiter.gripper)
        ahead = arm.every["safety"]  # a command is to be reached one safety period from now
        for step in range(steps):
            if arm.steps % arm.every["joint_states"] == 0:
                self._measured = arm.joint_states()[0]
            if step % ahead == 0:
                time = min(step + ahead, steps) / PHYSICS_RATE
                motion = limiter.motion if limiter.path is None else limiter.path.at(time)
                arm.follow(motion, self._measured)
            arm.step()

    def observe(self) -> Observation:
        opening = self.arm.gripper_states()[0]
        opening = float(np.mean(opening)) if len(opening) else None
        return Observation(self.arm.time_ns, self.arm.images(), *self.arm.joint_states(), opening)

    def close(self) -> None:
        self.arm.close()


def begin_episode(arm: SimulatedArm, positions: np.ndarray, episode: Episode | None = None) -> None:
    """Put the arm at rest at ``positions`` and move its clock on to the next episode start.

    Args:
        arm: the arm.
        positions: of its joints ``[J]`` (rad).
        episode: gives scene and looks; None leaves them as they are.
    """
    if episode is None:
        arm.reset(positions)
    else:
        arm.arrange(episode, positions)
    arm.steps = (arm.steps // EPISODE_GRID + 1) * EPISODE_GRID
