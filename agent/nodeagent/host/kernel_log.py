"""The kernel's own log lines, read from /dev/kmsg (or from a plain file of the same records, for a simulated node).

Source: Documentation/ABI/testing/dev-kmsg; escapes by kernel/printk/printk.c (msg_add_ext_text).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from nodeagent.host import paths

RECORD_BYTES = 32768  # one read(2) gives one whole record (the kernel's limit is 8 KiB) or fails with EINVAL
REMEMBERED = 4096  # records kept for marks that are still to be asked about
ESCAPE = re.compile(rb"\\x([0-9a-fA-F]{2})")
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True)
class KernelRecord:
    """One record of the log; `level` as in syslog(2), `microseconds` since boot by the kernel's clock."""

    sequence: int
    level: int
    facility: int
    microseconds: int
    text: str


def parse_record(record: bytes) -> KernelRecord | None:
    """One record `PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT`, None for anything else (KEY=VALUE lines, rubbish).

    A record is one line of text: an escaped newline becomes a blank, so that no text can pass for two.
    """
    prefix, separator, rest = record.partition(b";")
    fields = prefix.split(b",")
    if not separator or len(fields) < 4 or not all(part.isdigit() for part in fields[:3]):
        return None
    priority, sequence, microseconds = (int(part) for part in fields[:3])
    raw = ESCAPE.sub(lambda found: bytes((int(found[1], 16),)), rest.split(b"\n", 1)[0])
    text = CONTROL.sub(" ", raw.decode("utf-8", "replace")).rstrip()
    return KernelRecord(sequence, priority & 7, priority >> 3, microseconds, text)


def kernel_text(records: Iterable[KernelRecord], mark: int) -> tuple[str, ...]:
    """Texts of the kernel's own records from the mark on, oldest first.

    What a process writes to /dev/kmsg has another facility: the kernel sees to that, so it cannot be spoofed.
    """
    return tuple(record.text for record in records if record.facility == 0 and record.sequence >= mark)


class KmsgLog:
    """ports.KernelLog over ROOT/dev/kmsg.

    A mark is the sequence number that the next record has. A log that cannot be opened (no such device, no CAP_SYSLOG)
    reads as empty: a missing explanation must never fail an operation.
    """

    def __init__(self, root: str = "/") -> None:
        self.path = root.rstrip("/") + paths.DEV_KMSG
        self._lock = threading.Lock()
        self._device = -1
        self._next = 0
        self._recent: deque[KernelRecord] = deque(maxlen=REMEMBERED)

    def mark(self) -> int:
        """Position after the newest record; 0 stands for "before anything that this reader has seen"."""
        with self._lock:
            self._drain()
            return self._next

    def since(self, mark: int) -> tuple[str, ...]:
        """Kernel lines after the position, oldest first; at most the last 4096 records."""
        with self._lock:
            self._drain()
            return kernel_text(self._recent, mark)

    def close(self) -> None:
        with self._lock:
            if self._device >= 0:
                os.close(self._device)
            self._device = -1

    def _drain(self) -> None:
        for record in self._unread():
            self._next = record.sequence + 1
            self._recent.append(record)

    def _unread(self) -> Iterator[KernelRecord]:
        try:
            mode = os.stat(self.path).st_mode
            if stat.S_ISREG(mode):
                return self._file_records()
            if self._device < 0:
                self._device = _open_at_end(self.path)
        except OSError:
            return iter(())
        return device_records(self._device)

    def _file_records(self) -> Iterator[KernelRecord]:
        """A plain file is read whole, as its writer may replace it; numbers that begin anew mean a new boot."""
        with open(self.path, "rb") as file:
            records = [record for line in file if (record := parse_record(line))]
        if records and records[-1].sequence + 1 < self._next:
            self._next = 0
            self._recent.clear()
        return iter([record for record in records if record.sequence >= self._next])


def _open_at_end(path: str) -> int:
    """Older records are skipped, not read: a full buffer is thousands of system calls, and no mark can lie in it."""
    device = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    os.lseek(device, 0, os.SEEK_END)
    return device


def device_records(device: int) -> Iterator[KernelRecord]:
    """Every record that can be read now from a non-blocking descriptor of /dev/kmsg (or of a pipe, in tests).

    EPIPE says that records were overwritten before they were read: the next read gives the oldest that is left.
    """
    while True:
        try:
            data = os.read(device, RECORD_BYTES)
        except OSError as error:
            if error.errno == errno.EPIPE:
                continue
            return  # EAGAIN: read to the end; anything else: the log reads as empty from here on
        if not data:
            return
        if record := parse_record(data):
            yield record
