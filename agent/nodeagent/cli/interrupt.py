"""Ctrl-C and SIGTERM during a change: the step at work ends, half-done units are undone, the rest is restored."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """Says whether to stop between two steps. A second signal ends the command at once; the journal knows the rest."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        self._before = [(number, signal.signal(number, self._ask)) for number in _SIGNALS]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before:
            signal.signal(number, handler)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)
