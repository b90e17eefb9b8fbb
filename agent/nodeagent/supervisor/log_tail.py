"""The one reader of the kernel's log that health has: a thread that wakes the others when a line means something."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from nodeagent.errors import HostError
from nodeagent.health.kernel_lines import read_line
from nodeagent.host.kernel_follow import Cursor, KmsgFollower, LogBatch
from nodeagent.host.rounds import Rest, Rounds
from nodeagent.supervisor.wake import Bell

TICK_SECONDS = 1.0  # a plain file, as on a simulated node, cannot be waited for
IDLE_SECONDS = 60.0  # the kernel wakes whoever waits for its log
PATIENCE_SECONDS = 2.0
REST_SECONDS = 0.2  # between two readings, so that a storm of lines costs little
KEPT = 20_000  # records that wait for the next cycle; more than that is a loss, and said


class LogTail:
    """Collects what is new; `take` hands it over. `on_line` is called when there is something to look at now."""

    def __init__(self, root: str, cursor: Cursor | None) -> None:
        self.on_line: Callable[[], None] = lambda: None
        self._follower = KmsgFollower(root, cursor)
        self.boot_id, self.booted = self._follower.boot_id, self._follower.boot_time()
        self._lock = threading.Lock()
        self._waiting = LogBatch()
        self._trouble = ""
        self._bell = Bell()
        self._rounds = Rounds("kernel log", self._listen, lambda: Rest(0.0))

    def start(self) -> None:
        self._rounds.start()

    def stop(self) -> None:
        self._rounds.end()
        self._bell.ring()
        if self._rounds.stop(PATIENCE_SECONDS):
            self._bell.close()
            self._follower.close()

    def take(self) -> tuple[LogBatch, str]:
        """Everything up to now, and why the log cannot be read, "" if it can."""
        self._read()
        with self._lock:
            taken, self._waiting = self._waiting, LogBatch(cursor=self._waiting.cursor)
            return taken, self._trouble

    def _listen(self) -> None:
        if self._read():
            self.on_line()
        if not self._rounds.pause(REST_SECONDS):
            descriptor = self._follower.descriptor
            watched = () if descriptor is None else (descriptor,)
            self._bell.wait(watched, IDLE_SECONDS if watched else TICK_SECONDS - REST_SECONDS)

    def _read(self) -> bool:
        """Read on; whether any line means something."""
        with self._lock:
            try:
                batch, self._trouble = self._follower.read(), ""
            except HostError as error:
                self._trouble = str(error)
                return False
            self._waiting = joined(self._waiting, batch)
        return batch.lost > 0 or any(read_line(record.text) for record in (*batch.records, *batch.foreign))


def joined(one: LogBatch, other: LogBatch) -> LogBatch:
    """Two batches in a row as one; what is more than can wait counts as lost."""
    records = (*one.records, *other.records)
    dropped = max(0, len(records) - KEPT)
    return replace(
        other,
        records=records[dropped:],
        foreign=(*one.foreign, *other.foreign)[-KEPT:],
        lost=one.lost + other.lost + dropped,
    )
