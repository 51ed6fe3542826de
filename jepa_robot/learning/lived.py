"""Episodes of states and what was done in them: what predictor, policy and critic learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jepa_robot.dataset import InvalidDataset

PIECE = 50  # steps: life has few ends, and what is held out is to be from all of it
HELD_OUT = 5  # of so many pieces one is not learned from


@dataclass(frozen=True)
class Lived:
    """``states`` ``[N, S]`` and ``actions`` ``[N, A]`` of episodes of ``lengths`` ``[E]``, in turn.

    What is done in the last state of an episode led nowhere.
    """

    states: np.ndarray
    actions: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, episodes: Sequence[Mapping[str, np.ndarray]]) -> Lived:
        """Of what memory holds: fields ``state`` and ``action`` of each episode.

        Raises:
            InvalidDataset: there is none.
        """
        if not episodes:
            raise InvalidDataset("memory holds no episode, expected one")
        states, actions = (
            np.concatenate([episode[name] for episode in episodes]) for name in ("state", "action")
        )
        return cls(states, actions, np.array([len(episode["state"]) for episode in episodes]))

    def starts(self, horizon: int) -> np.ndarray:
        """Rows that are followed by so many of the same episode.

        Raises:
            InvalidDataset: no episode is long enough.
        """
        ends = np.cumsum(self.lengths)
        starts = np.concatenate(
            [
                np.arange(end - length, end - horizon)
                for end, length in zip(ends.tolist(), self.lengths.tolist(), strict=True)
            ]
            or [np.zeros(0, int)]
        )
        if not len(starts):
            raise InvalidDataset(
                f"the longest episode has {max(self.lengths, default=0)} steps, expected at least "
                f"{horizon + 1}"
            )
        return starts


def pieces_of(episodes: Sequence[Mapping[str, np.ndarray]]) -> tuple[Lived, Lived]:
    """What to learn from, and every fifth piece, to judge by.

    Raises:
        InvalidDataset: there are too few.
    """
    pieces = [
        {name: one[name][begin : begin + PIECE] for name in ("state", "action")}
        for one in episodes
        for begin in range(0, len(one["state"]), PIECE)
    ]
    training = [one for number, one in enumerate(pieces) if number % HELD_OUT != HELD_OUT - 1]
    return Lived.of(training), Lived.of(pieces[HELD_OUT - 1 :: HELD_OUT])
