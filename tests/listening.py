"""Where a program listens that was told to take any free port: the kernel gives it one that nobody else has."""

from __future__ import annotations

import time

import psutil

PATIENCE_SECONDS = 120.0


def port_of(pid: int) -> int:
    """The TCP port that a process listens on, as soon as it does. psutil.NoSuchProcess if it has ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        found = [one for one in psutil.Process(pid).net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        if found:
            return int(found[0].laddr.port)
        time.sleep(0.05)
    raise AssertionError(f"process {pid} does not listen")
