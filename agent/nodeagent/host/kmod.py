"""Kernel modules through libkmod: what modprobe would do, taken apart into single insertions and removals."""

from __future__ import annotations

import os
import threading
from typing import Protocol

from nodeagent.errors import GoneError, HostError
from nodeagent.host import paths
from nodeagent.host.kernel_log import KmsgLog
from nodeagent.host.kmod_calls import LibkmodCalls, run_command
from nodeagent.host.kmod_errors import Operation, explain
from nodeagent.host.kmod_index import Found, ModuleIndex, canonical
from nodeagent.state.modules import ModuleFile

DEADLINE_SECONDS = 300.0  # nvidia starts every GPU's firmware while it loads; install rules may load whole stacks


class KernelCalls(Protocol):
    """What changes the kernel: one module per call. Both raise OSError with the errno of the system call."""

    def insert(self, file: ModuleFile, options: str) -> None:
        """finit_module(2) of this file with exactly these options."""

    def remove(self, name: str) -> None:
        """delete_module(2) with O_NONBLOCK; the name has underscores."""


class LibKmod:
    """ports.Kmod on the module tree and configuration below `root`; the kernel behind it is `calls`.

    Without `calls` it is the running kernel, wherever the tree lies: a container sees the host's files below /host.

    On the running kernel libkmod also obeys the kernel command line (`modprobe.blacklist=`, `module.option=value`), and
    does so for trees below another root as well.
    """

    def __init__(
        self,
        root: str = "/",
        release: str | None = None,
        calls: KernelCalls | None = None,
        deadline_seconds: float = DEADLINE_SECONDS,
    ) -> None:
        self.root = root.rstrip("/")
        self.release = release or os.uname().release
        self.deadline_seconds = deadline_seconds
        self.kernel_log = KmsgLog(root)
        self._calls = calls or LibkmodCalls(deadline_seconds)
        self._index = ModuleIndex(root, self.release)
        self._lock = threading.Lock()

    @classmethod
    def real(cls, deadline_seconds: float = DEADLINE_SECONDS) -> LibKmod:
        """The running kernel with the modules of its release. UnsupportedError when libkmod is missing."""
        return cls(deadline_seconds=deadline_seconds)

    def lookup(self, name: str) -> tuple[ModuleFile, ...]:
        """The modules `modprobe NAME` would insert, loaded or not, in order; empty if it knows no such name.

        Modules built into the kernel are in it with `builtin` set. Blacklisted ones are in it with `blacklisted` set:
        modprobe leaves them out only when it was asked by an alias or with -b. `install_command` is set only where it
        would really run instead of the insertion. A name may be an alias and stand for several modules.
        """
        return self._find(name).order

    def file(self, name: str) -> ModuleFile | None:
        """The module a name stands for, None if modprobe would not find it; of several, the first."""
        found = self._find(name)
        wanted = canonical(name)
        named = found.named if wanted not in found.named else (wanted,)
        return next((module for module in found.order if module.name in named[:1]), None)

    def load(self, name: str, options: str = "") -> None:
        """Insert this one module, or run its install rule; the options are passed as they are.

        The options of modprobe.d are not added (`file(name).options` has them). An install rule gets them where it says
        $CMDLINE_OPTS, may load whatever it likes, and counts as failed when the module is not live afterwards.
        """
        file = self._required(name)
        if file.install_command:
            command = file.install_command.replace("$CMDLINE_OPTS", options)
            run_command(Operation.LOAD, file.name, command, self.deadline_seconds)
        else:
            self._insert(file, options)
        self._verify(Operation.LOAD, file.name, "live")

    def unload(self, name: str) -> None:
        """Remove this one module, or run its remove rule. BusyError if held."""
        module = canonical(name)
        with self._lock:
            command = self._index.remove_command(module)
        if command:
            run_command(Operation.UNLOAD, module, command, self.deadline_seconds)
        else:
            self._remove(module)
        self._verify(Operation.UNLOAD, module, "")

    def _find(self, name: str) -> Found:
        with self._lock:
            return self._index.find(name)

    def _required(self, name: str) -> ModuleFile:
        file = self.file(name)
        subject = f"module {canonical(name)}"
        if file is None:
            missing = f"there is no such module for kernel {self.release}"
            raise GoneError(Operation.LOAD, subject, missing, "install the package that holds it, or run depmod -a")
        if file.builtin:
            raise HostError(Operation.LOAD, subject, "it is built into the kernel", "it needs no loading")
        return file

    def _insert(self, file: ModuleFile, options: str) -> None:
        mark = self.kernel_log.mark()
        try:
            self._calls.insert(file, options)
        except OSError as error:
            there = file if os.access(file.path, os.F_OK) else None
            lines = self.kernel_log.since(mark)
            raise explain(Operation.LOAD, file.name, error.errno or 0, lines, there) from error

    def _remove(self, module: str) -> None:
        mark = self.kernel_log.mark()
        try:
            self._calls.remove(module)
        except OSError as error:
            lines = self.kernel_log.since(mark)
            raise explain(Operation.UNLOAD, module, error.errno or 0, lines, None) from error

    def _verify(self, operation: Operation, module: str, expected: str) -> None:
        """Believe sysfs, not the call: a rule may do nothing, and someone may act at the same time.

        A tree without any sysfs (module files alone) has nothing to ask.
        """
        directory = self.root + paths.SYS_MODULE
        if not os.path.isdir(directory):
            return
        try:
            with open(f"{directory}/{module}/initstate", encoding="ascii") as file:
                state = file.read().strip()
        except OSError:
            state = ""
        if state != expected:
            wanted, got = expected or "gone", state or "not loaded"
            raise HostError(operation, f"module {module}", f"done, yet it is {got} instead of {wanted}")
