"""Modules, device numbers, kernel policy and the kernel's log as sysfs and procfs show them; pure.

Sources: Documentation/ABI/stable/sysfs-module, proc(5), Documentation/ABI/testing/dev-kmsg, security/lockdown.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.simulation.profiles import RELEASE
from nodeagent.simulation.reactions import MISC_MAJOR
from nodeagent.simulation.tree_entry import Entries, Entry, Tree, line, link
from nodeagent.state.modules import Liveness

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import KernelState, LoadedModule, LogLine

_ALWAYS = ((1, "mem"), (4, "tty"), (5, f"{paths.DEV}/tty"), (10, "misc"), (13, "input"), (29, "fb"))
_WORDS = {Liveness.LIVE: "Live", Liveness.COMING: "Loading", Liveness.GOING: "Unloading"}
_MODULE_SPACE = 0xFFFFFFFFC0000000
_TAINTS = {"P": 1 << 0, "O": 1 << 12, "E": 1 << 13}


def render(state: KernelState) -> Tree:
    tree = {path: entry for module in state.modules.values() for path, entry in _module(state, module)}
    tree[paths.PROC_MODULES] = Entry(proc_modules(state, {}))
    tree[paths.PROC_KALLSYMS] = Entry(_kallsyms(state))
    tree[paths.PROC_DEVICES] = Entry(_devices(state))
    tree[paths.PROC_MISC] = Entry(_misc(state))
    tree[paths.DEV_KMSG] = Entry("".join(map(_record, state.log)))
    tree.update(_policy(state))
    return tree


def _module(state: KernelState, module: LoadedModule) -> Entries:
    folder = f"{paths.SYS_MODULE}/{module.name}"
    yield f"{folder}/initstate", line(module.liveness.value)
    yield f"{folder}/refcnt", line(shown_references(state, module.name, {}))
    yield f"{folder}/coresize", line(_size(module))
    yield f"{folder}/taint", line(module.taint)
    for name in ("version", "srcversion"):
        if getattr(module, name):
            yield f"{folder}/{name}", line(getattr(module, name))
    yield f"{folder}/holders", Entry(folder=True)  # there without holders too: `kmod list` opens it
    for holder in state.holders(module.name):
        place = f"{folder}/holders/{holder}"
        yield place, link(place, f"{paths.SYS_MODULE}/{holder}")
    for name in module.readable:
        yield f"{folder}/parameters/{name}", line(module.parameters.get(name, "") or "(null)")


def shown_references(state: KernelState, name: str, opened: dict[str, int]) -> int:
    """The count as sysfs shows it: -1 while the module is going."""
    going = state.modules[name].liveness is Liveness.GOING
    return -1 if going else state.references(name, opened)


def proc_modules(state: KernelState, opened: dict[str, int]) -> str:
    """Text of /proc/modules, the youngest first; `opened` counts open device files by module."""
    lines = []
    for module in sorted(state.modules.values(), key=lambda module: -module.serial):
        holders = state.holders(module.name)
        using = "".join(f"{holder}," for holder in holders) or "-"
        address = f"0x{_address(module):016x}"
        taint = f" ({module.taint})" if module.taint else ""
        count = shown_references(state, module.name, opened)
        lines.append(f"{module.name} {_size(module)} {count} {using} {_WORDS[module.liveness]} {address}{taint}\n")
    return "".join(lines)


def _size(module: LoadedModule) -> int:
    """A size in bytes that is always the same for a name, in whole pages."""
    return 4096 * (4 + zlib.crc32(module.name.encode()) % 500)


def _address(module: LoadedModule) -> int:
    return _MODULE_SPACE + module.serial * 0x400000


def _kallsyms(state: KernelState) -> str:
    rows = ["ffffffff81000000 T _stext\n", "ffffffff81100000 T printk\n"]
    for module in sorted(state.modules.values(), key=lambda module: module.serial):
        for step, symbol in enumerate(module.exports):
            rows.append(f"{_address(module) + 64 * step:016x} T {symbol}\t[{module.name}]\n")
    return "".join(rows)


def _devices(state: KernelState) -> str:
    given = {(region.major, region.name) for region in state.regions if region.major != MISC_MAJOR}
    rows = "".join(f"{major:3d} {name}\n" for major, name in sorted({*_ALWAYS, *given}))
    return f"Character devices:\n{rows}\nBlock devices:\n  8 sd\n259 blkext\n"


def _misc(state: KernelState) -> str:
    rows = [(region.first, region.name) for region in state.regions if region.major == MISC_MAJOR]
    return "".join(f"{minor:3d} {name}\n" for minor, name in sorted([*rows, (183, "hw_random")], reverse=True))


def _policy(state: KernelState) -> Tree:
    policy = state.policy
    modes = ("none", "integrity", "confidentiality")
    lockdown = " ".join(f"[{mode}]" if mode == policy.lockdown else mode for mode in modes)
    taint = {letter for module in state.modules.values() for letter in module.taint}
    return {
        paths.PROC_CMDLINE: line(policy.command_line),
        paths.PROC_OSRELEASE: line(RELEASE),
        paths.PROC_BOOT_ID: line(state.boot_id),
        paths.PROC_STAT: line(f"btime {int(state.booted_at)}"),
        paths.PROC_MODULES_DISABLED: line(int(policy.modules_disabled)),
        paths.PROC_TAINTED: line(sum(_TAINTS[letter] for letter in taint)),
        paths.SYS_LOCKDOWN: line(lockdown),
        paths.SYS_SIGNATURE_ENFORCED: line("Y" if policy.signature_enforced else "N"),
        paths.SYS_FIRMWARE_PATH: line(state.firmware_path),
    }


def _record(found: LogLine) -> str:
    """PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT, facility 0."""
    return f"{found.level},{found.sequence},{found.microseconds},-;{found.text}\n"
