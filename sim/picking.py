"""Pick a block up from the surface and place it on a shelf."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from jepa_robot.robot.contract import GRIPPER_CHANNEL, RobotContract
from jepa_robot_sim.episodes import GRIPPER, HAND, OBJECT, Episode
from jepa_robot_sim.exploration import (
    Explorer,
    RandomExplorer,
    ScriptedExplorer,
    explore,
    script_noise,
)
from jepa_robot_sim.placing import QUICK, HandShape
from jepa_robot_sim.pushing import TableTask
from jepa_robot_sim.scenes import Block, Box, Scene, block_at
from jepa_robot_sim.scripts import REACTION, Hand

OPENING_SHARE = 0.3  # the block's radius, of how wide the gripper opens
SHELF_HEIGHT = 0.04  # m
SHELF_SHARE = 0.61  # of the workspace's width, where the shelf begins
FINGERS = 0.03  # m that a finger takes outside of the gripper's opening
SHOWN = 0.6  # of the recorded episodes are demonstrations
PLACES, LIFTS = 0.45, 0.35  # of the others; the rest is smooth noise
ABOVE_SHARE = 0.7  # of the others start above the block
SHELVED = 0.4  # of the others begin with the block on the shelf, as in goal pictures,
ABOVE_SHELVED = 0.25  # and so many of these above it
AROUND_SHARE = 0.6  # of those, around it, as if to grasp it
AROUND = 0.015  # m from where it is grasped best a block is grasped, too
FUNNEL = (0.01, 0.03)  # m beside the block: from the second on the hand keeps its height
CARRIED = 0.02  # m that what is carried keeps from the shelf
MISSES = 0.5  # of the scripted episodes go for a place beside the block at first,
MISSED = (0.01, 0.08)  # m off it,
MISSING = (0.2, 1.0)  # of the episode's steps
FUMBLES = 0.5  # of the scripted episodes open or close the gripper at times, whatever is held,
FUMBLE_STEPS = (3, 12)  # as long as this, with as many between


@dataclass(frozen=True)
class Grasper:
    """Grasps a block from above and carries it.

    What comes next is told from where hand, block and fingers are; nothing is remembered.
    """

    hand: Hand
    shape: HandShape
    scene: Scene

    def action(
        self, labels: dict[str, np.ndarray], goal: np.ndarray, is_released: bool = True
    ) -> np.ndarray:
        """The next action ``[A]``.

        Args:
            labels: of the hand, the block and the gripper's opening.
            goal: where the middle of the block should be ``[3]`` (m).
            is_released: let go there; else hold it.
        """
        hand, block, opening = labels[HAND], labels[OBJECT], float(labels[GRIPPER][0])
        scale, radius = self.scene.scale, self.scene.block.radius
        fine = 0.01 * scale
        grasp = np.array([*block[:2], max(block[2], self.hand.lower[2] + 0.002)])
        is_there = np.linalg.norm((goal - block)[:2]) < 1.2 * fine
        if is_released and is_there and block[2] < goal[2] + 0.6 * fine:
            return self._release(hand, opening)
        around = AROUND * self.scene.scale
        is_around = np.linalg.norm((hand - grasp)[:2]) < around and abs(hand[2] - grasp[2]) < around
        if not is_around:
            return self._approach(hand, grasp)
        if opening > 1.08 * radius + 0.001:
            return self._go(hand, grasp, -1.0)
        target = hand + self._carry(block, goal, is_there or not is_released)
        return self._go(hand, target, -1.0)

    def _release(self, hand: np.ndarray, opening: float) -> np.ndarray:
        is_open = opening > 1.35 * self.scene.block.radius
        away = np.array([0, 0, 0.05 * self.scene.scale if is_open else 0.0])
        return self._go(hand, hand + away, 1.0)

    def _approach(self, hand: np.ndarray, grasp: np.ndarray) -> np.ndarray:
        """Over the block, then down, as if along a funnel; up first where the hand is beside it.

        Who can only guess to half a centimetre where the block is would hover above it for ever,
        were the way down open from one millimetre to the next.
        """
        aside = np.linalg.norm((hand - grasp)[:2])
        top = grasp[2] + self.scene.block.height / 2
        safe = top + self.shape.depth + 0.015 * self.scene.scale
        if self.scene.shelf is not None and hand[1] > self.scene.shelf.lower[1] - 0.02:
            shelf = self.scene.shelf.upper[2]
            safe = max(safe, shelf + self.shape.depth + CARRIED * self.scene.scale)
        target = grasp.copy()
        target[2] += max(safe - grasp[2], 0) * np.interp(aside / self.scene.scale, FUNNEL, (0, 1))
        if hand[2] < target[2] - 0.015 * self.scene.scale:
            target[:2] = hand[:2]
        return self._go(hand, target, 1.0)

    def _carry(self, block: np.ndarray, goal: np.ndarray, is_there: bool) -> np.ndarray:
        """Where the block goes next, from where it is ``[3]`` (m)."""
        if is_there:
            return goal - block
        height = CARRIED * self.scene.scale + self.scene.block.height / 2
        if self.scene.shelf is not None:
            height += self.scene.shelf.upper[2]
        left = goal - block
        left[2] = height - block[2]
        if left[2] > 0.5 * CARRIED * self.scene.scale:
            left[:2] = 0
        return left

    def _go(self, hand: np.ndarray, target: np.ndarray, gripper: float) -> np.ndarray:
        target = np.clip(target, self.hand.lower + 0.002, self.hand.upper - 0.002)
        return self.hand.action(self.hand.towards(hand, target, 1.3 * REACTION), gripper)


class PickAndPlace(TableTask):
    """Pick the block up and place it on the shelf, 10 to 25 cm away.

    The shelf is higher than the surface, so that pushing does not get there. In the goal picture
    the hand is anywhere off the block.
    """

    name = "pick_and_place"
    steps = 100
    recorded_steps = 65  # so long as most demonstrations take
    demonstrations = True

    def __init__(self, contract: RobotContract, *args, **kwargs) -> None:
        super().__init__(contract, *args, **kwargs)
        self.grasper = Grasper(self.hand, self.shape, self.scene)

    @classmethod
    def refusal(cls, contract: RobotContract) -> str | None:
        """It takes a gripper that is moved by an action channel."""
        names = [channel.name for channel in contract.actions.channels]
        if contract.gripper is None or GRIPPER_CHANNEL not in names:
            return "it has no gripper, or none with a channel of its actions"
        return super().refusal(contract)

    def _scene(self) -> Scene:
        bare = super()._scene()
        lower, upper = (np.array(corner) for corner in self.contract.workspace)
        gripper = self.contract.gripper
        usual = block_at(bare.scale)
        radius = min(usual.radius, OPENING_SHARE * len(gripper.joints) * gripper.upper)
        mass = usual.mass * (radius / usual.radius) ** 2
        margin = 0.06 * bare.scale
        edge = lower[1] + SHELF_SHARE * (upper - lower)[1]
        top = bare.surface + SHELF_HEIGHT * bare.scale
        near, far = (lower[0] - margin, edge, bare.surface), (*(upper[:2] + margin), top)
        shelf = Box(tuple(map(float, near)), tuple(map(float, far)))
        return replace(
            bare, block=Block(radius, usual.height, mass), shelf=shelf, is_gripper_open=True
        )

    def sample(self, rng: np.random.Generator) -> Episode:
        """Block and goal uniform, apart by the task's distance."""
        for _ in self._attempts():
            block, goal = self.sample_block(rng), self.sample_goal(rng)
            if self.distance[0] <= np.linalg.norm(goal - block) <= self.distance[1]:
                break
        return self._episode(rng, block, goal, self.sample_hand(rng, block))

    def sample_block(self, rng: np.random.Generator) -> np.ndarray:
        """A place for the middle of the block on the surface, clear of the shelf ``[3]`` (m)."""
        gripper, upper = self.contract.gripper, self.block_upper.copy()
        fingers = gripper.upper + FINGERS * self.scene.scale
        upper[1] = self.scene.shelf.lower[1] - fingers - 0.01 * self.scene.scale
        spot = rng.uniform(self.block_lower, upper)
        return np.append(spot, self.scene.resting_height)

    def sample_goal(self, rng: np.random.Generator) -> np.ndarray:
        """A place for the middle of the block on the shelf ``[3]`` (m)."""
        lower, block = self.block_lower.copy(), self.scene.block
        lower[1] = self.scene.shelf.lower[1] + block.radius + 0.01 * self.scene.scale
        height = self.scene.shelf.upper[2] + block.height / 2
        return np.append(rng.uniform(lower, self.block_upper), height)

    def _is_off(self, hand: np.ndarray, block: np.ndarray) -> bool:
        """Off the block, and above the shelf where the hand is over it."""
        lowest = hand[2] - self.shape.depth
        clear = 0.01 * self.scene.scale
        is_beside = hand[1] + self.shape.upper[1] + clear < self.scene.shelf.lower[1]
        if not is_beside and lowest < self.scene.shelf.upper[2] + clear:
            return False
        return super()._is_off(hand, block)

    def oracle(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """Over the block, down, grasp, up, over the goal, down, let go."""
        return self.grasper.action(labels, episode.goal)

    def explore(self, rng: np.random.Generator, steps: int) -> Explorer:
        """Noisy demonstrations; noisy grasps that place or lift the block somewhere; smooth noise.

        Many of those grasps miss, or let go.
        """
        if rng.uniform() < SHOWN:
            return self._demonstration(rng, steps)
        kind, is_shelved = rng.uniform(), rng.uniform() < SHELVED
        is_above = rng.uniform() < (ABOVE_SHELVED if is_shelved else ABOVE_SHARE)
        block = self.sample_goal(rng) if is_shelved else self.sample_block(rng)
        goal = self.sample_goal(rng)
        start = self.sample_above(rng, block) if is_above else self.sample_hand(rng, block)
        is_lift = PLACES <= kind < PLACES + LIFTS
        if is_lift:
            goal = self.sample_hand(rng, block)
            goal[2] = rng.uniform(block[2], self.upper[2] - self._edge)
        joints = self._placer.joints_at(start, QUICK)
        variation = self.vary(rng, block, start)
        episode = Episode(joints, goal, joints, block, goal, variation=variation)
        if kind >= PLACES + LIFTS:
            return RandomExplorer(episode, explore(rng, steps, self.contract.actions.size))
        noise = self._noise(rng, steps)
        if rng.uniform() < FUMBLES:
            noise[:, -1] += _fumble(rng, steps)
        missed = self._missed(rng, steps)

        def script(labels: dict[str, np.ndarray]) -> np.ndarray:
            believed = {**labels, OBJECT: labels[OBJECT] + next(missed)}
            return self.grasper.action(believed, goal, is_released=not is_lift)

        return ScriptedExplorer(episode, script, noise)

    def _demonstration(self, rng: np.random.Generator, steps: int) -> Explorer:
        """The task as it is judged, and some noise."""
        episode = self.sample(rng)

        def script(labels: dict[str, np.ndarray]) -> np.ndarray:
            return self.oracle(labels, episode)

        return ScriptedExplorer(episode, script, self._noise(rng, steps), lambda _: episode.goal)

    def _noise(self, rng: np.random.Generator, steps: int) -> np.ndarray:
        """What is added to a script's actions ``[steps, A]``."""
        noise = script_noise(rng, steps, self.contract.actions.size)
        noise[:, -1] *= 0.3  # or nothing is ever held
        return noise

    def _missed(self, rng: np.random.Generator, steps: int) -> Iterator[np.ndarray]:
        """How far off the block the script goes ``[3]`` (m), step by step.

        Who has only seen grasps that hold believes that what is closed holds the block, wherever.
        """
        off = np.zeros(3)
        if rng.uniform() < MISSES:
            way = rng.standard_normal(3) * (1, 1, 0.5)
            off = rng.uniform(*MISSED) * self.scene.scale * way / np.linalg.norm(way)
        until = int(rng.uniform(*MISSING) * steps)
        return itertools.chain(itertools.repeat(off, until), itertools.repeat(np.zeros(3)))

    def sample_above(self, rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
        """A place for the hand close above the block, or around it ``[3]`` (m)."""
        scale = self.scene.scale
        if rng.uniform() < AROUND_SHARE:
            height = max(block[2], self.lower[2] + 0.002) + rng.uniform(0, 0.008) * scale
            return np.append(block[:2] + rng.uniform(-0.004, 0.004, 2) * scale, height)
        spot = block[:2] + rng.uniform(-0.02, 0.02, 2) * scale
        top = block[2] + self.scene.block.height / 2 + self.shape.depth
        return np.append(spot, top + rng.uniform(0.01, 0.05) * scale)


def _fumble(rng: np.random.Generator, steps: int) -> np.ndarray:
    """What opens or closes a gripper against a script's will ``[steps]``, now and then."""
    added = np.zeros(steps)
    begin = int(rng.integers(*FUMBLE_STEPS))
    while begin < steps:
        end = begin + int(rng.integers(*FUMBLE_STEPS))
        added[begin:end] = rng.choice((-2.0, 2.0))
        begin = end + int(rng.integers(*FUMBLE_STEPS))
    return added
