"""Messages to the service manager (sd_notify(3)): readiness, status, reloading, and a watchdog fed by real progress."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping

# A service manager that does not read must not slow the loop: what it needs to know is waited for, but not for ever;
# a mere text or sign of life is left out when its queue is full.
PATIENCE_SECONDS = 1.0


class Notifier:
    """Talks to the socket in NOTIFY_SOCKET; does nothing where there is none.

    The variables are taken out of the environment, so that children do not speak for the agent. `watchdog_seconds` is
    how long the service manager waits between two signs of progress, 0 where it does not watch.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "")
        owner = environment.pop("WATCHDOG_PID", "")
        for_us = not owner or owner == str(os.getpid())
        # 0 means no watchdog; taken for a time it would make the loop spin.
        self.watchdog_seconds = int(microseconds) / 1e6 if microseconds.isdecimal() and for_us else 0.0

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_one_line(status)}", PATIENCE_SECONDS)

    def status(self, text: str) -> None:
        self._send(f"STATUS={_one_line(text)}")

    def reloading(self) -> None:
        """Needs the time since boot (sd_notify(3), MONOTONIC_USEC), or Type=notify-reload would wait for ever."""
        moment = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={moment}", PATIENCE_SECONDS)

    def stopping(self) -> None:
        self._send("STOPPING=1", PATIENCE_SECONDS)

    def progress(self) -> None:
        """Feed the watchdog. Only the loop itself may call this, after it has got something done."""
        if self.watchdog_seconds:
            self._send("WATCHDOG=1")

    def _send(self, message: str, seconds: float = 0.0) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(seconds)
            try:
                sender.connect(address)
                sender.sendall(message.encode())
            except OSError:
                return  # a service manager that went away must not take the node's agent with it


def _one_line(text: str) -> str:
    """A line feed would begin another assignment of the protocol."""
    return " ".join(text.split())
