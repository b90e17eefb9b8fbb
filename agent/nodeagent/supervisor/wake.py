"""What wakes the loop: time, signals, udev, interfaces, the node file, the control socket; it only schedules a pass."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from enum import StrEnum
from types import FrameType
from typing import Protocol


class Wake(StrEnum):
    """Why the loop woke up."""

    TIMER = "timer"
    RELOAD = "reload"  # SIGHUP, or asked by the control socket
    FILE = "node file changed"
    UDEV = "udev"
    LINK = "link changed"  # rtnetlink
    MIG = "mig layout changed"  # NVML's event
    REPAIR = "repair"
    HEALTH = "verdict changed"
    ASKED = "asked"  # control socket
    STOP = "stop"


class EventSource(Protocol):
    """Events behind a file descriptor, as udev's; no descriptor where they cannot be had."""

    @property
    def descriptor(self) -> int | None: ...

    def drain(self) -> tuple[str, ...]:
        """Take all events off."""


class Bell:
    """A pipe for whoever waits on descriptors: rung from any thread or signal handler, heard once."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full, so that it is heard anyway
            os.write(self._writer, b"x")

    def wait(self, descriptors: Iterable[int], seconds: float) -> frozenset[int]:
        """Which of these can be read, after at most this time; none where only the bell was rung."""
        poll = select.poll()
        for number in (self._reader, *descriptors):
            poll.register(number, select.POLLIN | select.POLLPRI)
        readable = frozenset(number for number, _ in poll.poll(max(0.0, seconds) * 1000))
        if self._reader in readable:
            os.read(self._reader, 4096)
        return readable - {self._reader}

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Waker:
    """Collects wake-ups from other threads and signal handlers, and from event sources, for the loop to wait on."""

    def __init__(self, source: EventSource | None = None, links: EventSource | None = None) -> None:
        self._bell = Bell()
        self._pending: set[Wake] = set()
        self._sources = {Wake.UDEV: source, Wake.LINK: links}

    def wake(self, reason: Wake) -> None:
        """May be called from any thread and from a signal handler."""
        self._pending.add(reason)
        self._bell.ring()

    def wait(self, seconds: float) -> frozenset[Wake]:
        """Wake-ups so far, after at most this time; empty when the time ran out.

        Each wake-up is added before the bell is rung, and that is silent before the set is emptied: so none is lost,
        and one that comes between costs an empty round at most.
        """
        found = ((why, one) for why, one in self._sources.items() if one is not None)
        sources = {number: (why, one) for why, one in found if (number := one.descriptor) is not None}
        for events in self._bell.wait(sources, seconds):
            if sources[events][1].drain():
                self._pending.add(sources[events][0])
        taken = frozenset(self._pending)
        self._pending -= taken
        return taken

    def handle_signals(self) -> None:
        """TERM and INT stop, a second one at once; HUP reloads. Only in the main thread.

        Dying at once is safe: the journal says what is owed, and the NVML worker ends with its owner.
        """
        signal.signal(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, self._stop)
        signal.signal(signal.SIGHUP, self._reload)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        self.wake(Wake.STOP)

    def _reload(self, _number: int, _frame: FrameType | None) -> None:
        self.wake(Wake.RELOAD)

    def close(self) -> None:
        self._bell.close()


def fingerprint(paths: Iterable[str]) -> tuple[object, ...]:
    """What changes when a file does, also when a symbolic link above it is swapped (ConfigMap mounts do that)."""
    return tuple(_identity(path) for path in paths)


def _identity(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
