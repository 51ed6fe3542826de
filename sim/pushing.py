"""Push a block along the surface to a place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.episodes import HAND, OBJECT, Episode
from jepa_robot_sim.exploration import (
    Explorer,
    RandomExplorer,
    ScriptedExplorer,
    explore,
    script_noise,
)
from jepa_robot_sim.placing import LINEAR_CHANNELS, MARGIN, QUICK, Placer, hand_shape
from jepa_robot_sim.scenes import (
    NOMINAL,
    Randomisation,
    Scene,
    Variation,
    bare_scene,
    block_at,
    place_distractors,
)
from jepa_robot_sim.scripts import Hand, Pusher

REFERENCE_SPEED = 0.4  # m/s of the hand that the number of steps was chosen for
HAND_HEIGHTS = 0.15  # m above the lowest: where the hand starts, and is in the goal picture
ATTEMPTS = 20_000  # draws until one fits
CLOSE_FINGERS = -1.0  # of a gripper, or the block gets between them
CLOSE = 0.06  # m between hand and block where exploration starts near it


class TableTask:
    """What tasks with a block on the surface share.

    Lengths are those of a workspace as wide as the Panda's, less in a smaller one; there are more
    steps for a slower arm.
    """

    name = ""
    steps = 50
    recorded_steps = 50  # so long that a script has missed, and comes again
    demonstrations = False
    distance = (0.10, 0.25)  # m, of the goal from where the block starts
    success_distance = 0.05  # m, at the end of the episode
    goal_label = OBJECT
    channels = LINEAR_CHANNELS  # that the hand must have

    def __init__(self, contract: RobotContract, randomisation: Randomisation = NOMINAL) -> None:
        self.contract, self.randomisation = contract, randomisation
        self.hand, self.shape = Hand(contract), hand_shape(contract)
        self.scene = self._scene()
        self._check_height()
        self.lower, self.upper = (np.array(corner) for corner in contract.workspace)
        radius = self.scene.block.radius
        self.block_lower, self.block_upper = self.lower[:2] + radius, self.upper[:2] - radius
        diagonal = np.linalg.norm(self.block_upper - self.block_lower)
        share = min(1.0, 0.65 * diagonal / self.distance[1])
        self.distance = tuple(float(share * distance) for distance in self.distance)
        self.success_distance = float(share) * self.success_distance
        slowness = REFERENCE_SPEED * share / self.hand.speed
        self.steps = round(self.steps * max(1.0, slowness))
        self._placer = Placer(contract)

    def _check_height(self) -> None:
        """A hand that is kept at one height must be low enough to meet the block."""
        held, block = self.hand.held_height, self.scene.block
        if held is None:
            return
        highest = self.scene.surface + block.height / 2 + self.shape.depth
        if held > highest:
            raise self.contract.invalid(
                "home",
                f"home is where the hand is at {held:.3g} m, at which actions keep it, expected at "
                f"most {highest:.3g} m to push a block",
            )

    def _scene(self) -> Scene:
        bare = bare_scene(self.contract, self.shape.depth, self.randomisation.distractors)
        return replace(bare, block=block_at(bare.scale))

    @classmethod
    def refusal(cls, contract: RobotContract) -> str | None:
        """The hand must be moved along the axes that it takes."""
        actions = contract.actions
        names = [channel.name for channel in actions.channels]
        if actions.kind != "ee_twist" or not set(cls.channels) <= set(names):
            expected = ", ".join(cls.channels)
            return f"its actions are {actions.kind} of {names}, expected ee_twist of {expected}"
        return None

    def practise(self, rng: np.random.Generator) -> Episode:
        """The task as it is judged."""
        return self.sample(rng)

    def is_success(self, labels: dict[str, np.ndarray], goal: np.ndarray) -> bool:
        return float(np.linalg.norm(labels[OBJECT] - goal)) < self.success_distance

    def blind(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """The hand straight to the goal, seeing no block."""
        return self.hand.straight(labels[HAND], episode.goal)

    def joints_at(self, position: np.ndarray) -> np.ndarray:
        """Joint positions ``[J]`` (rad) that put the hand at ``position`` (m), from home."""
        return self._placer.joints_at(position)

    def sample_block(self, rng: np.random.Generator) -> np.ndarray:
        """A place for the middle of the block on the surface ``[3]`` (m), uniform."""
        spot = rng.uniform(self.block_lower, self.block_upper)
        return np.append(spot, self.scene.resting_height)

    def sample_hand(self, rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
        """A place for the hand ``[3]`` (m), uniform in the workspace's low part, off the block."""
        lower, upper = self.lower + self._edge, self.upper - self._edge
        lower[2] = self.lower[2] + 0.2 * self._edge
        upper[2] = min(upper[2], self.lower[2] + HAND_HEIGHTS * self.scene.scale)
        for _ in self._attempts():
            hand = self._at_height(rng.uniform(lower, upper))
            if self._is_off(hand, block):
                break
        return hand

    def sample_near(self, rng: np.random.Generator, block: np.ndarray) -> np.ndarray:
        """A low place for the hand ``[3]`` (m), close to the block."""
        for _ in range(100):
            around, away = rng.uniform(-np.pi, np.pi), rng.uniform(0, CLOSE * self.scene.scale)
            way = np.array([np.cos(around), np.sin(around)])
            spot = block[:2] + way * (self._clear + away)
            height = self.lower[2] + rng.uniform(0.1, 0.8) * self._edge
            if (spot > self.lower[:2] + 0.003).all() and (spot < self.upper[:2] - 0.003).all():
                return self._at_height(np.append(spot, height))
        return self.sample_hand(rng, block)

    def _at_height(self, hand: np.ndarray) -> np.ndarray:
        """A place of the hand, at the height that it is kept at, if it is."""
        height = self.hand.held_height
        return hand if height is None else np.append(hand[:2], height)

    def vary(self, rng: np.random.Generator, *clear_of: np.ndarray) -> Variation:
        """What differs from the nominal scene; distractors stand clear of some places."""
        variation = self.randomisation.sample(rng, len(self.contract.cameras))
        if not self.scene.distractors:
            return variation
        return place_distractors(variation, self.scene, self.contract, rng, clear_of)

    def _episode(
        self,
        rng: np.random.Generator,
        block: np.ndarray,
        goal: np.ndarray,
        start: np.ndarray,
        wall: np.ndarray | None = None,
    ) -> Episode:
        """An episode whose goal picture has the hand elsewhere than a push or a grasp ends."""
        elsewhere = self.sample_hand(rng, goal)
        return Episode(
            start=self.joints_at(start),
            goal=goal,
            goal_joints=self.joints_at(elsewhere),
            object_start=block,
            object_goal=goal,
            wall=wall,
            variation=self.vary(rng, block, goal, start),
        )

    def _attempts(self) -> Iterator[int]:
        """For drawing until it fits.

        Raises:
            InvalidContract: nothing fitted; the workspace is too small or oddly shaped.
        """
        yield from range(ATTEMPTS)
        raise self.contract.invalid(
            "workspace",
            f"workspace is {self.contract.workspace}, in which no episode of {self.name} was found "
            f"in {ATTEMPTS} attempts: expected a larger one",
        )

    @property
    def _edge(self) -> float:
        return MARGIN * self.scene.scale

    @property
    def _clear(self) -> float:
        """From the middle of the block to a hand that does not touch it, whatever way (m)."""
        return self.scene.block.radius + self.shape.radius + 0.005 * self.scene.scale

    def _is_off(self, hand: np.ndarray, block: np.ndarray) -> bool:
        top = block[2] + self.scene.block.height / 2
        is_above = hand[2] - self.shape.depth > top + 0.01 * self.scene.scale
        return bool(is_above or np.linalg.norm((hand - block)[:2]) > self._clear)


class Push(TableTask):
    """Push the block 10 to 25 cm along the surface to a place.

    The hand starts anywhere in the low 15 cm of the workspace, and is anywhere there in the goal
    picture, which does not show where a push would end. An arm whose actions keep its hand at one
    height pushes at that.
    """

    name = "push"
    channels = LINEAR_CHANNELS[:2]
    near, pushes, through = 0.6, 0.7, 0.2  # shares of explored episodes: begin close to the block,
    # noisy scripted pushes, straight through it; the rest is smooth noise

    def __init__(self, contract: RobotContract, randomisation: Randomisation = NOMINAL) -> None:
        super().__init__(contract, randomisation)
        self.pusher = self._pusher()

    def _pusher(self) -> Pusher:
        return Pusher(self.hand, self.shape, self.scene)

    def sample(self, rng: np.random.Generator) -> Episode:
        """Block and goal uniform, apart by the task's distance, with room behind the block."""
        for _ in self._attempts():
            block, goal = self.sample_block(rng), self.sample_block(rng)
            if self._is_fair(block, goal):
                break
        return self._episode(rng, block, goal, self.sample_hand(rng, block))

    def _is_fair(self, block: np.ndarray, goal: np.ndarray) -> bool:
        """At the task's distance, and the hand can get behind the block."""
        distance = np.linalg.norm(goal - block)
        if not self.distance[0] <= distance <= self.distance[1]:
            return False
        return self._has_room_behind(block, (goal - block)[:2] / distance)

    def _has_room_behind(self, block: np.ndarray, way: np.ndarray) -> bool:
        behind = block[:2] - way * (self.pusher.standoff(way) + 0.01 * self.scene.scale)
        inside = 0.004
        return bool(
            (behind > self.lower[:2] + inside).all() and (behind < self.upper[:2] - inside).all()
        )

    def oracle(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """Behind the block, then through it until it is there."""
        return self.push(labels, episode.goal)

    def push(self, labels: dict[str, np.ndarray], goal: np.ndarray) -> np.ndarray:
        """The action ``[A]`` that pushes the block straight to a place, with closed fingers."""
        velocity = self.pusher.velocity(labels[HAND], labels[OBJECT], goal)
        return self.hand.action(velocity, CLOSE_FINGERS)

    def explore(self, rng: np.random.Generator, steps: int) -> Explorer:
        """Noisy scripted pushes to random places, straight through the block, or smooth noise."""
        kind = rng.uniform()
        block, goal = self.sample_block(rng), self.sample_block(rng)
        near = rng.uniform() < self.near
        start = self.sample_near(rng, block) if near else self.sample_hand(rng, block)
        episode = self._explored(rng, block, goal, start)
        size = self.contract.actions.size
        if kind < self.pushes:
            noise = script_noise(rng, steps, size)
            return ScriptedExplorer(episode, lambda labels: self.oracle(labels, episode), noise)
        if kind < self.pushes + self.through:
            script = self._through(rng, block, start)
            return ScriptedExplorer(episode, script, script_noise(rng, steps, size))
        return RandomExplorer(episode, explore(rng, steps, size))

    def _explored(self, rng, block, goal, start) -> Episode:
        joints = self._placer.joints_at(start, QUICK)
        variation = self.vary(rng, block, start)
        return Episode(joints, goal, joints, block, goal, variation=variation)

    def _through(self, rng: np.random.Generator, block: np.ndarray, start: np.ndarray):
        """A script that goes from the start through the block, and on."""
        way = (block - start)[:2]
        way = way / max(np.linalg.norm(way), 1e-6)
        aside = rng.uniform(-0.9, 0.9) * self.scene.block.radius * np.array([-way[1], way[0]])
        beyond = block[:2] + aside + way * rng.uniform(0.05, 0.15) * self.scene.scale
        target = np.append(beyond, self.pusher.height)
        reaction = rng.uniform(0.15, 0.5)

        def script(labels: dict[str, np.ndarray]) -> np.ndarray:
            velocity = self.hand.towards(labels[HAND], target, reaction)
            return self.hand.action(velocity, CLOSE_FINGERS)

        return script
