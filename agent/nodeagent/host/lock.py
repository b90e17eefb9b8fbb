"""The single-instance lock: held for life by the agent, for the length of a change by one-shot commands."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from nodeagent.errors import AlreadyRunningError, DeniedError
from nodeagent.host.paths import LOCK


@contextmanager
def node_lock(root: str) -> Iterator[None]:
    """Hold the node's lock (flock, so that a crash frees it). AlreadyRunningError names the PID of the holder."""
    path = root.rstrip("/") + LOCK
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        reason = error.strerror or "cannot be opened"
        raise DeniedError("lock", path, reason.lower(), "run as root, or with --simulate") from error
    try:
        _take(descriptor, path)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
        raise AlreadyRunningError(
            f"lock {path}: held by process {holder}; another nodeagent is at work on this node, "
            "ask it with `nodeagent status` or stop it first"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
