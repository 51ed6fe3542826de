"""Monte-Carlo tree search over action primitives, with progressive widening.

Selection by UCT (Kocsis & Szepesvari 2006); a node gets a further child whenever its visits have
grown enough (Couetoux et al. 2011, "Continuous upper confidence trees"). A primitive is held for
some steps. Leaves are completed with the best plan so far and costed many at once: until a leaf's
cost is known it counts as the worst (Chaslot et al. 2008, "Parallel Monte-Carlo tree search").
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from jepa_robot.planning.planner import (
    Planner,
    PlannerConfig,
    Search,
    check_numbers,
    check_whole,
)

MOST = 1000  # primitives; where all combinations are more, one channel moves at a time


@dataclass(frozen=True)
class TreeSearchConfig(PlannerConfig):
    """Settings; ``candidates``: leaves that are costed at once, in each of the ``iterations``.

    ``levels``: of each channel from -1 to 1. ``hold``: steps that a primitive lasts.
    ``exploration``: UCT's constant. ``widening``: a node that was visited n times has at most
    ``2 * n ** widening`` children.
    """

    candidates: int = 64
    levels: int = 5
    hold: int = 2
    exploration: float = 0.4
    widening: float = 0.5
    answer: str = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, {"levels": (2, 21), "hold": (1, 200)})
        check_numbers(self, {"exploration": (0, 100), "widening": (0, 1)})


@dataclass
class _Node:
    """What was tried here. ``total`` sums the costs of its visits."""

    actions: np.ndarray
    visits: int = 0
    total: float = 0.0
    children: list[_Node] = field(default_factory=list)


class TreeSearch(Planner):
    """A tree a start; the first child of each node does what the best plan so far does there."""

    Config = TreeSearchConfig

    def __init__(self, config: TreeSearchConfig, action_size: int, seed: int = 0) -> None:
        super().__init__(config, action_size, seed)
        self._primitives = primitives(action_size, config.levels)

    def _begin(self, search: Search, start: np.ndarray) -> None:
        pass  # that takes time, which the first iteration has

    def _improve(self, search: Search, done: int) -> None:
        if not done:
            self._compare(search)
            self._trees = [
                _Tree(self.config, self._primitives, guide, cost)
                for guide, cost in zip(search.best.copy(), search.best_cost, strict=True)
            ]
        waves = [tree.select(self.config.candidates) for tree in self._trees]
        candidates = search.limited(np.stack([actions for _, actions in waves]))
        costs = search.costs(candidates)
        for tree, (paths, _), cost in zip(self._trees, waves, costs, strict=True):
            tree.back_up(paths, cost)

    def _center(self, search: Search) -> np.ndarray:
        return search.best


class _Tree:
    def __init__(
        self, config: TreeSearchConfig, options: np.ndarray, guide: np.ndarray, cost: float
    ) -> None:
        self._config, self._guide = config, guide
        self._parts = [
            guide[begin : begin + config.hold] for begin in range(0, len(guide), config.hold)
        ]
        orders = [
            np.argsort(np.square(options - part[0]).sum(axis=1), kind="stable")
            for part in self._parts
        ]
        self._options = [options[order] for order in orders]
        self._root = _Node(guide[:0])
        self._best = self._worst = float(cost) if np.isfinite(cost) else 0.0

    def select(self, count: int) -> tuple[list[list[_Node]], np.ndarray]:
        """Ways from the root to leaves, and the actions ``[count, H, A]`` that each stands for."""
        paths = [self._descend() for _ in range(count)]
        actions = np.repeat(self._guide[None], count, axis=0)
        for row, path in zip(actions, paths, strict=True):
            begun = np.concatenate([node.actions for node in path])
            row[: len(begun)] = begun
        return paths, actions

    def back_up(self, paths: list[list[_Node]], costs: np.ndarray) -> None:
        """What the leaves cost in the end, in place of the worst."""
        finite = costs[np.isfinite(costs)]
        held = self._worst
        if len(finite):
            self._best = min(self._best, float(finite.min()))
            self._worst = max(self._worst, float(finite.max()))
        for path, cost in zip(paths, costs, strict=True):
            for node in path:
                node.total += (float(cost) if np.isfinite(cost) else self._worst) - held

    def _descend(self) -> list[_Node]:
        node, path = self._root, [self._root]
        for depth, options in enumerate(self._options):
            limit = math.ceil(2 * max(node.visits, 1) ** self._config.widening)
            tried = len(node.children)
            is_new = tried < min(limit, 1 + len(options))
            if is_new:
                part = self._parts[depth]
                if tried:
                    part = np.repeat(options[tried - 1][None], len(part), axis=0)
                node.children.append(_Node(part))
                node = node.children[-1]
            else:
                node = max(node.children, key=lambda child, of=node: self._promise(child, of))
            path.append(node)
            if is_new:
                break
        for node in path:
            node.visits += 1
            node.total += self._worst
        return path

    def _promise(self, child: _Node, parent: _Node) -> float:
        """UCT, with costs from best to worst as 1 to 0."""
        span = max(self._worst - self._best, 1e-9)
        worth = (self._worst - child.total / child.visits) / span
        bonus = math.sqrt(math.log(max(parent.visits, 1)) / child.visits)
        return worth + self._config.exploration * bonus


def primitives(channels: int, levels: int) -> np.ndarray:
    """Constant actions ``[n, A]``: all combinations; one channel at a time if they are too many."""
    values = np.linspace(-1, 1, levels, dtype=np.float32)
    if levels**channels <= MOST:
        return np.array(list(itertools.product(values, repeat=channels)), np.float32)
    rows = [np.zeros(channels, np.float32)]
    for channel, value in itertools.product(range(channels), values):
        row = np.zeros(channels, np.float32)
        row[channel] = value
        rows.append(row)
    return np.array(rows)
