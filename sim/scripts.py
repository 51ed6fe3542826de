"""Scripted motions of the hand that see the true labels: for baselines and for exploration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jepa_robot.robot.contract import GRIPPER_CHANNEL, RobotContract
from jepa_robot_sim.placing import LINEAR_CHANNELS, HandShape, held_height
from jepa_robot_sim.scenes import Scene

REACTION = 0.15  # s in which a script wants to be where it goes
ORBIT = 1.0  # rad that the hand goes around the object before its target moves on
BRAKING_ROOM = 0.045  # s: times the speed, how far above the lowest a fast hand stays
FUNNEL = (0.008, 0.024)  # m beside a place: from the second on a hand above it keeps its height
ALIGNED = 0.3  # of the block's radius: how far off its line a push may begin


class Hand:
    """Turns hand velocities into actions of a contract.

    Raises:
        InvalidContract: the arm is not moved by the velocity of its hand.
    """

    def __init__(self, contract: RobotContract) -> None:
        actions = contract.actions
        if actions.kind != "ee_twist":
            raise contract.invalid(
                "actions.kind",
                f"actions.kind is {actions.kind!r}, expected ee_twist for scripted motion",
            )
        self.time_step = contract.rates.time_step
        self.lower, self.upper = (np.array(corner) for corner in contract.workspace)
        self.held_height = held_height(contract)
        self._names = [channel.name for channel in actions.channels]
        self._scale = actions.scale
        scale = dict(zip(self._names, actions.scale, strict=True))
        self.speed = min(scale.get(name, np.inf) for name in LINEAR_CHANNELS)

    def action(self, velocity: np.ndarray, gripper: float = 0.0) -> np.ndarray:
        """The action ``[A]`` for a velocity ``[3]`` (m/s); ``gripper`` is in [-1, 1]."""
        by_name = dict(zip(LINEAR_CHANNELS, velocity, strict=True))
        channels = np.array([by_name.get(name, 0.0) for name in self._names]) / self._scale
        if self._names[-1] == GRIPPER_CHANNEL:
            channels[-1] = gripper
        return np.clip(channels, -1, 1).astype(np.float32)

    def straight(self, hand: np.ndarray, place: np.ndarray) -> np.ndarray:
        """The action ``[A]`` that goes straight to a place ``[3]`` (m), channel by channel."""
        return self.action((place - hand) / (2 * self.time_step))

    def towards(self, hand: np.ndarray, place: np.ndarray, reaction: float) -> np.ndarray:
        """The velocity ``[3]`` (m/s) that goes to a place, straight, in ``reaction`` s."""
        velocity = (place - hand) / reaction
        return velocity * min(1.0, self.speed / max(np.linalg.norm(velocity), 1e-9))


@dataclass(frozen=True)
class Pusher:
    """Pushes a round block along the surface: goes behind it, then through it.

    Attributes:
        hand: of the arm.
        shape: of the hand.
        scene: where the block is.
        passes_over: get behind the block over it, not around it, where something may be in the way.
        aligned: of the block's radius, how far off its line a push may begin.
    """

    hand: Hand
    shape: HandShape
    scene: Scene
    passes_over: bool = False
    aligned: float = ALIGNED

    @property
    def height(self) -> float:
        """Of the hand as it pushes (m): so high that it can brake without leaving the workspace."""
        if self.hand.held_height is not None:
            return self.hand.held_height
        return self.hand.lower[2] + max(0.006, BRAKING_ROOM * self.hand.speed)

    @property
    def safe_height(self) -> float:
        """Of the hand as it passes over the block (m)."""
        top = self.scene.surface + self.scene.block.height
        return top + self.shape.depth + 0.012 * self.scene.scale

    def standoff(self, direction: np.ndarray) -> float:
        """From the middle of the block to the hand that touches it and pushes it there (m)."""
        return self.scene.block.radius + self.shape.extent(direction)

    def velocity(self, hand: np.ndarray, block: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Where the hand goes now ``[3]`` (m/s).

        Args:
            hand, block: where they are ``[3]`` (m).
            goal: where the block should be ``[2]`` or ``[3]`` (m).
        """
        way = (goal - block[: len(goal)])[:2]
        distance = np.linalg.norm(way)
        scale = self.scene.scale
        if distance < 0.006 * scale:
            return np.zeros(3)
        way = way / distance
        from_block = (hand - block)[:2]
        along, aside = from_block @ way, from_block @ [-way[1], way[0]]
        standoff = self.standoff(way)
        is_low = hand[2] < self.safe_height - 0.006 * scale
        if (
            is_low
            and along < -0.8 * self.scene.block.radius
            and abs(aside) < self._tolerance(along, standoff)
        ):
            return self._push(hand, way, distance, along, aside, standoff)
        target = self._get_behind(hand, block, way, is_low)
        target = np.clip(target, self.hand.lower + 0.002, self.hand.upper - 0.002)
        return self.hand.towards(hand, target, REACTION)

    def _get_behind(
        self, hand: np.ndarray, block: np.ndarray, way: np.ndarray, is_low: bool
    ) -> np.ndarray:
        """Where the hand goes next to be behind the block ``[3]`` (m)."""
        scale = self.scene.scale
        standoff, gap = self.standoff(way), 0.012 * scale
        behind = block[:2] - way * (standoff + gap)
        if self.passes_over:
            return self._over(hand, behind)
        if not is_low:
            is_over = np.linalg.norm(hand[:2] - behind) < gap
            return np.append(behind, self.height if is_over else self.safe_height)
        from_block = (hand - block)[:2]
        along, aside = from_block @ way, from_block @ [-way[1], way[0]]
        clear = self.scene.block.radius + self.shape.radius + gap
        is_near_behind = -along > standoff + 0.4 * gap and abs(aside) < 0.6 * clear
        if is_near_behind and np.linalg.norm(from_block) < clear + gap:
            return np.append(behind, self.height)
        around = self._around(block[:2], from_block, behind - block[:2], clear)
        return np.append(around, self.height)

    def _over(self, hand: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Up, over what is in the way, and down to a place as if along a funnel ``[3]`` (m).

        From no millimetre to the next is the way down open: who guesses would hover for ever.
        """
        scale = self.scene.scale
        aside = np.linalg.norm(hand[:2] - place)
        height = np.interp(aside / scale, FUNNEL, (self.height, self.safe_height))
        is_below = hand[2] < height - 0.015 * scale
        return np.append(hand[:2] if is_below else place, height)

    def _tolerance(self, along: float, standoff: float) -> float:
        """How far off its line the hand may be, so far behind the block (m)."""
        return self.aligned * self.scene.block.radius + 0.15 * max(-along - standoff, 0.0)

    def _push(self, hand, way, distance, along, aside, standoff) -> np.ndarray:
        """Along the way, slower towards its end, and back onto its line."""
        left = distance + max(-along - standoff, 0.0)
        off = abs(hand[2] - self.height) / max(self.height - self.hand.lower[2], 1e-3)
        settled = np.clip(1.3 - off, 0.15, 1.0)  # fast and low at once, it could not brake
        speed = settled * min(0.8 * self.hand.speed, left / 0.25)
        across = np.array([-way[1], way[0]])
        velocity = speed * way - across * aside / REACTION
        return np.append(velocity, (self.height - hand[2]) / REACTION)

    def _around(self, block, from_block, behind, clear) -> np.ndarray:
        """The next place on the way around the block to behind it ``[2]`` (m)."""
        now, end = (np.arctan2(v[1], v[0]) for v in (from_block, behind))
        turn = (end - now + np.pi) % (2 * np.pi) - np.pi
        if abs(turn) < 0.3:
            return block + behind
        now += np.clip(turn, -ORBIT, ORBIT)
        radius = max(clear, np.linalg.norm(behind))
        if abs(turn) > ORBIT:
            radius /= np.cos(ORBIT / 2)  # the chord stays outside
        return block + radius * np.array([np.cos(now), np.sin(now)])
