"""One NVML worker process as its owner sees it: start, ask with a deadline, end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from nodeagent import errors
from nodeagent.host.nvml_serve import pack, receive

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_MOMENT_SECONDS = 1.0  # a killed process goes at once, or it is in the kernel and may stay for ever
_NOT_INHERITED = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")


class WorkerLostError(Exception):
    """The worker ended without an answer; not a HostError, for the caller decides what it means."""


class Worker(Protocol):
    """What the pool of workers needs of one; the real one is `NvmlProcess`."""

    pid: int

    def ask(self, method: str, arguments: tuple[Any, ...], deadline_seconds: float) -> Any:
        """The method's result, or its HostError. TimeoutError: no answer in time. WorkerLostError: it ended."""

    def send(self, requests: Sequence[tuple[str, tuple[Any, ...]]], deadline_seconds: float) -> None:
        """Have several methods carried out one after the other; `next` is owed for each. Raises as `ask` does."""

    def next(self, deadline_seconds: float) -> Any:
        """The result of the next method that was sent, as from `ask`; the deadline begins now."""

    def alive(self) -> bool: ...

    def end(self) -> bool:
        """Kill it and wait a moment; False when the kernel does not let it go."""


@dataclass(frozen=True)
class Launch:
    """How to start a worker: the NVML library (None: the system's) and variables added to its environment."""

    library: str | None = None
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __call__(self) -> Worker:
        return NvmlProcess(self)


class NvmlProcess:
    """A worker process started afresh (never forked, so that it inherits no NVML state)."""

    def __init__(self, launch: Launch) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-s", "-m", "nodeagent.host.nvml_worker", str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    command + ([launch.library] if launch.library else []),
                    stdin=subprocess.DEVNULL,
                    env=_environment(launch.environment),
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                ours.close()
                raise errors.HostError("start", "nvml worker", str(error)) from error
        self._socket = ours
        self.pid = self._process.pid

    def ask(self, method: str, arguments: tuple[Any, ...], deadline_seconds: float) -> Any:
        self.send(((method, arguments),), deadline_seconds)
        return self.next(deadline_seconds)

    def send(self, requests: Sequence[tuple[str, tuple[Any, ...]]], deadline_seconds: float) -> None:
        self._socket.settimeout(deadline_seconds)
        with self._reported():
            self._socket.sendall(b"".join(map(pack, requests)))

    def next(self, deadline_seconds: float) -> Any:
        self._socket.settimeout(deadline_seconds)
        with self._reported():
            kind, value = receive(self._socket)
        if kind == "error":
            name, *rest = value
            raise getattr(errors, name)(*rest)
        return value

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            raise WorkerLostError(self._last_words()) from error

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(_MOMENT_SECONDS)
            return f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"it exited with {code}"
        return "it closed its socket"

    def alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> bool:
        self._socket.close()
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_MOMENT_SECONDS)
        return not self.alive()


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """Ours without what speaks to systemd in our name, and with this package in reach of the worker."""
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, kept.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), **added}
