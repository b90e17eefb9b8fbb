"""Progress of steps on standard error, one line per step; on a terminal the line is there while the step is at work."""

from __future__ import annotations

import time
from typing import TextIO

from nodeagent.cli.output import Style, with_short_gpus
from nodeagent.errors import HostError
from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step

_STEP_COLUMNS = 60
_BEGIN_AGAIN = "\r\x1b[K"


class Progress:
    """Implements the executor's Report for a person at a terminal or a log."""

    def __init__(self, style: Style, stream: TextIO) -> None:
        self._style = style
        self._stream = stream
        self._started = time.monotonic()

    def started(self, phase: Phase, step: Step) -> None:
        self._started = time.monotonic()
        if self._style.width:
            text = f"{phase.value:<8} {_text(step)} ..."
            print(text[: self._style.width - 1], end="", file=self._stream, flush=True)

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None:
        seconds = self._style("dim", f"{time.monotonic() - self._started:6.2f} s")
        mark = self._style("good", "ok") if error is None else self._style("bad", "failed")
        begin = _BEGIN_AGAIN if self._style.width else ""
        self._say(f"{begin}{phase.value:<8} {_text(step):<{_STEP_COLUMNS}} {seconds}  {mark}")
        if error is not None:
            for line in self._style.wrap(f"         {with_short_gpus(str(error), {})}", 9):
                self._say(line)

    def skipped(self, step: Step, reason: str) -> None:
        self._say(f"{'skip':<8} {_text(step):<{_STEP_COLUMNS}} {self._style('dim', reason)}")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def _text(step: Step) -> str:
    return str(with_short_gpus(str(step), {}))
