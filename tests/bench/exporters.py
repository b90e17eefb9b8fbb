"""Other exporters on this machine, to measure ours beside them: each a process of its own."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from listening import port_of
from nodeagent.simulation.node import open_node

PROFILE = "dgx-a100"


def fetch(address: str) -> bytes:
    with closing(http.client.HTTPConnection(address, timeout=120)) as connection:
        connection.request("GET", "/metrics")
        return connection.getresponse().read()


@contextmanager
def nvitop_exporter(root: Path) -> Iterator[tuple[str, int]]:
    node = open_node(PROFILE, str(root))
    command = [sys.executable, "-m", "nvitop_exporter", "--bind-address", "127.0.0.1", "--port", "0"]
    try:
        with _server(command, node.machine.environment) as found:
            yield found
    finally:
        node.machine.close()


@contextmanager
def node_exporter(_root: Path) -> Iterator[tuple[str, int]]:
    with _server(["prometheus-node-exporter", "--web.listen-address=127.0.0.1:0"], {}) as found:
        yield found


@contextmanager
def _server(command: list[str], variables: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    environment = os.environ | dict(variables)
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet) as process:
        try:
            address = f"127.0.0.1:{port_of(process.pid)}"
            until(lambda: process.poll() is None and _answers(address))
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(120)


def _answers(address: str) -> bool:
    try:
        return bool(fetch(address))
    except OSError:
        return False


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.1)
