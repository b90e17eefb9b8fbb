"""What a node needs to live besides its devices: the time, and room on its disks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ClockFacts:
    """The system clock as the kernel's discipline sees it (adjtimex(2)).

    `synchronized`: STA_UNSYNC is not set, so somebody steers the clock. `offset_seconds` is the correction still to be
    made, `error_seconds` the most that the clock may be wrong.
    """

    synchronized: bool
    offset_seconds: float
    error_seconds: float


@dataclass(frozen=True)
class DiskFacts:
    """The file system that holds `path` (statvfs(3)); `free_bytes` is what an ordinary user may still write."""

    path: str
    total_bytes: int
    free_bytes: int
    read_only: bool = False

    @property
    def free_ratio(self) -> float:
        return self.free_bytes / self.total_bytes if self.total_bytes else 1.0
