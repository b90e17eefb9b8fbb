"""Progress of steps on standard error, one line per step as it happens."""

from __future__ import annotations

import time
from typing import TextIO

from nodeagent.cli.output import Style
from nodeagent.errors import HostError
from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step


class Progress:
    """Implements the executor's Report for a person at a terminal or a log."""

    def __init__(self, style: Style, stream: TextIO) -> None:
        self._style = style
        self._stream = stream
        self._started = time.monotonic()

    def started(self, phase: Phase, step: Step) -> None:  # noqa: ARG002 - the line is printed when the step has ended
        self._started = time.monotonic()

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None:
        seconds = time.monotonic() - self._started
        mark = self._style("good", "ok") if error is None else self._style("bad", "failed")
        tail = "" if error is None else f"\n           {error}"
        self._say(f"{phase.value:<8} {step} {self._style('dim', f'{seconds:.2f} s')} {mark}{tail}")

    def skipped(self, step: Step, reason: str) -> None:
        self._say(f"{'skip':<8} {step} {self._style('dim', reason)}")

    def _say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)
