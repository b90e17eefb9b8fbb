"""When the simulated kernel says no to a module, with which errno and which line in its log; pure.

Sources: linux kernel/module/main.c (may_init_module, early_mod_check, simplify_symbols, delete_module),
kernel/module/signing.c, kernel/params.c; open-gpu-kernel-modules kernel-open/nvidia/nv.c (nv_module_init) and
nvidia-peermem.c. The order of the checks is the kernel's.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.simulation.module_table import PEER_SYMBOL, Kind, KnownModule, symbol_crc
from nodeagent.simulation.profiles import VERMAGIC
from nodeagent.state.modules import Liveness

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nodeagent.simulation.kernel_state import Fault, KernelState
    from nodeagent.simulation.profiles import Profile
    from nodeagent.state.modules import ModuleFile

ERROR, WARNING, NOTICE, INFO = 3, 4, 5, 6  # levels of syslog(2)

_BOOLEANS = frozenset("yYnN01")
_NUMBER = re.compile(r"-?(0[xX][0-9a-fA-F]+|\d+)")


@dataclass(frozen=True)
class Refusal:
    """The errno a call ends with and the (level, text) lines it leaves in the log; a fault is one set on demand."""

    errno: int
    lines: tuple[tuple[int, str], ...] = ()
    is_fault: bool = False

    def error(self) -> OSError:
        return OSError(self.errno, os.strerror(self.errno))


@dataclass(frozen=True)
class Insertion:
    """One finit_module call as the kernel sees it."""

    state: KernelState
    profile: Profile
    file: ModuleFile
    options: str
    known: KnownModule | None

    @property
    def name(self) -> str:
        return self.file.name


def refuse_insertion(insertion: Insertion) -> Refusal | None:
    """The first reason against inserting this module, None if it may live."""
    checks: tuple[Callable[[Insertion], Refusal | None], ...] = (
        _permission,
        _signature,
        _file_format,
        _already_there,
        _symbols,
        _parameter_values,
        _fault_at_insert,
        _initialisation,
    )
    return next((refusal for check in checks if (refusal := check(insertion)) is not None), None)


def refuse_removal(state: KernelState, name: str, opened: Mapping[str, int]) -> Refusal | None:
    """The first reason against removing this module; `opened` counts open device files by module."""
    module = state.modules.get(name)
    if state.policy.modules_disabled:
        return Refusal(errno.EPERM)
    if module is None:
        return Refusal(errno.ENOENT)
    if state.holders(name):
        return Refusal(errno.EAGAIN)
    if module.liveness is not Liveness.LIVE:
        return Refusal(errno.EBUSY)
    fault = fault_for(state, "remove", name)
    if fault is not None:
        return _struck(fault)
    if state.references(name, opened) > 0:
        return Refusal(errno.EAGAIN)
    return None


def fault_for(state: KernelState, operation: str, name: str) -> Fault | None:
    return next((fault for fault in state.faults if (fault.operation, fault.module) == (operation, name)), None)


def _struck(fault: Fault) -> Refusal:
    return Refusal(fault.errno, tuple((ERROR, line) for line in fault.lines), is_fault=True)


def split_options(options: str) -> Iterator[tuple[str, str | None]]:
    """`name=value` words as kernel/params.c parses them: quotes keep blanks together, `-` in names means `_`."""
    try:
        words = shlex.split(options, posix=True)
    except ValueError:  # the kernel does not mind a quote that is never closed
        words = options.split()
    for word in words:
        name, separator, value = word.partition("=")
        yield name.replace("-", "_"), value if separator else None


def parameter_kinds(insertion: Insertion) -> dict[str, Kind]:
    if insertion.known is not None and insertion.known.parameters:
        return {parameter.name: parameter.kind for parameter in insertion.known.parameters}
    return dict.fromkeys(insertion.file.parameters, Kind.CHARP)


def _permission(insertion: Insertion) -> Refusal | None:
    if insertion.state.policy.modules_disabled:
        return Refusal(errno.EPERM)
    if not os.path.exists(insertion.file.path):
        return Refusal(errno.ENOENT)
    if insertion.name in insertion.state.policy.blacklist:
        return Refusal(errno.EPERM, ((ERROR, f"Module {insertion.name} is blacklisted"),))
    return None


def _signature(insertion: Insertion) -> Refusal | None:
    policy = insertion.state.policy
    if insertion.file.signer:
        return None
    if policy.signature_enforced:
        return Refusal(errno.EKEYREJECTED, ((NOTICE, "Loading of unsigned module is rejected"),))
    if policy.lockdown != "none":
        text = "Lockdown: modprobe: unsigned module loading is restricted; see man kernel_lockdown.7"
        return Refusal(errno.EPERM, ((NOTICE, text),))
    return None


def _file_format(insertion: Insertion) -> Refusal | None:
    found = insertion.file.vermagic
    if found.split() == VERMAGIC.split():
        return None
    text = f"{insertion.name}: version magic '{found}' should be '{VERMAGIC}'"
    return Refusal(errno.ENOEXEC, ((ERROR, text),))


def _already_there(insertion: Insertion) -> Refusal | None:
    present = insertion.state.modules.get(insertion.name)
    if present is None:
        return None
    return Refusal(errno.EEXIST if present.liveness is Liveness.LIVE else errno.EBUSY)


def symbol_owners(state: KernelState) -> dict[str, str]:
    """Exported symbols of the modules that are live, with their owner."""
    live = (module for module in state.modules.values() if module.liveness is Liveness.LIVE)
    return {symbol: module.name for module in live for symbol in module.exports}


def _symbols(insertion: Insertion) -> Refusal | None:
    owners = symbol_owners(insertion.state)
    name = insertion.name
    for symbol, crc in insertion.file.imports:
        if symbol not in owners:
            return Refusal(errno.ENOENT, ((WARNING, f"{name}: Unknown symbol {symbol} (err -2)"),))
        if crc not in (0, symbol_crc(symbol)):
            lines = (
                f"{name}: disagrees about version of symbol {symbol}",
                f"{name}: Unknown symbol {symbol} (err -22)",
            )
            return Refusal(errno.EINVAL, tuple((WARNING, line) for line in lines))
        owner = insertion.state.modules[owners[symbol]]
        if insertion.known is not None and insertion.known.gpl_only and "GPL" not in owner.license:
            text = f"{name}: module using GPL-only symbols uses symbols {symbol} from proprietary module {owner.name}."
            return Refusal(errno.ENOENT, ((ERROR, text), (WARNING, f"{name}: Unknown symbol {symbol} (err -2)")))
    return None


def _parameter_values(insertion: Insertion) -> Refusal | None:
    kinds = parameter_kinds(insertion)
    for name, value in split_options(insertion.options):
        if name in kinds and not _fits(kinds[name], value):
            text = f"{insertion.name}: `{value or ''}' invalid for parameter `{name}'"
            return Refusal(errno.EINVAL, ((ERROR, text),))
    return None


def _fits(kind: Kind, value: str | None) -> bool:
    if kind is Kind.BOOL:  # param_set_bool: no value means yes, and only the start of the value counts
        return value is None or value[:1] in _BOOLEANS or value[:2].lower() in {"on", "of"}
    if kind is Kind.CHARP:
        return value is not None
    return value is not None and _NUMBER.fullmatch(value) is not None and (kind is Kind.INT or value[0] != "-")


def ignored_parameters(insertion: Insertion) -> tuple[tuple[int, str], ...]:
    """Lines about parameters that the module does not have: the kernel goes on without them."""
    kinds = parameter_kinds(insertion)
    unknown = (name for name, _ in split_options(insertion.options) if name not in kinds)
    return tuple((WARNING, f"{insertion.name}: unknown parameter '{name}' ignored") for name in unknown)


def _fault_at_insert(insertion: Insertion) -> Refusal | None:
    fault = fault_for(insertion.state, "insert", insertion.name)
    return None if fault is None else _struck(fault)


def _initialisation(insertion: Insertion) -> Refusal | None:
    """What the module's own init function refuses."""
    if insertion.name == "nvidia":
        return _nvidia_probe(insertion)
    if insertion.name not in {"nvidia_peermem", "nv_peer_mem"}:
        return None
    other = {"nvidia_peermem": "nv_peer_mem", "nv_peer_mem": "nvidia_peermem"}[insertion.name]
    built_with_api = PEER_SYMBOL in (symbol for symbol, _ in insertion.file.imports)
    if not built_with_api or other in insertion.state.modules:
        return Refusal(errno.EINVAL)  # both say nothing in the log
    return None


def owned_by_others(state: KernelState, profile: Profile) -> tuple[str, ...]:
    """GPUs that nvidia cannot probe: another driver is bound, or an override names another one."""
    taken = []
    for slot in profile.gpus:
        override = state.overrides.get(slot.pci_address, "nvidia")
        if state.drivers.get(slot.pci_address, "nvidia") != "nvidia" or override != "nvidia":
            taken.append(slot.pci_address)
    return tuple(taken)


def probe_lines(count: int) -> tuple[tuple[int, str], ...]:
    """NVRM's lines about devices whose probe routine was not called (nv.c, nv_module_init)."""
    if not count:
        return ()
    texts = (
        f"The NVIDIA probe routine was not called for {count} device(s).",
        "This can occur when another driver was loaded and obtained ownership of the NVIDIA device(s).",
        "Try unloading the conflicting kernel module, then try loading the NVIDIA kernel module again.",
    )
    return tuple((ERROR, f"NVRM: {text}") for text in texts)


def _nvidia_probe(insertion: Insertion) -> Refusal | None:
    gpus = len(insertion.profile.gpus)
    if not gpus:
        return Refusal(errno.ENODEV, ((ERROR, "NVRM: No NVIDIA GPU found."),))
    taken = len(owned_by_others(insertion.state, insertion.profile))
    if taken < gpus:
        return None
    return Refusal(errno.ENODEV, (*probe_lines(taken), (ERROR, "NVRM: No NVIDIA devices probed.")))
