"""Processes that keep device files open, found in /proc by the device's number and not by its path.

A container may see a device under any path, so only the number identifies it (proc(5), /proc/PID/fd).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from nodeagent.errors import GoneError, HostError
from nodeagent.host.files import character_number, host_error, rooted
from nodeagent.host.paths import PROC
from nodeagent.host.pod_names import PodNames
from nodeagent.host.ports import Files
from nodeagent.host.process_facts import format_command, is_on_network, parse_cgroup, parse_network_mounts
from nodeagent.state.processes import DeviceNumber, Process

Mounts = tuple[tuple[str, bool], ...]
VANISHED = frozenset({errno.ENOENT, errno.ESRCH, errno.ENOTDIR})
FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


class ProcProcesses:
    """`ports.Processes` by /proc.

    `unreadable` are the PIDs whose open files the last `holding` was not allowed to see (it needs root, or
    CAP_SYS_PTRACE): what they hold is unknown, not nothing. Files in flight over sockets and mappings whose file was
    closed are invisible to it as well; the module's reference count still shows those.

    `number_of` tells the device number behind an open file; the simulated node gives its own.
    """

    def __init__(self, files: Files, number_of: Callable[[str], DeviceNumber | None] = character_number) -> None:
        self._files = files
        self._number_of = number_of
        self.unreadable: tuple[int, ...] = ()

    def holding(self, majors: Iterable[int]) -> tuple[Process, ...]:
        """As the port says. Processes that end meanwhile are absent; files on network mounts are never looked at."""
        wanted, unreadable, found = frozenset(majors), [], []
        mounts, pods = _MountTable(self._files), PodNames(self._files)
        for pid in self._pids() if wanted else ():
            try:
                opens = self._opens(pid, wanted, mounts)
            except PermissionError:
                unreadable.append(pid)
                continue
            if opens and (process := self._describe(pid, opens, pods)):
                found.append(process)
        self.unreadable = tuple(unreadable)
        return tuple(found)

    def describe(self, pids: Sequence[int]) -> tuple[Process, ...]:
        pods = PodNames(self._files)
        return tuple(process for pid in pids if (process := self._describe(pid, (), pods)))

    def _pids(self) -> Iterator[int]:
        return iter(sorted(int(name) for name in self._files.names(PROC) if name.isdecimal()))

    def _opens(self, pid: int, majors: Collection[int], mounts: _MountTable) -> tuple[DeviceNumber, ...]:
        """Device numbers a process has open. PermissionError if it may not be seen."""
        found: set[DeviceNumber] = set()
        remote = mounts.of(pid)
        for path in self._open_files(pid):
            number = self._number(path, remote)
            if number is not None and number.major in majors:
                found.add(number)
        return tuple(sorted(found))

    def _open_files(self, pid: int) -> list[str]:
        """Paths of the process's descriptors; those of its other threads if the first thread has ended."""
        directory = rooted(self._files.root, f"{PROC}/{pid}")
        found = _entries(f"{directory}/fd")
        if found:
            return found
        threads = [thread for thread in _entries(f"{directory}/task") if not thread.endswith(f"/{pid}")]
        return next(filter(None, (_entries(f"{thread}/fd") for thread in threads)), [])

    def _number(self, path: str, mounts: Mounts) -> DeviceNumber | None:
        try:
            if mounts and is_on_network(os.readlink(path), mounts):
                return None
            return self._number_of(path)
        except OSError as error:
            if error.errno in VANISHED | FORBIDDEN:
                return None
            raise host_error("look at", path, error) from error

    def _describe(self, pid: int, opens: tuple[DeviceNumber, ...], pods: PodNames) -> Process | None:
        try:
            name = self._files.read_optional(f"{PROC}/{pid}/comm")
            command = format_command(self._files.read_optional(f"{PROC}/{pid}/cmdline") or "")
            place = parse_cgroup(self._files.read_optional(f"{PROC}/{pid}/cgroup") or "")
        except GoneError:
            return None
        if name is None:
            return None
        pod = pods[place.pod_uid]
        return Process(pid, name, command, place.unit, place.container, place.pod_uid, opens, pod)


class _MountTable:
    """Network mounts as each process sees them, read once per mount namespace."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen: dict[str, Mounts] = {}

    def of(self, pid: int) -> Mounts:
        """Empty where no mount is on the network, or where the process may not be asked."""
        try:
            namespace = self._files.target(f"{PROC}/{pid}/ns/mnt") or ""
            if namespace not in self._seen:
                self._seen[namespace] = parse_network_mounts(self._files.read_optional(f"{PROC}/{pid}/mounts") or "")
        except HostError:
            return ()
        return self._seen[namespace]


def _entries(directory: str) -> list[str]:
    """Paths in a directory of /proc; none if the process has gone. PermissionError if it may not be seen."""
    try:
        return [f"{directory}/{name}" for name in os.listdir(directory)]
    except OSError as error:
        if error.errno in VANISHED:
            return []
        if error.errno in FORBIDDEN:
            raise
        raise host_error("list", directory, error) from error
