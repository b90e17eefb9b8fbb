"""The one reader of the kernel's log that health has: a thread that wakes the others when a line means something."""

from __future__ import annotations

import select
import threading
from collections.abc import Callable
from dataclasses import replace

from nodeagent.errors import HostError
from nodeagent.health.kernel_lines import read_line
from nodeagent.host.kernel_follow import Cursor, KmsgFollower, LogBatch

TICK_SECONDS = 1.0  # a plain file, as on a simulated node, cannot be waited for
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
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kernel log", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(2 * TICK_SECONDS)
        self._follower.close()

    def take(self) -> tuple[LogBatch, str]:
        """Everything up to now, and why the log cannot be read, "" if it can."""
        self._read()
        with self._lock:
            taken, self._waiting = self._waiting, LogBatch(cursor=self._waiting.cursor)
            return taken, self._trouble

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._read():
                self.on_line()
            self._wait()

    def _wait(self) -> None:
        self._stop.wait(REST_SECONDS)
        descriptor = self._follower.descriptor
        if descriptor is None:
            self._stop.wait(TICK_SECONDS - REST_SECONDS)
            return
        poll = select.poll()
        poll.register(descriptor, select.POLLIN | select.POLLPRI)
        poll.poll(TICK_SECONDS * 1000)

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
