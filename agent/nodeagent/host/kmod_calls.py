"""The two calls that change the kernel, and the commands that may stand in for them; each ends at a deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

from nodeagent.errors import DeadlineError, HostError
from nodeagent.host.kmod_errors import Operation
from nodeagent.host.kmod_index import load_library
from nodeagent.state.modules import ModuleFile

INT_BYTES = 4
OUTPUT_BYTES = 2000  # of a failed command's output, for the message
SUPERVISOR_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")  # a command must not speak for the agent


class LibkmodCalls:
    """host.kmod.KernelCalls on the running kernel: finit_module and delete_module through libkmod.

    Each call runs in a forked child. A module's init or exit function may hang in the kernel for ever, out of reach of
    signals; in the agent's own process it would take the reconcile loop with it, and the process could not even end.
    The child costs a fork of a small process (about a millisecond), against module loads of milliseconds to seconds.
    It closes every descriptor it inherited, so that it holds no device and no lock of ours.
    """

    def __init__(self, deadline_seconds: float) -> None:
        self.deadline_seconds = deadline_seconds
        self._kmod = load_library()
        self._abandoned: list[int] = []

    def insert(self, file: ModuleFile, options: str) -> None:
        """OSError with the kernel's errno, DeadlineError when the module's init does not return."""
        ffi, lib = self._kmod.ffi, self._kmod.lib
        out = ffi.new("struct kmod_module **")
        context = self._context()
        _check(lib.kmod_module_new_from_path(context, os.fsencode(file.path), out))
        try:
            text = options.encode()
            self._call(Operation.LOAD, file.name, lambda fd: int(lib.nodeagent_insert_in_child(out[0], text, fd)))
        finally:
            lib.kmod_module_unref(out[0])

    def remove(self, name: str) -> None:
        """OSError with the kernel's errno, DeadlineError when the module's exit does not return."""
        ffi, lib = self._kmod.ffi, self._kmod.lib
        out = ffi.new("struct kmod_module **")
        context = self._context()
        _check(lib.kmod_module_new_from_name(context, name.encode(), out))
        try:
            self._call(Operation.UNLOAD, name, lambda fd: int(lib.nodeagent_remove_in_child(out[0], fd)))
        finally:
            lib.kmod_module_unref(out[0])

    def _context(self) -> Any:
        """A context without any configuration: what to insert is known by its path."""
        ffi, lib = self._kmod.ffi, self._kmod.lib
        context = lib.kmod_new(ffi.NULL, ffi.new("char *[]", [ffi.NULL]))
        if context == ffi.NULL:
            raise HostError("open", "libkmod", "out of memory")
        lib.nodeagent_quiet(context)
        return ffi.gc(context, lib.kmod_unref)

    def _call(self, operation: Operation, name: str, start: Callable[[int], int]) -> None:
        self._abandoned = [pid for pid in self._abandoned if not _reaped(pid)]
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            pid = start(writing)
        finally:
            os.close(writing)
        try:
            _check(pid)
            answer = _read_until(reading, self.deadline_seconds)
        finally:
            os.close(reading)
        if answer is None:
            self._abandon(pid)
            waited = f"the kernel did not answer within {self.deadline_seconds:g} s"
            raise DeadlineError(
                operation, f"module {name}", waited, f"process {pid} may hang in it; see the kernel log"
            )
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        if len(answer) != INT_BYTES:
            raise HostError(operation, f"module {name}", "the child process that called the kernel was killed")
        _check(int.from_bytes(answer, byteorder="little", signed=True))

    def _abandon(self, pid: int) -> None:
        """SIGKILL ends the child unless it hangs in the kernel; then it is reaped when it comes back, if ever."""
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 0.2
        while not (gone := _reaped(pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        if not gone:
            self._abandoned.append(pid)


def run_command(operation: Operation, module: str, command: str, deadline_seconds: float) -> None:
    """Run an install or remove rule as modprobe does: by the shell, with MODPROBE_MODULE set.

    HostError when it fails, with the end of what it wrote; DeadlineError at the deadline, its processes killed.
    """
    subject = f"module {module}"
    environment = {name: value for name, value in os.environ.items() if name not in SUPERVISOR_VARIABLES}
    with tempfile.TemporaryFile() as output:  # not a pipe: a daemon the command leaves behind would keep that open
        child = subprocess.Popen(
            ["sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment | {"MODPROBE_MODULE": module},
            start_new_session=True,
        )
        try:
            status = child.wait(deadline_seconds)
        except subprocess.TimeoutExpired:
            _kill_session(child)
            waited = f"its command {command!r} did not end within {deadline_seconds:g} s"
            raise DeadlineError(operation, subject, waited) from None
        output.seek(0)
        told = output.read().decode("utf-8", "replace").strip()[-OUTPUT_BYTES:]
    if status:
        reason = f"its command {command!r} failed with status {status}" + (f": {told}" if told else "")
        raise HostError(operation, subject, reason, "see the install and remove lines in modprobe.d")


def _kill_session(child: subprocess.Popen[bytes]) -> None:
    """What hangs in the kernel does not die: it is not waited for longer than a moment."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(1)


def _read_until(descriptor: int, seconds: float) -> bytes | None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return os.read(descriptor, INT_BYTES) if poll.poll(seconds * 1000) else None


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
