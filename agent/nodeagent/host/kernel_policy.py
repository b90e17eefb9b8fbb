"""What the running kernel permits, and who exports the peer memory interface.

Sources: Documentation/admin-guide/kernel-parameters.txt, security/lockdown/lockdown.c, kernel/module/signing.c,
Documentation/admin-guide/sysctl/kernel.rst, mlnx-ofa_kernel drivers/infiniband/core/peer_mem.c.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping

from nodeagent.host.files import host_errors, rooted
from nodeagent.host.paths import (
    PROC_BOOT_ID,
    PROC_CMDLINE,
    PROC_KALLSYMS,
    PROC_MODULES_DISABLED,
    PROC_OSRELEASE,
    SYS_LOCKDOWN,
    SYS_SIGNATURE_ENFORCED,
)
from nodeagent.host.ports import Files
from nodeagent.state.modules import KernelModule, KernelPolicy

PEER_MEMORY_SYMBOL = re.compile(rb" ib_register_peer_memory_client(?:\t\[(\w+)\])?\n")
# ib_core up to OFED 5.8 and in some distributions' kernels, ib_uverbs from OFED 24.10, ib_peer_mem in OFED before 5.
PEER_MEMORY_MODULES = ("ib_core", "ib_uverbs", "ib_peer_mem")
BLOCK_SIZE = 1 << 16
BUILT_IN = "vmlinux"


def read_policy(files: Files, peer_memory_owner: str = "") -> KernelPolicy:
    """The policy in force; a file that this kernel does not have counts as permission. DeniedError if unreadable."""
    return KernelPolicy(
        release=files.read_optional(PROC_OSRELEASE) or "",
        boot_id=files.read_optional(PROC_BOOT_ID) or "",
        lockdown=parse_lockdown(files.read_optional(SYS_LOCKDOWN) or ""),
        signature_enforced=(files.read_optional(SYS_SIGNATURE_ENFORCED) or "").strip() == "Y",
        modules_disabled=(files.read_optional(PROC_MODULES_DISABLED) or "").strip() == "1",
        command_line_blacklist=parse_blacklist(files.read_optional(PROC_CMDLINE) or ""),
        peer_memory_owner=peer_memory_owner,
    )


def parse_lockdown(text: str) -> str:
    """`none [integrity] confidentiality` -> `integrity`; `none` where the kernel has no lockdown."""
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else "none"


def parse_blacklist(command_line: str) -> tuple[str, ...]:
    """Modules that `module_blacklist=` keeps the kernel itself from loading, with underscores, sorted."""
    values = (word.partition("=")[2] for word in command_line.split() if word.startswith("module_blacklist="))
    return tuple(sorted({name.replace("-", "_") for value in values for name in value.split(",") if name}))


class PeerMemoryOwner:
    """Who exports ib_register_peer_memory_client; /proc/kallsyms is large, so it is read anew only after a change."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[tuple[tuple[str, str], ...], str] = {}

    def among(self, modules: Mapping[str, KernelModule]) -> str:
        """The module's name, "" if none of those loaded exports it or symbols are not shown. HostError kinds."""
        candidates = tuple((name, modules[name].srcversion) for name in PEER_MEMORY_MODULES if name in modules)
        if not candidates:
            return ""
        if candidates not in self._known:
            self._known = {candidates: find_peer_memory_owner(_blocks(self._files))}
        return self._known[candidates]


def find_peer_memory_owner(blocks: Iterator[bytes]) -> str:
    """Search a symbol table that arrives in blocks of any size; `vmlinux` if it is part of the kernel image."""
    tail = b""
    for block in blocks:
        text = tail + block
        if found := PEER_MEMORY_SYMBOL.search(text):
            return (found.group(1) or BUILT_IN.encode()).decode()
        tail = text[text.rfind(b"\n") :] if b"\n" in text else text
    return ""


def _blocks(files: Files) -> Iterator[bytes]:
    """The symbol table piece by piece, so that its 10 MB are never in memory at once."""
    if not files.exists(PROC_KALLSYMS):
        return
    with host_errors("read", PROC_KALLSYMS), open(rooted(files.root, PROC_KALLSYMS), "rb", buffering=0) as table:
        yield from iter(lambda: os.read(table.fileno(), BLOCK_SIZE), b"")
