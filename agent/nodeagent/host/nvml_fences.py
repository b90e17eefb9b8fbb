"""Which GPUs are fenced off: a GPU that did not answer is left alone for a while, and longer each time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from nodeagent.host.ports import GpuFault

if TYPE_CHECKING:
    from collections.abc import Callable

    from nodeagent.host.nvml_process import Worker

_LONGEST_SECONDS = 3600.0


@dataclass(frozen=True)
class Fence:
    """One GPU left alone until `retry_at` (monotonic seconds), and while the worker that hangs on it is still there.

    `method` is the reading that hung: another one may well work, and is no sign that this one does again.
    """

    fault: GpuFault
    attempt: int
    retry_at: float
    method: str
    stuck: Worker | None = None


class Fences:
    """Fences by NVML index, valid while the number of GPUs stays: with another number the indices mean others."""

    def __init__(self, first_seconds: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._first_seconds = first_seconds
        self._monotonic = monotonic
        self._fences: dict[int, Fence] = {}
        self._count = 0
        self.total = 0  # ever put up

    def counted(self, count: int) -> None:
        if count != self._count:
            self._fences.clear()
        self._count = count

    def standing(self, index: int) -> Fence | None:
        """The fence, None where there is none or the time to try again has come."""
        fence = self._fences.get(index)
        if fence is None or (fence.stuck is not None and fence.stuck.alive()):
            return fence
        return fence if self._monotonic() < fence.retry_at else None

    def of(self, uuid: str) -> Fence | None:
        return next(
            (found for index in self._fences if (found := self.standing(index)) and found.fault.uuid == uuid), None
        )

    def put_up(self, index: int, uuid: str, trouble: tuple[str, str], stuck: Worker | None) -> Fence:
        """Fence the GPU off; each time in a row twice as long, an hour at most. `trouble` is a reading and its end."""
        method, reason = trouble
        before = self._fences.get(index)
        attempt = before.attempt + 1 if before else 0
        wait = min(self._first_seconds * 2**attempt, _LONGEST_SECONDS)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        fault = GpuFault(uuid, f"{reason}, fenced off since {since}", hangs=True)
        self.total += 1
        self._fences[index] = Fence(fault, attempt, self._monotonic() + wait, method, stuck)
        return self._fences[index]

    def take_down(self, index: int, method: str) -> None:
        """The reading works; a fence that another one needed keeps its count for when that is tried again."""
        if index in self._fences and self._fences[index].method == method:
            del self._fences[index]

    def clear(self) -> None:
        """Allow every GPU to be tried again, but those that a worker still hangs on."""
        self._fences = {
            index: fence for index, fence in self._fences.items() if fence.stuck is not None and fence.stuck.alive()
        }
