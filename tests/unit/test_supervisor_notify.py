"""Messages to the service manager, received on a real datagram socket as systemd has one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.host.notify import Notifier


class Manager:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(60)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.address = address

    def next(self) -> list[str]:
        return self.socket.recv(65536).decode().split("\n")

    def heard_nothing_more(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(65536)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@nodeagent-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    found = Manager(address)
    yield found
    found.socket.close()


def test_the_life_of_a_service_is_told_in_order(manager: Manager) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "3000000"})
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.ready("converged: 8 GPUs")
    notifier.status("blocked: 8 GPUs")
    notifier.reloading()
    notifier.progress()
    notifier.stopping()
    assert manager.next() == ["READY=1", "STATUS=converged: 8 GPUs"]
    assert manager.next() == ["STATUS=blocked: 8 GPUs"]
    reloading, moment = manager.next()
    assert reloading == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) < before + 60e6
    assert manager.next() == ["WATCHDOG=1"]
    assert manager.next()[0] == "STOPPING=1"
    assert manager.heard_nothing_more()


def test_a_status_stays_one_line(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.address}).status("failing: bad\nREADY=1")
    assert manager.next() == ["STATUS=failing: bad READY=1"]


def test_the_variables_are_not_left_to_children() -> None:
    environment = {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/"}
    Notifier(environment)
    assert environment == {"HOME": "/"}


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_the_watchdog_is_only_fed_where_it_watches_us(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(dict(environment)).watchdog_seconds == seconds


def test_without_a_watchdog_progress_says_nothing(manager: Manager) -> None:
    Notifier({"NOTIFY_SOCKET": manager.address}).progress()
    assert manager.heard_nothing_more()


def test_a_manager_that_is_gone_or_deaf_stops_nobody(tmp_path: Path) -> None:
    Notifier({}).ready("no manager at all")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("nobody there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "deaf")})
        queue = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
        for _ in range(queue + 50):  # the last ones find the queue full and are left out
            notifier.status("x")
        notifier.ready("waits a moment, then gives up")
