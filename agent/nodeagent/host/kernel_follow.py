"""Follows the kernel's log from where an earlier run stopped, and knows what it missed.

/dev/kmsg keeps every record until newer ones take its room. Sequence numbers have no gaps, so a gap is a loss; EPIPE
says that one has just happened. A position is (boot id, sequence): after a reboot the numbers begin anew.

Source: Documentation/ABI/testing/dev-kmsg (SEEK_SET 0 is the oldest record, poll is supported, EPIPE on overrun).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from nodeagent.errors import DeniedError, GoneError
from nodeagent.host import paths
from nodeagent.host.kernel_log import KernelRecord, device_records, parse_record

AT_ONCE = 4096  # a storm must not keep a cycle from ending; the rest comes with the next one
KERNEL_FACILITY = 0  # what a process writes to /dev/kmsg gets another: the kernel sees to that


@dataclass(frozen=True)
class Cursor:
    """Where reading goes on: the sequence number of the next record, in this boot."""

    boot_id: str = ""
    sequence: int = 0


@dataclass(frozen=True)
class LogBatch:
    """What one reading gave, oldest first. `lost` records were overwritten before they could be read.

    `foreign` are records that a process wrote and not the kernel: whatever they claim, it did not happen. `more`:
    there is more to read at once. `booted` is when the machine was started (Unix seconds), 0 if it is not known.
    """

    records: tuple[KernelRecord, ...] = ()
    foreign: tuple[KernelRecord, ...] = ()
    lost: int = 0
    more: bool = False
    cursor: Cursor = Cursor()
    booted: float = 0.0

    def time_of(self, record: KernelRecord, otherwise: float) -> float:
        """Unix time of a record; the kernel's clock stands still in suspend, which servers do not do."""
        return self.booted + record.microseconds / 1e6 if self.booted else otherwise


class KmsgFollower:
    """Reads ROOT/dev/kmsg on from a cursor; a plain file of records stands for it on a simulated node.

    `read` raises GoneError without a log and DeniedError without CAP_SYSLOG: here, silence would look like health.
    """

    def __init__(self, root: str = "/", cursor: Cursor | None = None) -> None:
        self._root = root.rstrip("/")
        self._device = -1
        boot_id = self._text(paths.PROC_BOOT_ID)
        self._known = cursor is not None and cursor.boot_id == boot_id
        self._next = cursor.sequence if cursor is not None and self._known else 0
        self.boot_id = boot_id  # as of the last reading

    @property
    def descriptor(self) -> int | None:
        """What becomes readable when the kernel writes a line; None for a plain file, and before the first reading."""
        return self._device if self._device >= 0 else None

    def close(self) -> None:
        if self._device >= 0:
            os.close(self._device)
        self._device = -1

    def read(self) -> LogBatch:
        """What came since the last reading, at most 4096 records."""
        batch = LogBatch(booted=self.boot_time())
        found = list(islice(self._records(), AT_ONCE))
        lost = self._advance(found)
        return replace(
            batch,
            records=tuple(record for record in found if record.facility == KERNEL_FACILITY),
            foreign=tuple(record for record in found if record.facility != KERNEL_FACILITY),
            lost=lost,
            more=len(found) == AT_ONCE,
            cursor=Cursor(self.boot_id, self._next),
        )

    def _advance(self, found: list[KernelRecord]) -> int:
        """Take the records as read; how many are missing before and between them."""
        lost = 0
        for record in found:
            if self._known:
                lost += max(0, record.sequence - self._next)
            self._known, self._next = True, record.sequence + 1
        return lost

    def _records(self) -> Iterator[KernelRecord]:
        path = self._root + paths.DEV_KMSG
        try:
            if stat.S_ISREG(os.stat(path).st_mode):
                return self._file_records(path)
            if self._device < 0:
                self._device = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except PermissionError as error:
            raise DeniedError("read", path, "permission denied", "the agent needs CAP_SYSLOG") from error
        except OSError as error:
            raise GoneError("read", path, (error.strerror or str(error)).lower()) from error
        return (record for record in device_records(self._device) if record.sequence >= self._next)

    def _file_records(self, path: str) -> Iterator[KernelRecord]:
        """Numbers that begin anew mean a new boot."""
        with open(path, "rb") as file:
            records = [record for line in file if (record := parse_record(line))]
        if self._restarted(records):
            self._known, self._next = False, 0
        return iter([record for record in records if record.sequence >= self._next])

    def _restarted(self, records: list[KernelRecord]) -> bool:
        boot_id = self._text(paths.PROC_BOOT_ID)
        changed = boot_id != self.boot_id
        self.boot_id = boot_id
        return changed or bool(records and records[-1].sequence + 1 < self._next)

    def boot_time(self) -> float:
        """`btime` of /proc/stat (proc(5)): whole seconds since the epoch."""
        for line in self._text(paths.PROC_STAT).splitlines():
            if line.startswith("btime "):
                with suppress(ValueError):
                    return float(line.split()[1])
        return 0.0

    def _text(self, path: str) -> str:
        try:
            with open(self._root + path, encoding="utf-8") as file:
                return file.read().strip()
        except OSError:
            return ""
