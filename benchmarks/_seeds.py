"""Results of long benchmarks: kept one by one as they come, and summed up over training seeds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _report import Row, commit, machine

from jepa_robot.evaluation import wilson_interval
from jepa_robot.files import write_atomically

DRAWS = 4000  # of the bootstrap


class Results:
    """What was measured of a cell and a policy with a training seed, a file each in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, cell: str, policy: str, seed: int) -> bool:
        return self._file(cell, policy, seed).exists()

    def put(self, cell: str, policy: str, seed: int, successes: list[bool], **more: object) -> None:
        """Keep whether each goal was reached, and other figures by name."""
        about = {"cell": cell, "policy": policy, "seed": seed}
        self._folder.mkdir(parents=True, exist_ok=True)
        about |= {"machine": machine(), "commit": commit()}
        content = {**about, "successes": [bool(success) for success in successes], **more}
        write_atomically(self._file(cell, policy, seed), json.dumps(content) + "\n")
        print(f"{cell}: {policy}, seed {seed}: {100 * np.mean(successes):.0f} %", flush=True)

    def rows(
        self,
        medians: dict[str, tuple[str, str]],
        closer: Callable[[str], tuple[str, float, str] | None] = lambda cell: None,
    ) -> list[Row]:
        """Success of everything that was kept, and medians of other figures.

        Args:
            medians: by the name under which a figure was kept, what it is called, and its unit.
            closer: of a cell, a stricter success: a figure, below what it is one, its title.
        """
        kept = [json.loads(path.read_text()) for path in self._folder.glob("result_*.json")]
        rows = []
        for cell, policy in sorted({(one["cell"], one["policy"]) for one in kept}):
            some = [one for one in kept if (one["cell"], one["policy"]) == (cell, policy)]
            some.sort(key=lambda one: one["seed"])
            name, seeds = f"{cell}: {policy}", f"{len(some)} seed(s)"
            ends = [np.array(one["successes"]) for one in some]
            rate = 100 * float(np.mean(np.concatenate(ends)))
            count = sum(map(len, ends))
            source = {
                key: " and ".join(sorted({one.get(key, "") for one in some}))
                for key in ("machine", "commit")
            }
            low, high = interval(ends)
            rows.append(Row(f"{name}: success", rate, "%", seeds, count, low, high, **source))
            if (stricter := closer(cell)) is not None:
                key, most, title = stricter
                ends = [np.array(one[key]) < most for one in some]
                rate = 100 * float(np.mean(np.concatenate(ends)))
                low, high = interval(ends)
                rows.append(Row(f"{name}: {title}", rate, "%", seeds, count, low, high, **source))
            for key, (title, unit) in medians.items():
                values = [np.ravel(one[key]) for one in some if one.get(key) is not None]
                if values:
                    value = float(np.median(np.concatenate(values)))
                    rows.append(Row(f"{name}: {title}", value, unit, seeds, count, **source))
        return rows

    def differences(self, reference: str, margin: float) -> list[Row]:
        """Success less that of a reference policy on the same goals, in points, with an interval.

        Non-inferior is what is at most so many points worse, with 95 % confidence. The interval is
        a bootstrap over goals, and never narrower than that of no difference in as many goals.
        """
        kept = [json.loads(path.read_text()) for path in self._folder.glob("result_*.json")]
        by_name = {(one["cell"], one["policy"], one["seed"]): one for one in kept}
        rng, rows = np.random.default_rng(0), []
        for (cell, policy, seed), one in sorted(by_name.items()):
            other = by_name.get((cell, reference, seed))
            if other is None or policy == reference:
                continue
            count = min(len(one["successes"]), len(other["successes"]))
            ends = [np.array(each["successes"][:count], float) for each in (one, other)]
            change = 100 * (ends[0] - ends[1])
            means = rng.choice(change, (DRAWS, count)).mean(axis=1)
            least = 100 * wilson_interval(0, count)[1]
            low, high = map(float, np.quantile(means, [0.025, 0.975]))
            low, high = min(low, change.mean() - least), max(high, change.mean() + least)
            verdict = "non-inferior" if low > -margin else "not shown to be non-inferior"
            name, against = f"{cell}: {policy}: success, difference", f"{reference}; {verdict}"
            source = {"machine": one["machine"], "commit": one["commit"]}
            rows.append(
                Row(name, float(change.mean()), "points", against, count, low, high, **source)
            )
        return rows

    def _file(self, cell: str, policy: str, seed: int) -> Path:
        name = f"result_{cell}_{policy}_{seed}.json"
        for character in " :,/":
            name = name.replace(character, "_")
        return self._folder / name


def interval(ends: list[np.ndarray]) -> tuple[float, float]:
    """95 %, in %: a bootstrap over training seeds, then over goals, and never narrower than
    Wilson's interval of all goals together, which knows that 100 of 100 is not certain.
    """
    rng = np.random.default_rng(0)
    means = [
        np.mean(
            [
                rng.choice(ends[i], len(ends[i])).mean()
                for i in rng.integers(len(ends), size=len(ends))
            ]
        )
        for _ in range(DRAWS)
    ]
    low, high = np.quantile(means, [0.025, 0.975])
    total = np.concatenate(ends)
    least, most = (100 * end for end in wilson_interval(int(total.sum()), len(total)))
    return min(100 * low, least), max(100 * high, most)
