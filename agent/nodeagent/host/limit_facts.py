"""How much memory processes may lock: RDMA registers memory, and registered memory is locked.

Source: proc(5) (/proc/PID/limits), getrlimit(2), drivers/infiniband/core/umem.c (the limit is that of the process that
registers; CAP_IPC_LOCK lifts it).
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from nodeagent.host.paths import PROC
from nodeagent.host.ports import Files
from nodeagent.state.processes import MemoryLock, Service

UNLIMITED = "unlimited"
_LINE = re.compile(r"^Max locked memory\s+(\S+)\s+(\S+)", re.MULTILINE)


def read_memory_locks(files: Files, services: Iterable[Service]) -> tuple[MemoryLock, ...]:
    """The limit of the first process of each service that runs: what it starts inherits it."""
    found = ((one.unit, one.pids[0]) for one in services if one.active and one.pids)
    locks = (_read(files, unit, pid) for unit, pid in found)
    return tuple(lock for lock in locks if lock is not None)


def _read(files: Files, unit: str, pid: int) -> MemoryLock | None:
    text = files.read_optional(f"{PROC}/{pid}/limits")
    return None if text is None else MemoryLock(unit, pid, parse_memory_lock(text))


def parse_memory_lock(text: str) -> int | None:
    """The soft limit in bytes, None where there is no limit. ValueError where the line is missing."""
    match = _LINE.search(text)
    if match is None:
        raise ValueError("no line about locked memory")
    return None if match[1] == UNLIMITED else int(match[1])
