"""Whether somebody listens on a unix socket."""

from __future__ import annotations

import socket

PATIENCE_SECONDS = 1.0


def answers(path: str) -> bool:
    """A socket that a dead program left behind does not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PATIENCE_SECONDS)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
