"""Ctrl-C and SIGTERM during a change: the step at work ends, then it is left as if it had never been begun."""

from __future__ import annotations

import signal
from types import FrameType


class Interrupt:
    """Says whether to stop between two steps. A second signal ends the command at once; the journal knows the rest."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - signal handler signature
        self.asked = True
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
