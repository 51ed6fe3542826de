"""Push a block around a wall that stands in its way."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from jepa_robot.robot.contract import RobotContract
from jepa_robot_sim.episodes import OBJECT, Episode
from jepa_robot_sim.exploration import Explorer, ScriptedExplorer, script_noise
from jepa_robot_sim.placing import LINEAR_CHANNELS, QUICK
from jepa_robot_sim.pushing import Push
from jepa_robot_sim.scenes import REFERENCE, SMALLEST, Scene
from jepa_robot_sim.scripts import Pusher

WALL = (0.06, 0.008)  # m: half of its length and thickness; it is as high as the block
TURNED, SHIFTED = 0.3, 0.02  # rad, m: how far it is off the middle of the way
CLEARANCE, LEAST = 0.03, 0.008  # m that a block on its way should and must keep from it
ALIGNED = 0.45  # of the block's radius: who guesses where the block is must not lift the hand again
SHOWN = 0.6  # of the recorded episodes are demonstrations,
UNDERWAY = 0.7  # of which so many begin with the block on its way,
AT_IT = 0.5  # and of these so many with the hand close to it
ASKED = 0.2  # m at most from the block to where it is to be brought in practice


class PushAround(Push):
    """Push the block to a place behind a wall; the straight way is blocked.

    The wall stands across the middle of the way, as high as the block: the hand passes over it.
    """

    name = "push_around"
    channels = LINEAR_CHANNELS
    steps = 160
    demonstrations = True
    near, pushes, through = 0.85, 0.45, 0.4  # the way around takes long without touching the block
    distance = (0.16, 0.28)

    @classmethod
    def refusal(cls, contract: RobotContract) -> str | None:
        """The hand must get behind the block on all sides of the wall."""
        sides = np.subtract(contract.workspace[1], contract.workspace[0])[:2]
        least = SMALLEST * REFERENCE
        if min(sides) < least:
            return (
                f"its workspace is {min(sides):g} m wide, expected at least {least:.2f} m to get "
                "behind the block on all sides"
            )
        return super().refusal(contract)

    def _pusher(self) -> Pusher:
        return Pusher(self.hand, self.shape, self.scene, passes_over=True, aligned=ALIGNED)

    def _scene(self) -> Scene:
        bare = super()._scene()
        half = [float(side * bare.scale) for side in WALL]
        return replace(bare, wall=(*half, bare.block.height / 2))

    def sample(self, rng: np.random.Generator) -> Episode:
        """Block and goal uniform, apart by the task's distance, and a way around the wall."""
        for _ in self._attempts():
            block, goal = self.sample_block(rng), self.sample_block(rng)
            wall = self._wall_between(rng, block, goal)
            if not self.distance[0] <= np.linalg.norm(goal - block) <= self.distance[1]:
                continue
            if not (self._is_free(block, wall) and self._is_free(goal, wall)):
                continue
            way = [block[:2], *self.way(block[:2], goal[:2], wall)]
            if len(way) > 2 and all(map(self._has_room, way[:-1], way[1:])):
                break
        for _ in self._attempts():
            start = self.sample_hand(rng, block)
            if self._is_hand_free(start, wall):
                break
        return self._episode(rng, block, goal, start, wall)

    def way(self, block: np.ndarray, goal: np.ndarray, wall: np.ndarray) -> list[np.ndarray]:
        """The shortest way of the block around the wall: places ``[2]`` (m), the goal last.

        Over the corners of the wall grown by the block; none where no corner is in reach.
        """
        half = np.array(self.scene.wall[:2]) + self._grown
        turn = _turn(wall[2])
        corners = [wall[:2] + turn @ (half * s) for s in itertools.product((-1, 1), repeat=2)]
        corners = [corner for corner in corners if self._is_in_reach(corner)]
        best, length = [], np.inf
        for count in range(3):
            for between in itertools.permutations(corners, count):
                legs = [block, *between, goal]
                total = sum(np.linalg.norm(b - a) for a, b in itertools.pairwise(legs))
                if total < length and all(
                    not self._is_blocked(a, b, wall) for a, b in itertools.pairwise(legs)
                ):
                    best, length = legs[1:], total
        return best

    def oracle(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """Push the block along the shortest way around the wall."""
        return self.push(labels, self.next_place(labels, episode))

    def next_place(self, labels: dict[str, np.ndarray], episode: Episode) -> np.ndarray:
        """Where the block goes straight to, on the shortest way around the wall ``[3]`` (m)."""
        block = labels[OBJECT]
        way = self.way(block[:2], episode.goal[:2], episode.wall) or [episode.goal[:2]]
        while len(way) > 1 and self._is_passed(block[:2], way[0], way[1], episode.wall):
            way = way[1:]
        return np.append(way[0], episode.goal[2])

    def explore(self, rng: np.random.Generator, steps: int) -> Explorer:
        """Noisy demonstrations of parts of the task; noisy pushes, and smooth noise.

        What is demonstrated is how the block gets to the next place on its way.
        """
        if rng.uniform() >= SHOWN:
            return super().explore(rng, steps)
        episode = self._underway(rng) if rng.uniform() < UNDERWAY else self.sample(rng)

        def script(labels: dict[str, np.ndarray]) -> np.ndarray:
            return self.oracle(labels, episode)

        def aim(labels: dict[str, np.ndarray]) -> np.ndarray:
            return self.next_place(labels, episode)

        noise = script_noise(rng, steps, self.contract.actions.size)
        return ScriptedExplorer(episode, script, noise, aim)

    def practise(self, rng: np.random.Generator) -> Episode:
        """Straight to a place nearby, often beyond the wall: what comes of asking for that, too."""
        episode = self._underway(rng)
        for _ in self._attempts():
            goal = self.sample_block(rng)
            if np.linalg.norm(goal - episode.object_start) < ASKED * self.scene.scale:
                break
        return replace(episode, goal=goal, object_goal=goal)

    def _underway(self, rng: np.random.Generator) -> Episode:
        """An episode that begins with the block somewhere on its way, or where a push left it."""
        whole = self.sample(rng)
        way = [
            whole.object_start[:2],
            *self.way(whole.object_start[:2], whole.goal[:2], whole.wall),
        ]
        for _ in self._attempts():
            leg = int(rng.integers(len(way) - 1))
            spot = way[leg] + rng.uniform() * (way[leg + 1] - way[leg])
            spot = spot + rng.normal(0, CLEARANCE / 2 * self.scene.scale, 2)
            block = np.append(np.clip(spot, self.block_lower, self.block_upper), whole.goal[2])
            if self._is_free(block, whole.wall):
                break
        draw = self.sample_near if rng.uniform() < AT_IT else self.sample_hand
        for _ in self._attempts():
            start = draw(rng, block)
            if self._is_hand_free(start, whole.wall):
                break
        joints = self._placer.joints_at(start, QUICK)
        return replace(whole, start=joints, object_start=block)

    def _explored(
        self, rng: np.random.Generator, block: np.ndarray, goal: np.ndarray, start: np.ndarray
    ) -> Episode:
        plain = super()._explored(rng, block, goal, start)
        for _ in range(100):
            wall = self._wall_between(rng, block, goal)
            if self._is_free(block, wall) and self._is_hand_free(start, wall):
                return replace(plain, wall=wall)
            goal = self.sample_block(rng)
        return plain

    def _has_room(self, start: np.ndarray, end: np.ndarray) -> bool:
        """The hand can get behind the block to push it from one place to another."""
        step = end - start
        return self._has_room_behind(start, step / np.linalg.norm(step))

    def _is_passed(self, block, corner, following, wall) -> bool:
        """So near to a corner, the block goes on to what follows it, if that is possible at all."""
        is_near = np.linalg.norm(corner - block) < 1.2 * CLEARANCE * self.scene.scale
        return is_near and not self._is_blocked(block, following, wall, room=0.0)

    @property
    def _grown(self) -> float:
        return self.scene.block.radius + CLEARANCE * self.scene.scale

    def _wall_between(self, rng, block: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """Across the way ``[3]``: x, y (m), yaw (rad)."""
        way = (goal - block)[:2]
        shift = SHIFTED * self.scene.scale
        middle = (block + goal)[:2] / 2 + rng.uniform(-shift, shift, 2)
        across = np.arctan2(way[1], way[0]) + np.pi / 2 + rng.uniform(-TURNED, TURNED)
        return np.array([*middle, across])

    def _is_in_reach(self, corner: np.ndarray) -> bool:
        inside = (corner > self.block_lower - 0.002) & (corner < self.block_upper + 0.002)
        return bool(inside.all())

    def _is_free(self, block: np.ndarray, wall: np.ndarray) -> bool:
        room = self.scene.block.radius + 2 * LEAST * self.scene.scale
        return _distance(block[:2], wall, self.scene.wall) > room

    def _is_hand_free(self, hand: np.ndarray, wall: np.ndarray) -> bool:
        top = self.scene.surface + 2 * self.scene.wall[2]
        is_above = hand[2] - self.shape.depth > top + 0.01 * self.scene.scale
        room = self.shape.radius + 0.01 * self.scene.scale
        return is_above or _distance(hand[:2], wall, self.scene.wall) > room

    def _is_blocked(
        self, start: np.ndarray, end: np.ndarray, wall: np.ndarray, room: float = LEAST
    ) -> bool:
        """Whether the wall, grown by the block and some room, is between two places (slab test)."""
        half = np.array(self.scene.wall[:2]) + self.scene.block.radius + room * self.scene.scale
        turn = _turn(wall[2]).T
        a, b = (turn @ (place - wall[:2]) for place in (start, end))
        if (np.abs(a) < half).all():  # already touching: any way out will do
            return False
        way = np.where(np.abs(b - a) < 1e-12, 1e-12, b - a)
        near, far = np.sort([(-half - a) / way, (half - a) / way], axis=0)
        return bool(max(near.max(), 0.0) < min(far.min(), 1.0))


def _turn(yaw: float) -> np.ndarray:
    return np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])


def _distance(place: np.ndarray, wall: np.ndarray, half: tuple) -> float:
    """From a place ``[2]`` to the wall (m)."""
    local = np.abs(_turn(wall[2]).T @ (place - wall[:2]))
    return float(np.linalg.norm(np.maximum(local - half[:2], 0)))
