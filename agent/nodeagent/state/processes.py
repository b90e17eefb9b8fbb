"""Processes that keep devices open, device nodes, and services the agent knows how to stop and start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceNode:
    """A character device node below /dev; `mode` are the permission bits only."""

    path: str
    major: int
    minor: int
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, order=True)
class DeviceNumber:
    """Major and minor of a character device: the identity of a device, unlike its path."""

    major: int
    minor: int


@dataclass(frozen=True)
class Process:
    """A process that has device files open; container, pod and systemd unit are "" where its cgroup names none.

    `pod` is NAMESPACE/NAME where the kubelet's directories tell it.
    """

    pid: int
    name: str
    command: str = ""
    unit: str = ""
    container: str = ""
    pod_uid: str = ""
    opens: tuple[DeviceNumber, ...] = ()
    pod: str = ""

    def __str__(self) -> str:
        place = f" in container {self.container[:12]}" if self.container else f" of {self.unit}" if self.unit else ""
        pod = f" (pod {self.pod or self.pod_uid})" if self.pod_uid else ""
        return f"process {self.pid} ({self.command or self.name}){place}{pod}"


@dataclass(frozen=True)
class Service:
    """A systemd unit the agent may stop and start around a step; `active` by systemd's ActiveState."""

    unit: str
    active: bool
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class MemoryLock:
    """How much memory a service's process may lock (RLIMIT_MEMLOCK, soft), None for no limit."""

    unit: str
    pid: int
    soft_bytes: int | None
