"""When to plan and when to react: Mode-2 where the world surprises or policy and plan disagree.

"A Path Towards Autonomous Machine Intelligence" (LeCun, 2022), section 3.1.3: what was compiled
into the policy runs by itself; deliberate planning is for what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

BOUNDS = {"surprise": 1e6, "disagreement": 2.0, "calm": 1.0, "hold": 10_000, "look": 10_000}
WHOLE = ("hold", "look")


@dataclass(frozen=True)
class SwitchConfig:
    """Thresholds.

    ``surprise``: the energy of what came, from which on to plan; 0 for not by surprise.
    ``disagreement``: the root mean square of policy less plan over the action's channels, likewise.
    ``calm``: below so many times both thresholds, for ``hold`` decisions, the policy acts again.
    ``look``: every so many decisions of the policy a plan is made to compare it with; 0 for never.
    """

    surprise: float = 0.0
    disagreement: float = 0.35
    calm: float = 0.9
    hold: int = 1
    look: int = 4

    @classmethod
    def from_section(cls, section: Mapping) -> SwitchConfig:
        """Check a section.

        Raises:
            ValueError: names the field, its value and what was expected.
        """
        known = [field.name for field in fields(cls)]
        for name, value in section.items():
            if name not in known:
                raise ValueError(f"auto.{name} is unknown, expected one of {known}")
            is_number = isinstance(value, int if name in WHOLE else (int, float))
            if isinstance(value, bool) or not is_number or not 0 <= value <= BOUNDS[name]:
                kind = "a whole number" if name in WHOLE else "a number"
                raise ValueError(
                    f"auto.{name} is {value!r}, expected {kind} from 0 to {BOUNDS[name]:g}"
                )
        return cls(**section)


class Switch:
    """Engaged while plans are to be acted on. It begins with a look."""

    def __init__(self, config: SwitchConfig) -> None:
        self._config = config
        self.is_engaged = False
        self.decisions = self.plans = 0
        self._calm_for, self._until_look = 0, 0
        self._surprise = 0.0

    def wants_plan(self, surprise: float) -> bool:
        """Whether to plan from an observation that came with some surprise: once for each."""
        config = self._config
        self.decisions += 1
        self._surprise = surprise
        if config.surprise and surprise >= config.surprise:
            self._engage()
        is_due = bool(config.look) and self._until_look <= 0
        wanted = self.is_engaged or is_due
        self._until_look = config.look - 1 if wanted else self._until_look - 1
        self.plans += wanted
        return wanted

    def compare(self, disagreement: float) -> None:
        """Take note of how far policy and plan are apart, where one was made."""
        config = self._config
        if config.disagreement and disagreement >= config.disagreement:
            self._engage()
            return
        is_calm = disagreement < config.calm * (config.disagreement or float("inf"))
        is_calm = is_calm and self._surprise < config.calm * (config.surprise or float("inf"))
        self._calm_for = self._calm_for + 1 if is_calm else 0
        if self._calm_for >= config.hold:
            self.is_engaged = False

    def _engage(self) -> None:
        self.is_engaged, self._calm_for = True, 0
