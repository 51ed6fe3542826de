"""Short-term memory: the steps that were lived through, what was like them, and what followed.

Module 4 of "A Path Towards Autonomous Machine Intelligence" (LeCun, 2022, section 3): states,
actions and costs of the past, from which critic and policy learn and which the agent looks up.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping

import numpy as np
from usearch.index import Index

FIELDS = ("state", "action", "cost", "prediction", "surprise")
NOT_PREDICTED = np.nan  # the surprise of a step that nobody predicted
WAITING = 8  # newer steps after which what has not come of a step is not waited for
RECENT = 1024  # steps that a surprise is compared with
SURPRISING = {0.95: 1, 0.99: 3}  # share of them that is less surprising: rounds that a step stays
MOST_ROUNDS = 3
MEASURED = 1024  # steps of which the spread of states is taken
ALIKE = 1e-3  # of the largest spread: what varies less does not tell states apart
KINDS = ("uniform", "recency", "surprise", "episode")  # of sampling
HALF_LIFE = 0.1  # of what is remembered: by recency, what is this much older counts half
LINKS = 370  # bytes of a row in the index, beside its place
SOUGHT = 128  # nodes that a search looks at: 97 % of the ten nearest, after many went
CONTEST = 8  # steps of which the most surprising is taken
GAP = 1.5  # time steps: what comes later than this does not follow
LATE = 2 * WAITING  # time steps: what comes of a step that is over is let go for so long


class Memory:
    """A bounded ring of steps. Fields arrive one by one and meet by their stamp.

    When it is full the oldest goes; but a step that was surprising when it came, or that was
    recalled since, is passed over for some rounds of the ring (second chance: Corbató, "A paging
    experiment with the Multics system", 1968).

    Args:
        capacity: steps kept. Each takes ``bytes_per_step`` of RAM; what the fields take is only
            taken as it fills.
        sizes: numbers of each of ``FIELDS``.
        time_step: s between two steps; a gap, or a clock that jumps, ends an episode.

    Raises:
        ValueError: capacity is below 1, or a field is missing.
    """

    def __init__(self, capacity: int, sizes: Mapping[str, int], time_step: float) -> None:
        if capacity < 1:
            raise ValueError(f"memory.capacity is {capacity}, expected at least 1")
        if set(sizes) != set(FIELDS):
            raise ValueError(f"sizes are of {sorted(sizes)}, expected of {sorted(FIELDS)}")
        self.capacity, self.sizes = capacity, dict(sizes)
        self._step = 1e9 * time_step
        self._rows = {name: np.zeros((capacity, size), np.float32) for name, size in sizes.items()}
        self._stamps = np.zeros(capacity, np.int64)
        self._episodes = np.zeros(capacity, np.int64)
        self._numbers = np.full(capacity, -1, np.int64)  # in the order in which they came
        self._next = np.full(capacity, -1, np.int64)  # the row of the step after, if it still is
        self._rounds = np.zeros(capacity, np.uint8)
        self._filled = self._hand = 0
        self._last = -1  # the row that came last
        self._came = 0  # steps in all
        self._episode = 0
        self._begins = True
        self._begin_at: deque[int] = deque()  # stamps at which episodes begin
        self._pending: OrderedDict[int, dict[str, np.ndarray]] = OrderedDict()
        self._newest: int | None = None  # stamp of the last step that is settled
        self._recent = np.full(RECENT, np.nan)
        self._thresholds = np.full(len(SURPRISING), np.inf)
        self._similar = _Similar(sizes["state"])
        self._by_episode: tuple[int, np.ndarray, np.ndarray] | None = None
        self.incomplete = 0  # steps of which something never came
        self.gaps = 0  # in time, within what should have been an episode

    def __len__(self) -> int:
        return self._filled

    @property
    def bytes_per_step(self) -> int:
        """Of RAM, with the index; not of what it holds beside, which does not grow."""
        fields = 4 * sum(self.sizes.values())
        return fields + 4 * 8 + 1 + _Similar.bytes_per_row(self.sizes["state"])

    @property
    def spread(self) -> np.ndarray:
        """``[S]``: what distances of states are told in; standard deviations, once it is known."""
        return self._similar.spread

    @property
    def newest(self) -> int:
        """Stamp (ns) of the step that came last; 0 of none."""
        return int(self._stamps[self._last]) if self._last >= 0 else 0

    @property
    def came(self) -> int:
        """Complete steps that ever came: those from ``came - n`` on are the newest n."""
        return self._came

    def begin_episode(self, stamp: int) -> None:
        """The first step at or after ``stamp`` (ns) does not follow what came before."""
        self._begin_at.append(stamp)

    def store(self, stamp: int, field: str, value: np.ndarray) -> None:
        """Store one field ``[1, n]`` of the step observed at ``stamp`` (ns).

        Raises:
            ValueError: an unknown field, or a value of another size.
        """
        if field not in FIELDS:
            raise ValueError(f"field is {field!r}, expected one of {list(FIELDS)}")
        row = np.asarray(value, np.float32).reshape(-1)
        if len(row) != self.sizes[field]:
            raise ValueError(f"{field} has {len(row)} numbers, expected {self.sizes[field]}")
        if self._newest is not None and 0 <= self._newest - stamp < LATE * self._step:
            return  # of a step that is settled
        self._pending.setdefault(stamp, {})[field] = row
        while self._pending:
            oldest, known = next(iter(self._pending.items()))
            if len(known) < len(FIELDS) and len(self._pending) <= WAITING:
                return
            self._settle(oldest)

    def flush(self) -> None:
        """Wait for nothing any more."""
        while self._pending:
            self._settle(next(iter(self._pending)))

    def restore(self, episodes: Iterable[Mapping[str, np.ndarray]]) -> None:
        """Take up what was remembered before: episodes as `steps` gives them."""
        for episode in episodes:
            self._begins = True
            for number, stamp in enumerate(episode["stamp"].tolist()):
                self._keep(stamp, {name: episode[name][number] for name in FIELDS})
        self._begins = True

    def steps(self, since: int = 0) -> dict[str, np.ndarray]:
        """Steps, oldest first: ``stamp`` [n] (ns), ``episode`` [n], each field [n, ...].

        Args:
            since: number of the first; of those that are older, none.
        """
        numbers = self._numbers[: self._filled]
        rows = np.flatnonzero(numbers >= since)
        return self.at(rows[np.argsort(numbers[rows])])

    def at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Steps of rows ``[...]``, as `steps` gives them: each field ``[..., n]``."""
        found = {name: array[rows] for name, array in self._rows.items()}
        return {"stamp": self._stamps[rows], "episode": self._episodes[rows], **found}

    def recall(self, states: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """What was most like some states. What is recalled is kept for longer.

        Args:
            states: ``[N, S]``.
            count: how many for each; fewer where there are fewer.

        Returns:
            Rows ``[N, k]`` and distances ``[N, k]``, nearest first, in standard deviations of the
            states that came first.
        """
        rows, distances = self._similar.nearest(np.asarray(states, np.float32), count)
        self._rounds[rows] = np.minimum(self._rounds[rows] + 1, MOST_ROUNDS)
        return rows, distances

    def at_ages(self, ages: np.ndarray) -> np.ndarray:
        """Rows ``[N]`` of the steps nearest to so many s ``[N]`` before the newest; none of none.

        What is recalled is kept for longer.
        """
        filled = np.flatnonzero(self._stamps[: self._filled] > 0)
        if not filled.size:
            return filled
        wanted = self.newest - (1e9 * np.asarray(ages)).astype(np.int64)
        away = np.abs(self._stamps[filled][None] - wanted[:, None])
        rows = filled[away.argmin(axis=1)]
        self._rounds[rows] = np.minimum(self._rounds[rows] + 1, MOST_ROUNDS)
        return rows

    def follow(self, rows: np.ndarray, steps: int) -> np.ndarray:
        """The rows of the steps after: ``[..., steps]`` of ``[...]``; -1 where none is known."""
        followed = np.full((*np.shape(rows), steps), -1, np.int64)
        now = np.asarray(rows)
        for step in range(steps):
            now = np.where(now >= 0, self._after(now), -1)
            followed[..., step] = now
        return followed

    def sample(self, count: int, kind: str, rng: np.random.Generator) -> np.ndarray:
        """Rows ``[count]`` of steps that are followed by another.

        Args:
            count: how many, with replacement.
            kind: ``uniform``; ``recency``; ``surprise``, the most surprising of eight; ``episode``,
                each episode alike.

        Raises:
            ValueError: an unknown kind, or nothing that is followed by anything is remembered.
        """
        if kind not in KINDS:
            raise ValueError(f"sampling is by {kind!r}, expected one of {list(KINDS)}")
        if not (self._after(np.arange(self._filled)) >= 0).any():
            raise ValueError("memory holds no step that is followed by another, expected some")
        chosen = np.zeros(0, np.int64)
        while len(chosen) < count:
            drawn = self._draw(2 * count, kind, rng)
            chosen = np.concatenate([chosen, drawn[self._after(drawn) >= 0]])
        return chosen[:count]

    def _after(self, rows: np.ndarray) -> np.ndarray:
        """The row of the step after each; -1 where that is not known, or was forgotten."""
        after = self._next[rows]
        is_known = (after >= 0) & (self._numbers[after] == self._numbers[rows] + 1)
        return np.where(is_known, after, -1)

    def _draw(self, count: int, kind: str, rng: np.random.Generator) -> np.ndarray:
        if kind == "episode":
            rows, starts = self._episode_rows()
            ends = np.append(starts[1:], len(rows))
            which = rng.integers(len(starts), size=count)
            return rows[rng.integers(starts[which], ends[which])]
        if kind == "recency":
            ages = rng.exponential(HALF_LIFE / np.log(2), size=4 * count)
            ages = ages[ages < 1][:count]
            order = self._order()
            return order[((1 - ages) * len(order)).astype(int).clip(0, len(order) - 1)]
        if kind == "surprise":
            rows = rng.integers(self._filled, size=(count, CONTEST))
            surprise = np.nan_to_num(self._rows["surprise"][rows, 0], nan=-np.inf)
            return np.take_along_axis(rows, surprise.argmax(axis=1)[:, None], axis=1)[:, 0]
        return rng.integers(self._filled, size=count)

    def _order(self) -> np.ndarray:
        """Rows, oldest first; nearly so where old ones were passed over."""
        rows = np.arange(self._filled)
        return np.roll(rows, -self._hand) if self._filled == self.capacity else rows

    def _episode_rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows, episode by episode, and where each begins; as of at most a hundredth ago."""
        if self._by_episode is None or self._came > self._by_episode[0]:
            episodes = self._episodes[: self._filled]
            rows = np.argsort(episodes, kind="stable")
            starts = np.unique(episodes[rows], return_index=True)[1]
            self._by_episode = (self._came + self._filled // 100, rows, starts)
        return self._by_episode[1:]

    def _settle(self, stamp: int) -> None:
        """Keep a pending step, or give it up."""
        known = self._pending.pop(stamp)
        known.setdefault("surprise", np.array([NOT_PREDICTED], np.float32))
        if len(known) < len(FIELDS):
            self.incomplete += 1
            return
        while self._begin_at and stamp >= self._begin_at[0]:
            self._begin_at.popleft()
            self._begins = True
        if not self._begins and not 0 < stamp - self._newest <= GAP * self._step:
            self.gaps += 1
            self._begins = True
        self._keep(stamp, known)
        self._newest = stamp

    def _keep(self, stamp: int, known: Mapping[str, np.ndarray]) -> None:
        row = self._free_row()
        if self._begins:
            self._episode += 1
        else:
            self._next[self._last] = row
        for name, value in known.items():
            self._rows[name][row] = value
        self._stamps[row], self._episodes[row] = stamp, self._episode
        self._numbers[row], self._next[row] = self._came, -1
        self._rounds[row] = self._rounds_of(float(known["surprise"][0]))
        self._begins, self._last = False, row
        self._came += 1
        self._similar.put(row, known["state"])

    def _free_row(self) -> int:
        if self._filled < self.capacity:
            self._filled += 1
            return self._filled - 1
        while self._rounds[self._hand]:
            self._rounds[self._hand] -= 1
            self._hand = (self._hand + 1) % self.capacity
        row, self._hand = self._hand, (self._hand + 1) % self.capacity
        return row

    def _rounds_of(self, surprise: float) -> int:
        """How often a new step is passed over, by how surprising it is among the recent ones."""
        if np.isnan(surprise):
            return 0
        self._recent[self._came % RECENT] = surprise
        if self._came % 64 == 0:
            known = self._recent[np.isfinite(self._recent)]
            if len(known) >= 64:
                self._thresholds = np.quantile(known, list(SURPRISING))
        beaten = [
            rounds
            for rounds, least in zip(SURPRISING.values(), self._thresholds, strict=True)
            if surprise > least
        ]
        return max(beaten, default=0)


class _Similar:
    """What rows are near a place: an HNSW graph (Malkov & Yashunin, arXiv:1603.09320) of usearch.

    Places are in standard deviations of those that came first.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._first: dict[int, np.ndarray] = {}  # until there are enough to tell their spread
        self.spread = np.ones(size, np.float32)
        self._index: Index | None = None

    @staticmethod
    def bytes_per_row(size: int) -> int:
        """As measured of 100,000 rows; usearch takes memory in steps of twice as much."""
        return 4 * size + LINKS

    def put(self, row: int, place: np.ndarray) -> None:
        """A place ``[S]`` for a row, instead of what it had."""
        if self._index is not None:
            if row in self._index:
                self._index.remove(row)
            self._index.add(row, place / self.spread, threads=1)
            return
        self._first[row] = np.array(place)
        if len(self._first) < MEASURED:
            return
        rows, places = np.array(list(self._first)), np.array(list(self._first.values()))
        self.spread = _spread(places)
        self._index = Index(ndim=self._size, metric="l2sq", dtype="f32", expansion_search=SOUGHT)
        self._index.add(rows, places / self.spread, threads=1)
        self._first = {}

    def nearest(self, places: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and distances ``[N, k]`` of ``[N, S]``, nearest first."""
        if self._index is not None:
            found = self._index.search(
                places / self.spread, min(count, len(self._index)), threads=1
            )
            shape = (len(places), -1)
            keys = np.asarray(found.keys).astype(np.int64).reshape(shape)
            return keys, np.sqrt(np.maximum(np.asarray(found.distances).reshape(shape), 0))
        count = min(count, len(self._first))
        if not count:
            return np.zeros((len(places), 0), np.int64), np.zeros((len(places), 0), np.float32)
        rows, known = np.array(list(self._first)), np.array(list(self._first.values()))
        scale = _spread(known)
        away = np.linalg.norm((places[:, None] - known) / scale, axis=2)
        order = np.argsort(away, axis=1)[:, :count]
        return rows[order], np.take_along_axis(away, order, axis=1)


def _spread(places: np.ndarray) -> np.ndarray:
    """Standard deviations ``[S]``, none of which is next to nothing."""
    spread = places.std(axis=0)
    return np.maximum(spread, max(ALIKE * spread.max(), 1e-6)).astype(np.float32)
