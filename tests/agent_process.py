"""The agent as a process of its own on a simulated node, with a service manager's socket to report to."""

from __future__ import annotations

import http
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodeagent.errors import GoneError
from nodeagent.host.control_client import ask

PROFILE = "gpu-server-4x-a100"
PATIENCE_SECONDS = 120.0  # of a loaded machine; what is waited for comes at once on an idle one
FILE = """\
version: 1
modules:
  nvidia: {modeset: false}
  rdma: {}
  gdrcopy: true
mig:
  - {mode: enabled, gpus: [0], devices: {3g.20gb: 1, 1g.5gb: 1}}
links:
  - {match: "driver:mlx5_core", up: true, mtu: 9000}
loop: {interval_seconds: 3600, sample_seconds: 1, backoff_seconds: 0.2, nvml_deadline_seconds: 2}
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "nodeagent", *words]


def run_command(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`nodeagent WORDS` to its end."""
    environment, words = {**os.environ, **variables}, tuple(command(*words))
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)


class Manager:
    """The service manager's end of NOTIFY_SOCKET, read by a thread; `heard` are all messages so far.

    `fed` are the moments (monotonic seconds) at which the watchdog was fed.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self.heard: list[str] = []
        self.fed: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()
        self._path = path

    def _listen(self) -> None:
        while message := self._socket.recv(65536).decode():
            self.heard.append(message)
            if message == "WATCHDOG=1":
                self.fed.append(time.monotonic())

    def find(self, start: str, after: int) -> str:
        return next((message for message in self.heard[after:] if message.startswith(start)), "")

    def words(self) -> list[str]:
        """The first assignment of each message that is more than a text."""
        return [message.split("\n")[0] for message in self.heard if not message.startswith("STATUS=")]

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.connect(str(self._path))
            last.send(b"")
        self._thread.join()
        self._socket.close()


@dataclass
class Agent:
    """A running agent. Its node is the directory `root`, its node file `file`."""

    process: subprocess.Popen[bytes]
    manager: Manager
    root: Path
    file: Path
    log: Path
    profile: str = PROFILE

    def status(self) -> dict[str, Any]:
        return ask(str(self.root), "GET", "/v1/status")

    def hears(self, start: str, after: int = 0) -> str:
        """The first message to the service manager, but this many, that starts like this; the log if it has ended."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.manager.find(start, after)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < until, f"{start} not among {self.manager.heard[after:]}"
            time.sleep(0.02)
        return found

    def ask_for(self, what: str) -> None:
        """POST, such as reconcile."""
        ask(str(self.root), "POST", f"/v1/{what}")

    def wait_until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first status that is as wanted; the log in the failure when there is none in time."""
        until = time.monotonic() + PATIENCE_SECONDS
        found: dict[str, Any] = {}
        while time.monotonic() < until:
            try:
                found = self.status()
            except GoneError:
                assert self.process.poll() is None, self.log.read_text()
            if found and wanted(found):
                return found
            time.sleep(0.05)
        raise AssertionError(f"{found}\n{self.log.read_text()}")

    def wait_converged(self, after: int = 0) -> dict[str, Any]:
        """The status once more than this many passes are done and the node is right."""
        return self.wait_until(lambda found: found["condition"] == "converged" and found["passes"] > after)

    def settle(self) -> None:
        """Two passes that were asked for: whatever was noticed before is done with, and the node is right."""
        for _ in range(2):
            passes = self.status()["passes"]
            self.ask_for("reconcile")
            self.wait_converged(passes)

    def rest(self) -> int:
        """How many passes it has made, once no more come; for an agent that makes none by the clock meanwhile."""
        seen, until = -1, time.monotonic() + PATIENCE_SECONDS
        while (status := self.status())["passes"] != seen:
            assert time.monotonic() < until, "passes go on and on"
            seen = status["passes"]
            time.sleep(1 + 3 * status["lastPass"]["durationSeconds"])  # longer than a pass that may be under way
        return seen

    def take_over(self, text: str) -> None:
        """Replace the node file, and wait until it is in force and the node as it says."""
        before = len(self.manager.heard)
        self.write(text)
        self.hears("RELOADING=1", before)
        begun = next(at for at, said in enumerate(self.manager.heard) if at >= before and said.startswith("RELOADING"))
        self.hears("READY=1", begun)
        self.settle()

    def write(self, text: str) -> None:
        """Replace the node file as an editor does: whole, by a rename."""
        new = self.file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.rename(self.file)

    def serves(self, text: str) -> str:
        """The first metrics page with this text: a page is rendered a moment after what it tells is in the status."""
        found: list[str] = []

        def is_there(_: dict[str, Any]) -> bool:
            found[:] = [self.fetch("/metrics")]
            return text in found[0]

        self.wait_until(is_there)
        return found[0]

    def fetch(self, path: str) -> str:
        """What the server sends; before the first snapshot it answers 503, which is waited for."""
        sent: list[str] = []

        def is_served(status: dict[str, Any]) -> bool:
            try:
                with urllib.request.urlopen(f"http://{status['metrics']}{path}", timeout=PATIENCE_SECONDS) as answer:
                    sent.append(str(answer.read().decode()))
            except urllib.error.HTTPError as error:
                if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
            return bool(sent)

        self.wait_until(is_served)
        return sent[0]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and give the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    @property
    def target(self) -> tuple[str, ...]:
        """The words that name this node on the command line."""
        return ("--simulate", self.profile, "--simulate-dir", str(self.root))


@contextmanager
def agent_on(
    directory: Path, text: str = FILE, *words: str, profile: str = PROFILE, watchdog_seconds: float = 0.0
) -> Iterator[Agent]:
    """An agent on a simulated node in `directory`, which may exist already; killed with the block if still there."""
    file, log = directory / "node.yaml", directory / "log"
    root = directory / "n"
    file.write_text(text, encoding="utf-8")
    manager = Manager(directory / "notify")
    place = ("--simulate", profile, "--simulate-dir", str(root), "--file", str(file))
    watchdog = {"WATCHDOG_USEC": str(round(watchdog_seconds * 1e6))} if watchdog_seconds else {}
    with log.open("w") as errors:
        process = subprocess.Popen(
            command("run", *place, "--listen", "127.0.0.1:0", *words),
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify"), **watchdog},
            stderr=errors,
        )
    try:
        yield Agent(process, manager, root, file, log, profile)
    finally:
        process.kill()
        process.wait(PATIENCE_SECONDS)
        manager.close()


def workers_of(pid: int) -> list[int]:
    """The children of a process that are NVML workers."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text, words = status.read_text(), (status.parent / "cmdline").read_bytes()
        except OSError:
            continue  # it has just ended
        parent = re.search(r"^PPid:\t(\d+)$", text, re.MULTILINE)
        if parent and int(parent[1]) == pid and b"nvml_worker" in words:
            found.append(int(status.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Whether the process is there and not merely waiting to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text.rpartition(")")[2].split()[0] != "Z"
