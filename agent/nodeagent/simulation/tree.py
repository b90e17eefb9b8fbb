"""The file tree of the simulated node: what the kernel would show, rendered from its state, written where it differs.

`render` is pure. The writer replaces each file by rename, so that no reader sees half of one, and leaves alone what has
not changed: an open placeholder identifies its holder.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.host.files import rooted
from nodeagent.simulation import function_parts, tree_driver, tree_modules, tree_network, tree_pci
from nodeagent.simulation.holders import read_node, write_node
from nodeagent.simulation.tree_entry import Entry, Tree, line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nodeagent.simulation.kernel_state import KernelState
    from nodeagent.simulation.profiles import Profile

_LAST = "/initstate"  # a module counts as there once this file is: so it comes last and goes first
_CAPABILITIES = f"{paths.PROC_NVIDIA_CAPABILITIES}/"
# Folders of /dev that devtmpfs and udev fill, not the agent.
_OWN_NODES = ("nvidia-fs", "vhost-vdpa-", "uio")
_OWN_DEVICES = ("infiniband", "dri", "vfio", "nvidia-caps-imex-channels")


def render(profile: Profile, state: KernelState, uuids: Mapping[str, str]) -> Tree:
    """Everything the kernel shows; `uuids` are those of the GPUs by PCI address."""
    return {
        **tree_modules.render(state),
        **tree_pci.render(profile, state),
        **tree_network.render(profile, state),
        **function_parts.render(profile, state),
        **tree_driver.render(profile, state, uuids),
        **_processes(state),
        paths.SYS_PRODUCT_NAME: line(profile.product),
    }


def _processes(state: KernelState) -> Tree:
    tree: Tree = {}
    for fake in state.processes.values():
        folder = f"{paths.PROC}/{fake.pid}"
        cgroup = f"/system.slice/{fake.unit}" if fake.unit else "/user.slice"
        if fake.container:
            pod = f"kubepods-pod{fake.pod_uid.replace('-', '_')}.slice/" if fake.pod_uid else "system.slice/"
            cgroup = f"/{pod}cri-containerd-{fake.container}.scope"
        tree[f"{folder}/comm"] = Entry(fake.name[:15] + "\n")
        tree[f"{folder}/cmdline"] = Entry(fake.command.replace(" ", "\0") + "\0")
        tree[f"{folder}/cgroup"] = Entry(f"0::{cgroup}\n")
    return tree


class TreeWriter:
    """Brings the tree below one directory up to date; used under the node's lock only."""

    def __init__(self, directory: str, scratch: str) -> None:
        self._directory, self._scratch = directory, scratch

    def update(self, old: Tree, new: Tree) -> None:
        """Write what differs between two renderings; the disk must show the old one."""
        changed = [path for path, entry in new.items() if old.get(path) != entry]
        gone = [path for path in old if path not in new]
        self._write(new, changed, gone)

    def rebuild(self, new: Tree) -> None:
        """Bring the disk to this rendering whatever it shows, as after a kill in the middle of a change."""
        self._replace(new, (path for path in self._present() if not path.startswith(_CAPABILITIES)))

    def rebuild_capabilities(self, new: Tree) -> None:
        """The same for the files that follow the instances behind NVML rather than the kernel's state."""
        self._replace(new, self._below(paths.PROC_NVIDIA_CAPABILITIES))

    def _replace(self, new: Tree, present: Iterable[str]) -> None:
        gone = [path for path in present if path not in new]
        self._write(new, [path for path, entry in new.items() if not self._shows(path, entry)], gone)

    def _write(self, new: Tree, changed: list[str], gone: list[str]) -> None:
        for path in sorted(gone, key=lambda path: (not path.endswith(_LAST), path)):
            self._remove(self._at(path), new)
        for path in sorted(changed, key=lambda path: (path.endswith(_LAST), path)):
            self._put(self._at(path), new[path])

    def _put(self, place: str, entry: Entry) -> None:
        """One entry. A module brings hundreds of files: few system calls for each, folders only when one is missing."""
        if entry.node is not None:
            write_node(place, entry.node, self._scratch)
            return
        if entry.folder:
            os.makedirs(place, exist_ok=True)
            return
        temporary = self._link(entry.link) if entry.link else self._file(entry.content)
        try:
            os.rename(temporary, place)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(place), exist_ok=True)
            os.rename(temporary, place)

    def _file(self, content: bytes) -> str:
        descriptor = os.open(self._scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(descriptor, content)
        finally:
            os.close(descriptor)
        return self._scratch

    def _link(self, target: str) -> str:
        temporary = f"{self._scratch}.link"  # another name, or a file might be written through a link left by a kill
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(target, temporary)
        return temporary

    def _remove(self, place: str, new: Tree) -> None:
        """The file or link, and the folders that become empty, but for those that have an entry of their own."""
        folder = os.path.dirname(place)
        try:
            os.unlink(place)
        except IsADirectoryError:
            folder = place
        except FileNotFoundError:
            pass
        with suppress(OSError):  # not empty: it is still needed
            while folder != self._directory and folder[len(self._directory) :] not in new:
                os.rmdir(folder)
                folder = os.path.dirname(folder)

    def _shows(self, path: str, entry: Entry) -> bool:
        place = self._at(path)
        try:
            if entry.node is not None:
                return read_node(place, path) == entry.node
            if entry.link:
                return os.readlink(place) == entry.link
            if entry.folder:
                return os.path.isdir(place)
            if os.path.islink(place):
                return False
            with open(place, "rb") as file:
                return file.read() == entry.content
        except (OSError, ValueError):
            return False

    def _present(self) -> Iterator[str]:
        """Every file that only the kernel makes: sysfs, procfs, and the device nodes that come by themselves."""
        roots = [paths.SYS, paths.PROC, *(f"{paths.DEV}/{name}" for name in _OWN_DEVICES)]
        for root in roots:
            yield from self._below(root)
        with suppress(FileNotFoundError):
            made = [name for name in os.listdir(self._at(paths.DEV)) if name.startswith(_OWN_NODES)]
            yield from (f"{paths.DEV}/{name}" for name in made)

    def _below(self, root: str) -> Iterator[str]:
        for folder, names, files in os.walk(self._at(root)):
            links = [name for name in names if os.path.islink(os.path.join(folder, name))]
            if not names and not files:
                yield folder[len(self._directory) :]
            for name in (*files, *links):
                yield os.path.join(folder, name)[len(self._directory) :]

    def _at(self, path: str) -> str:
        return rooted(self._directory, path)
