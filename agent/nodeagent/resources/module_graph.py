"""Orders of loading and unloading, computed from the module files and from what the running kernel shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from nodeagent.resources.module_sets import canonical, load_rank, unload_rank

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from nodeagent.state.modules import KernelModule, ModuleFile


def resolve(name: str, files: Mapping[str, ModuleFile]) -> str:
    """The module a name or alias stands for, as modprobe looks it up; the name itself where nothing matches."""
    wanted = canonical(name)
    if wanted in files:
        return wanted
    return next((key for key, file in sorted(files.items()) if _has_alias(file, name)), wanted)


def _has_alias(file: ModuleFile, name: str) -> bool:
    return any(fnmatchcase(name, alias) or fnmatchcase(canonical(name), canonical(alias)) for alias in file.aliases)


def hard_needs(name: str, files: Mapping[str, ModuleFile]) -> tuple[str, ...]:
    """Everything a module needs by modules.dep, all levels, dependencies before dependents, without itself."""
    order: list[str] = []
    pending = {name}

    def visit(current: str) -> None:
        file = files.get(current)
        for needed in file.depends if file else ():
            if needed not in pending:
                pending.add(needed)
                visit(needed)
                order.append(needed)

    visit(name)
    return tuple(order)


def dependents(names: Iterable[str], modules: Mapping[str, KernelModule]) -> tuple[str, ...]:
    """The loaded ones of these modules and all modules that hold them, directly or not, in the order of unloading."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in seen or name not in modules:
            return
        seen.add(name)
        for holder in sorted(modules[name].holders, key=_unload_key):
            visit(holder)
        order.append(name)

    for name in sorted(names, key=_unload_key):
        visit(name)
    return tuple(order)


def _unload_key(name: str) -> tuple[int, str]:
    return unload_rank(name), name


def load_order(
    roots: Iterable[str],
    files: Mapping[str, ModuleFile],
    present: Collection[str],
    soft: Collection[str],
) -> tuple[str, ...]:
    """All modules to insert for these roots, one after the other.

    As modprobe does: hard dependencies, soft dependencies before, the module, soft dependencies behind. Roots go in the
    order of the whole node (drivers: RDMA, then nvidia, then what joins them), equals in the order given. What is
    `present` is left out; only the names in `soft` are followed as soft dependencies.
    """
    walk = _Walk(files, frozenset(present), frozenset(soft))
    for name in sorted(roots, key=load_rank):
        walk.visit(name)
    while walk.deferred:
        walk.follow(walk.deferred.pop(0))
    return tuple(walk.order)


@dataclass
class _Walk:
    """Depth-first walk; `path` are the modules begun and not yet inserted."""

    files: Mapping[str, ModuleFile]
    present: frozenset[str]
    soft: frozenset[str]
    order: list[str] = field(default_factory=list)
    path: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)

    def visit(self, name: str) -> None:
        if name in self.present or name in self.order or name in self.path or name not in self.files:
            return
        file = self.files[name]
        self.path.append(name)
        for needed in file.depends:
            self.visit(needed)
        for before in file.softdeps_pre:
            self.follow(canonical(before))
        self.path.remove(name)
        self.order.append(name)
        for behind in file.softdeps_post:
            self.follow(canonical(behind))

    def follow(self, name: str) -> None:
        """Visit a soft dependency, later if it needs something that is only begun: modprobe would fail there."""
        if name not in self.soft or name in self.path:
            return
        if set(hard_needs(name, self.files)) & set(self.path):
            self.deferred.append(name)
        else:
            self.visit(name)


def soft_candidates(names: Iterable[str], files: Mapping[str, ModuleFile], present: Collection[str]) -> tuple[str, ...]:
    """Soft dependencies, all levels, of modules that are about to be loaded, as far as they have files."""
    found: list[str] = []
    pending = list(names)
    seen = set(pending) | set(present)
    while pending:
        name = pending.pop(0)
        file = files.get(name)
        if file is None:
            continue
        softs = [canonical(soft) for soft in (*file.softdeps_pre, *file.softdeps_post)]
        found.extend(soft for soft in softs if soft not in seen and soft in files)
        fresh = [other for other in (*file.depends, *softs) if other not in seen]
        seen.update(fresh)
        pending.extend(fresh)
    return tuple(dict.fromkeys(found))
