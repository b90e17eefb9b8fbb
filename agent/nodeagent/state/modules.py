"""Kernel modules: what is loaded, what lies on disk, and what the kernel permits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Liveness(StrEnum):
    """State of a module in the kernel (/sys/module/M/initstate; builtin by modules.builtin)."""

    LIVE = "live"
    COMING = "coming"
    GOING = "going"
    BUILTIN = "builtin"


@dataclass(frozen=True)
class KernelModule:
    """One module in the running kernel; names use underscores.

    `refcount` is None where the kernel does not say. `parameters` holds only those that can be read after loading,
    as (name, text) sorted by name; for nvidia they come from /proc/driver/nvidia/params.
    """

    name: str
    liveness: Liveness
    refcount: int | None = None
    holders: tuple[str, ...] = ()
    version: str = ""
    srcversion: str = ""
    parameters: tuple[tuple[str, str], ...] = ()
    taint: str = ""

    @property
    def foreign_references(self) -> int:
        """References that are not other modules: open files, memory registrations, sockets, symbol_get."""
        return max(0, (self.refcount or 0) - len(self.holders))


@dataclass(frozen=True)
class ModuleFile:
    """One module as modprobe would find it: the file, its modinfo and the configuration that applies to it.

    `depends` are the hard dependencies by modules.dep, all levels, in load order. `options` is the concatenated text of
    every `options` line. `install_command`/`remove_command` replace the load/unload when not empty. `imports` are the
    undefined symbols with the CRC the file expects (0 without modversions).
    """

    name: str
    path: str
    version: str = ""
    srcversion: str = ""
    vermagic: str = ""
    license: str = ""
    signer: str = ""
    builtin: bool = False
    blacklisted: bool = False
    parameters: tuple[str, ...] = ()
    depends: tuple[str, ...] = ()
    softdeps_pre: tuple[str, ...] = ()
    softdeps_post: tuple[str, ...] = ()
    options: str = ""
    install_command: str = ""
    remove_command: str = ""
    aliases: tuple[str, ...] = ()
    imports: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class KernelPolicy:
    """What the running kernel permits; `lockdown` is none, integrity or confidentiality."""

    release: str = ""
    boot_id: str = ""
    lockdown: str = "none"
    signature_enforced: bool = False
    modules_disabled: bool = False
    command_line_blacklist: tuple[str, ...] = ()
    peer_memory_owner: str = ""  # module that exports ib_register_peer_memory_client, "" when none does
