"""What containers get from the node: files of the driver, CDI specifications, container runtimes, labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


@dataclass(frozen=True)
class ContainerQuery:
    """What to look at: where the driver's files are ("" for /), CDI directories, runtimes, and any other files.

    `host_root` is where the agent sees the node's root directory, for the driver's files alone.
    """

    driver_root: str = ""
    host_root: str = ""
    cdi_directories: tuple[str, ...] = ()
    runtimes: bool = False
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Library:
    """A library of the driver; `links` are the symbolic links beside it that lead to it, as (path, target)."""

    path: str
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Installation:
    """User space of the driver below `root`. Paths are those a container sees, all of them seen to be there.

    `storage` is what programs that use GPUDirect Storage read besides. `others` are versions of libcuda that are there
    besides the loaded driver's. `hook` is nvidia-cdi-hook on the host.
    """

    root: str = ""
    version: str = ""
    libraries: tuple[Library, ...] = ()
    files: tuple[str, ...] = ()
    sockets: tuple[str, ...] = ()
    storage: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    hook: str = ""


@dataclass(frozen=True)
class CdiFile:
    """A CDI specification that is there; `problem` says why a runtime would not take it."""

    path: str
    text: str
    kind: str = ""
    devices: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()  # of the host, that its devices, mounts and hooks need
    problem: str = ""

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(frozen=True)
class RdmaNode:
    """A device node of an RDMA device; `port` is 0 where it serves all of them."""

    path: str
    port: int = 0


@dataclass(frozen=True)
class ConfigFile:
    """A configuration file as it is on disk; `problem` says why it cannot be read, `link` where it leads as a link."""

    text: str
    mode: int = 0o644
    link: str = ""
    problem: str = ""


class Owed(StrEnum):
    """What a runtime whose configuration we changed has still to be told, or is being told at this moment."""

    RESTART = "changed"
    RESTARTING = "restarting"
    RELOAD = "to be reloaded"
    RELOADING = "reloading"


@dataclass(frozen=True)
class Runtime:
    """An installed container runtime. `version` is empty where its program does not say.

    `files` are its configuration and what that imports, in the order in which they count. `owed`: it was changed by
    us and does not know it yet. `generated` is a configuration that another program writes at each start
    (k3s, RKE2). `nvidia_runtime`: nvidia-container-runtime is installed.
    """

    name: str
    version: str = ""
    files: Mapping[str, ConfigFile] = field(default_factory=lambda: MappingProxyType({}))
    active: bool = False
    owed: str = ""
    generated: str = ""
    nvidia_runtime: bool = False

    @property
    def reload_due(self) -> bool:
        """Whether a reload of its configuration is still to come, and is enough."""
        return self.owed in (Owed.RELOAD, Owed.RELOADING)

    @property
    def restart_due(self) -> bool:
        """Whether a restart is still to come."""
        return bool(self.owed) and not self.reload_due

    @property
    def release(self) -> tuple[int, ...]:
        """(1, 7, 24) of `1.7.24~ds1`; empty if unknown."""
        numbers = self.version.split("~")[0].split("-")[0].split("+")[0].split(".")
        return tuple(int(part) for part in numbers if part.isdecimal())


@dataclass(frozen=True)
class Containers:
    """All of it at one moment; `now` is in seconds since the epoch.

    `graphics` is keyed by PCI address, `rdma_nodes` by RDMA device, `texts` by path.
    """

    installation: Installation = field(default_factory=Installation)
    cdi_files: tuple[CdiFile, ...] = ()
    graphics: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    rdma_nodes: Mapping[str, tuple[RdmaNode, ...]] = field(default_factory=lambda: MappingProxyType({}))
    runtimes: Mapping[str, Runtime] = field(default_factory=lambda: MappingProxyType({}))
    texts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    machine: str = ""
    now: float = 0.0
