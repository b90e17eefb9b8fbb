"""A thread that does its round, rests, and does the next until it is stopped; and complaints that are made once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import NamedTuple

from nodeagent.errors import NodeAgentError

log = logging.getLogger("nodeagent")


class Complaint:
    """What is wrong with one thing, "" while nothing is: logged when it becomes another, not each time it is met.

    `about` stands before it in the log.
    """

    def __init__(self, about: str = "", level: int = logging.WARNING) -> None:
        self.text = ""
        self._before, self._level = f"{about}: " if about else "", level

    def say(self, text: str) -> None:
        if text and text != self.text:
            log.log(self._level, "%s%s", self._before, text)
        self.text = text

    def over(self) -> None:
        self.text = ""


class Rest(NamedTuple):
    """How long to rest after a round: until woken, at most `seconds` (None: no bound), `least_seconds` in any case."""

    seconds: float | None
    least_seconds: float = 0.0


def _nothing() -> None:
    pass


class Rounds:
    """A daemon thread that calls `do` again and again with `rest` in between, and `at_end` when it was stopped.

    An error of the agent's own kinds is complained of and the next round comes as ever; anything else is a defect and
    ends the thread. Whoever wakes it during a round gets another round. It holds no descriptor.
    """

    def __init__(
        self,
        name: str,
        do: Callable[[], None],
        rest: Callable[[], Rest],
        at_end: Callable[[], None] = _nothing,
        about: str = "",
    ) -> None:
        self.complaint = Complaint(about)
        self._do, self._rest, self._at_end = do, rest, at_end
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def start(self) -> None:
        """The first round begins at once."""
        self._thread.start()

    def wake(self) -> None:
        """The next round is due; returns at once. Any thread may call it, before the start too."""
        self._wake.set()

    def pause(self, seconds: float) -> bool:
        """Wait in the middle of a round; whether it is to end now because all is to stop."""
        return self._stopping.wait(seconds)

    def end(self) -> None:
        """No further round begins; returns at once, for those who have a round to break off before they wait for it."""
        self._stopping.set()
        self._wake.set()

    def stop(self, patience_seconds: float) -> bool:
        """End it, and wait for the round that is under way; whether it ended in time. It need not have been started."""
        self.end()
        if self._thread.ident is not None:
            self._thread.join(patience_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self.is_stopping:
                self._wake.clear()
                self._round()
                rest = self._rest()
                if not self.pause(rest.least_seconds):
                    self._wake.wait(rest.seconds)
        finally:
            self._at_end()

    def _round(self) -> None:
        try:
            self._do()
        except NodeAgentError as error:
            self.complaint.say(str(error))
        else:
            self.complaint.over()
