"""Counters over a window of time: how fast they grow; and which jobs of the past still count."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

POINTS = 256  # per counter and window; more often read counters are thinned out
FLOOR_SECONDS = 60.0  # a rate over less time would make a single error a storm


@dataclass(frozen=True)
class Growth:
    """What a counter grew by over a span of seconds."""

    amount: float
    seconds: float

    def per(self, unit_seconds: float, floor_seconds: float = FLOOR_SECONDS) -> float:
        return self.amount * unit_seconds / max(self.seconds, floor_seconds)

    @property
    def ratio(self) -> float:
        """Seconds of something in a second."""
        return self.amount / self.seconds if self.seconds else 0.0


class Windows:
    """The last readings of every counter; a counter that falls was reset and begins anew."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._points: dict[tuple[str, ...], deque[tuple[float, float]]] = {}

    def add(self, key: tuple[str, ...], now: float, value: float) -> None:
        points = self._points.setdefault(key, deque(maxlen=POINTS))
        if points and value < points[-1][1]:
            points.clear()
        if len(points) > 1 and now - points[-2][0] < self.seconds / POINTS:
            points.pop()
        points.append((now, value))
        while len(points) > 2 and points[1][0] <= now - self.seconds:
            points.popleft()

    def growth(self, key: tuple[str, ...]) -> Growth | None:
        """None while there are not two readings."""
        points = self._points.get(key)
        if not points or len(points) < 2:
            return None
        (first, low), (last, high) = points[0], points[-1]
        return Growth(high - low, last - first)

    def forget_but(self, keys: set[tuple[str, ...]]) -> None:
        """Drop counters of devices that are gone."""
        for key in [key for key in self._points if key not in keys]:
            del self._points[key]
