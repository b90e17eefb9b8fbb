"""Time of the real machine."""

from __future__ import annotations

import time


class RealClock:
    """`ports.Clock`: CLOCK_MONOTONIC and real sleep."""

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)
