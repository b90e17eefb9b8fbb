"""When a unit that failed may be tried again: doubling waits with jitter, per unit, forgotten on success."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST_SECONDS = 300.0
JITTER = 0.1


@dataclass(frozen=True)
class Wait:
    """A unit's failures in a row, when it is next tried (monotonic seconds), and what went wrong last."""

    failures: int
    until: float
    reason: str


class Backoff:
    """Waits by unit. `first_seconds` is the wait after the first failure."""

    def __init__(self, first_seconds: float, chance: random.Random) -> None:
        self.first_seconds = first_seconds
        self._chance = chance
        self._waits: dict[str, Wait] = {}

    def failed(self, unit: str, reason: str, now: float) -> None:
        before = self._waits.get(unit)
        failures = before.failures + 1 if before else 1
        seconds = min(self.first_seconds * 2 ** min(failures - 1, 30), LONGEST_SECONDS)
        seconds *= 1 + self._chance.uniform(-JITTER, JITTER)
        self._waits[unit] = Wait(failures, now + seconds, reason)

    def succeeded(self, units: Iterable[str]) -> None:
        for unit in units:
            self._waits.pop(unit, None)

    def reset(self) -> None:
        """The wish changed, so earlier failures say nothing."""
        self._waits.clear()

    def postponed(self, now: float) -> dict[str, str]:
        """Units that must wait, with the reason for a person."""
        return {
            unit: f"failed {_times(wait.failures)}, next try in {wait.until - now:.0f} s: {wait.reason}"
            for unit, wait in self._waits.items()
            if wait.until > now
        }

    def next_try(self, since: float, now: float) -> float | None:
        """Seconds until some unit may be tried again, None when none waits.

        A wait that was over at `since`, when the last pass began, does not count: that pass was free to try the unit,
        and if it did not, something else is in the way, which trying again at once would not move.
        """
        pending = [wait.until for wait in self._waits.values() if wait.until > since]
        return max(0.0, min(pending) - now) if pending else None

    @property
    def waits(self) -> dict[str, Wait]:
        return dict(self._waits)


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times in a row"
