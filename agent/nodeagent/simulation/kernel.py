"""The simulated kernel: inserts and removes modules, takes writes to its files, and refuses as Linux does.

All processes that use one node share its state. A change is computed from the state under the node's lock, written in
one rename, and then shown in the file tree. Whoever is killed in between leaves a valid state and an outdated tree; the
next one to come sees that by the generation last shown and renders it again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from nodeagent.errors import UsageError
from nodeagent.host import paths
from nodeagent.simulation import attributes, pci_config_space, reactions
from nodeagent.simulation.file_write import Write
from nodeagent.simulation.holders import OpenDevice, open_devices, read_node, references, write_node
from nodeagent.simulation.kernel_state import Fault, KernelState, StateFile, edited
from nodeagent.simulation.module_table import known_modules
from nodeagent.simulation.profiles import RELEASE
from nodeagent.simulation.refusals import ERROR, Insertion, Refusal, fault_for, refuse_insertion, refuse_removal
from nodeagent.simulation.refused import refused
from nodeagent.simulation.tree import TreeWriter, render

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import LoadedModule, Policy
    from nodeagent.simulation.profiles import Profile
    from nodeagent.simulation.tree_entry import Tree
    from nodeagent.state.modules import Liveness, ModuleFile
    from nodeagent.state.processes import DeviceNode, DeviceNumber

PRIVATE = ".simulation"
"""Folder below the node's directory for what is not part of the node: state, lock, NVML machine."""

_NEVER_SHOWN = -1
OPERATIONS = ("insert", "remove", "write", "devlink", "restore", "settings", "read settings", "read addressing")


class Mirror(Protocol):
    """Something else that must follow the kernel's state: the machine behind NVML."""

    def follow(self, old: KernelState | None, new: KernelState) -> None:
        """Take over what changed; `old` is None when it is not known what was taken over before."""

    def marks(self, state: KernelState) -> tuple[object, ...]:
        """Equal for two moments between which no capability came or went."""

    def capabilities(self, state: KernelState) -> Tree:
        """Files of the kernel that follow the machine behind NVML."""


class Draft:
    """The state inside one transaction; assign to `state` to change it."""

    def __init__(self, state: KernelState) -> None:
        self.state = state

    def print(self, *lines: tuple[int, str]) -> None:
        """Write (level, text) lines to the kernel's log."""
        elapsed = time.time() - self.state.booted_at
        self.state = self.state.with_log(lines, max(0, round(elapsed * 1_000_000)))


class SimKernel:
    """The kernel of one node directory; implements `host.kmod.KernelCalls`. Safe to use from several processes."""

    def __init__(
        self, directory: str, profile: Profile, uuids: Mapping[str, str], mirror: Mirror | None = None
    ) -> None:
        private = os.path.join(directory, PRIVATE)
        self.directory, self.profile = directory, profile
        self._file = StateFile(private)
        self._known = known_modules(profile)
        self._uuids, self._mirror = uuids, mirror
        self._shown_path = os.path.join(private, "shown")
        self._scratch = os.path.join(private, "scratch")  # only ever used under the lock
        self._writer = TreeWriter(directory, self._scratch)
        self._rendered: tuple[int, Tree] = (_NEVER_SHOWN, {})
        self._capabilities: tuple[object, ...] | None = None  # what the files of this name were last shown for
        self._symbols: tuple[int, dict[str, tuple[str, ...]]] = (0, {})

    @property
    def state(self) -> KernelState:
        """The state as it is now. HostError when the node's directory is gone."""
        return self._file.read()

    def boot(self, state: KernelState) -> None:
        """Start with this state unless the node has one already; bring the tree up to date in either case."""
        with self._file.locked():
            if not self._file.exists():
                self._file.write(state)
            self._show(None, self._file.read())

    @contextmanager
    def transaction(self) -> Iterator[Draft]:
        """One change, alone among all processes; nothing is changed when the block raises."""
        with self._file.locked():
            old = self._file.read()
            draft = Draft(old)
            yield draft
            if draft.state != old:
                new = replace(draft.state, generation=old.generation + 1)
                self._file.write(new)
                self._show(old, new)

    def opened(self) -> tuple[OpenDevice, ...]:
        """Device nodes that real processes have open now."""
        return open_devices(self.directory)

    def open_numbers(self, state: KernelState) -> frozenset[DeviceNumber]:
        """Device numbers that anybody has open, real or fake."""
        fakes = (number for fake in state.processes.values() for number in fake.numbers)
        return frozenset([*(device.number for device in self.opened()), *fakes])

    # Modules.

    def insert(self, file: ModuleFile, options: str) -> None:
        """finit_module(2). OSError as drivers in the kernel and the kernel itself raise it; the log says why."""
        refusal = None
        with self.transaction() as draft:
            insertion = Insertion(draft.state, self.profile, file, options, self._known.get(file.name))
            refusal = refuse_insertion(insertion)
            if refusal is None:
                draft.state, lines = reactions.inserted(insertion, self._exports(file.name))
                draft.print(*lines)
            else:
                self._note(draft, refusal, "insert", file.name)
        if refusal is not None:
            raise refusal.error()

    def remove(self, name: str) -> None:
        """delete_module(2) with O_NONBLOCK. OSError: ENOENT, EAGAIN while referenced, EBUSY, EPERM."""
        refusal = None
        with self.transaction() as draft:
            refusal = refuse_removal(draft.state, name, references(draft.state, self.opened()))
            if refusal is None:
                draft.state, lines = reactions.removed(draft.state, self.profile, name)
                draft.print(*lines)
            else:
                self._note(draft, refusal, "remove", name)
        if refusal is not None:
            raise refusal.error()

    # Files and links.

    def make_node(self, node: DeviceNode) -> None:
        """Create or replace the placeholder of a device node, unless it already is as wanted. OSError."""
        place = self.directory + node.path
        with self._file.locked():
            with suppress(OSError):
                if read_node(place, node.path) == node:
                    return
            write_node(place, node, self._scratch)

    def write(self, path: str, text: str) -> None:
        """A write to a file below /sys or /proc. OSError: EACCES where it is read-only, ENOENT, or the refusal."""
        found = attributes.find_handler(path)
        if found is None:
            raise refused(attributes.READ_ONLY if self._exists(path) else attributes.ABSENT)
        handler, match = found
        if not self._exists(path):
            raise refused(attributes.ABSENT)
        self.strike("write", path)
        with self.transaction() as draft:
            opened = self.open_numbers(draft.state)
            draft.state = handler(Write(draft.state, self.profile, match, text, opened))

    def write_config(self, path: str, data: bytes, offset: int) -> None:
        """A write into a configuration space. OSError ENOENT for any other file; EPERM under lockdown."""
        if not self._exists(path):
            raise refused(attributes.ABSENT)
        with open(self.directory + path, "rb") as file:
            present = file.read()
        self.change(lambda state: pci_config_space.written(state, path.split("/")[-2], (present, data, offset)))

    def refresh_capabilities(self) -> None:
        """Bring the capability files up to date with instances that somebody made or destroyed through NVML."""
        if self._mirror is not None and self._mirror.marks(self.state) != self._capabilities:
            with self._file.locked():
                self._show_capabilities(self._file.read())

    def set_link(self, name: str, *, mtu: int | None = None, up: bool | None = None) -> None:
        """Change an interface. OSError ENODEV, or EINVAL for an MTU outside its limits."""
        self.change(lambda state: attributes.with_link(state, name, mtu=mtu, up=up))

    # What a test or a demonstration does to the node.

    def change(self, edit: Callable[[KernelState], KernelState]) -> None:
        """Replace the state by `edit(state)`."""
        with self.transaction() as draft:
            draft.state = edit(draft.state)

    def fail(self, operation: str, module: str, errno_: int, count: int = 1, lines: tuple[str, ...] = ()) -> None:
        """Let the next `count` calls of an operation on this module, file or device fail and log these lines."""
        if operation not in OPERATIONS:
            raise UsageError(f"simulate failure of {operation}: unknown operation; known are {', '.join(OPERATIONS)}")
        fault = Fault(operation, module, errno_, count, lines)
        self.change(lambda state: replace(state, faults=(*state.faults, fault)))

    def strike(self, operation: str, name: str) -> None:
        """Let a fault for this call happen if one is set. OSError with its errno, and its first line as the reason."""
        if not self.state.faults:
            return
        with self.transaction() as draft:
            fault = fault_for(draft.state, operation, name)
            if fault is not None:
                draft.state = replace(draft.state, faults=_used_up(draft.state.faults, operation, name))
                draft.print(*((ERROR, line) for line in fault.lines))
        if fault is not None:
            raise OSError(fault.errno, next(iter(fault.lines), os.strerror(fault.errno)))

    def clear_faults(self) -> None:
        """No call fails on demand any more, and no reference is pinned."""

        def edit(state: KernelState) -> KernelState:
            modules = {name: replace(module, pinned=0) for name, module in state.modules.items()}
            return replace(state, faults=(), modules=modules)

        self.change(edit)

    def pin(self, module: str, count: int = 1) -> None:
        """Take references that no scan can attribute; a negative count lets go. UsageError if it is not loaded."""
        self._edit_module(module, lambda found: replace(found, pinned=max(0, found.pinned + count)))

    def set_liveness(self, module: str, liveness: Liveness) -> None:
        """Leave a module hanging in its init or exit function. UsageError if it is not loaded."""
        self._edit_module(module, lambda found: replace(found, liveness=liveness))

    def set_policy(self, policy: Policy) -> None:
        """Boot with other rules: command line, lockdown, signatures, modules_disabled."""
        self.change(lambda state: replace(state, policy=policy))

    def log(self, text: str, level: int = ERROR) -> None:
        """Print one line to the kernel's log."""
        with self.transaction() as draft:
            draft.print((level, text))

    # Inside.

    def _edit_module(self, name: str, edit: Callable[[LoadedModule], LoadedModule]) -> None:
        with self.transaction() as draft:
            module = draft.state.modules.get(name)
            if module is None:
                loaded = ", ".join(draft.state.modules) or "none"
                raise UsageError(f"simulate on module {name}: it is not loaded; loaded are {loaded}")
            draft.state = replace(draft.state, modules=edited(draft.state.modules, **{name: edit(module)}))

    def _note(self, draft: Draft, refusal: Refusal, operation: str, name: str) -> None:
        draft.print(*refusal.lines)
        if refusal.is_fault:
            draft.state = replace(draft.state, faults=_used_up(draft.state.faults, operation, name))

    def _exports(self, name: str) -> tuple[str, ...]:
        """Symbols that the module's file exports, by the index that depmod made of the tree."""
        path = f"{self.directory}{paths.MODULE_TREES}/{RELEASE}/modules.symbols"
        changed = os.stat(path).st_mtime_ns
        if self._symbols[0] != changed:
            table: dict[str, tuple[str, ...]] = {}
            with open(path, encoding="utf-8") as file:
                for words in (line.split() for line in file if line.startswith("alias symbol:")):
                    owner = words[2].replace("-", "_")
                    table[owner] = (*table.get(owner, ()), words[1].removeprefix("symbol:"))
            self._symbols = (changed, table)
        return self._symbols[1].get(name, ())

    def _exists(self, path: str) -> bool:
        return os.path.lexists(self.directory + path)

    def _show(self, old: KernelState | None, new: KernelState) -> None:
        """Bring tree and mirror from the old state to the new one; from whatever they show if that is not the old."""
        shown = self._last_shown()
        if old is None and shown == new.generation:
            return
        is_known = old is not None and shown == old.generation
        if is_known and old is not None and not _is_visible(old, new):
            if self._rendered[0] == old.generation:
                self._rendered = (new.generation, self._rendered[1])
            self._remember_shown(new.generation)
            return
        tree = render(self.profile, new, self._uuids)
        if old is not None and is_known:
            self._writer.update(self._tree_of(old), tree)
        else:
            self._writer.rebuild(tree)
        if self._mirror is not None:
            self._mirror.follow(old if is_known else None, new)
        self._rendered = (new.generation, tree)
        self._show_capabilities(new)
        self._remember_shown(new.generation)

    def _show_capabilities(self, state: KernelState) -> None:
        if self._mirror is None:
            return
        marks = self._mirror.marks(state)
        if marks != self._capabilities:
            self._writer.rebuild_capabilities(self._mirror.capabilities(state))
        self._capabilities = marks

    def _tree_of(self, state: KernelState) -> Tree:
        generation, tree = self._rendered
        return tree if generation == state.generation else render(self.profile, state, self._uuids)

    def _last_shown(self) -> int:
        with suppress(OSError, ValueError), open(self._shown_path, encoding="ascii") as file:
            return int(file.read())
        return _NEVER_SHOWN

    def _remember_shown(self, generation: int) -> None:
        with open(self._scratch, "w", encoding="ascii") as file:
            file.write(str(generation))
        os.rename(self._scratch, self._shown_path)


def _is_visible(old: KernelState, new: KernelState) -> bool:
    """Whether a change shows in files: what is kept for virtual functions is told by netlink alone."""
    return replace(old, vf_settings=new.vf_settings, generation=new.generation) != new


def _used_up(faults: tuple[Fault, ...], operation: str, name: str) -> tuple[Fault, ...]:
    """The faults after the first one for this call has struck once."""
    left = list(faults)
    index = next(i for i, fault in enumerate(left) if (fault.operation, fault.module) == (operation, name))
    hit = left.pop(index)
    if hit.count > 1:
        left.insert(index, replace(hit, count=hit.count - 1))
    return tuple(left)
