"""What the modules section asks for: single modules with their unit, reason and parameters."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nodeagent.resources.module_graph import resolve
from nodeagent.resources.module_parameters import full_name, value_of
from nodeagent.resources.module_sets import (
    GDRDRV,
    GPU_STACK,
    MEMBERS,
    NV_PEER_MEM,
    NVIDIA,
    NVIDIA_DRM,
    NVIDIA_FS,
    NVIDIA_MODESET,
    NVIDIA_PEERMEM,
    NVIDIA_UVM,
    ModuleSet,
    canonical,
)
from nodeagent.spec.schema import Modules, PeerMemory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nodeagent.spec.schema import NvidiaModules, RdmaModules
    from nodeagent.state.modules import ModuleFile


@dataclass(frozen=True)
class Wanted:
    """One module that shall be loaded; `asked` is the name as it was written, `parameters` have full names.

    `clashes` are parameters that two places of the node file want differently.
    """

    name: str
    unit: str
    reason: str
    parameters: tuple[tuple[str, str], ...] = ()
    asked: str = ""
    clashes: tuple[str, ...] = field(default=())


def wanted_modules(modules: Modules, peer_module: str, files: Mapping[str, ModuleFile]) -> tuple[Wanted, ...]:
    """Every module the section wants, each once; `peer_module` is the outcome of peer_memory.choose."""
    found: dict[str, Wanted] = {}
    for entry in _all(modules, peer_module):
        resolved = _resolved(entry, files)
        found[resolved.name] = _merged(found[resolved.name], resolved) if resolved.name in found else resolved
    return tuple(found.values())


def _all(modules: Modules, peer_module: str) -> Iterator[Wanted]:
    if modules.rdma is not None:
        yield from (_of_set(ModuleSet.RDMA, name) for name in rdma_modules(modules.rdma))
    if modules.nvidia is not None:
        yield from _nvidia(modules.nvidia)
    if peer_module:
        yield _of_set(ModuleSet.PEERMEM, peer_module)
    if modules.gdrcopy:
        yield _of_set(ModuleSet.GDRCOPY, GDRDRV)
    if modules.gds:
        yield _of_set(ModuleSet.GDS, NVIDIA_FS)
    for name, entry in modules.named.items():
        unit = f"modules/named/{canonical(name)}"
        yield Wanted(name, unit, f"modules.named.{name} wants it", tuple(entry.parameters.items()))


def _of_set(kind: ModuleSet, name: str) -> Wanted:
    return Wanted(name, f"modules/{kind}", f"modules.{kind} wants it")


def _nvidia(section: NvidiaModules) -> Iterator[Wanted]:
    yield replace(_of_set(ModuleSet.NVIDIA, NVIDIA), parameters=tuple(section.parameters.items()))
    switches = ((NVIDIA_UVM, section.uvm), (NVIDIA_MODESET, section.modeset), (NVIDIA_DRM, section.drm))
    yield from (_of_set(ModuleSet.NVIDIA, name) for name, on in switches if on)


def rdma_modules(section: RdmaModules) -> tuple[str, ...]:
    """The modules of the RDMA section by name."""
    user_access = ("ib_uverbs", "rdma_ucm", "ib_umad") if section.user_access else ()
    return (*section.drivers, *user_access, *(("ib_ipoib",) if section.ipoib else ()))


def _resolved(entry: Wanted, files: Mapping[str, ModuleFile]) -> Wanted:
    name = resolve(entry.name, files)
    parameters = tuple((full_name(name, key, files.get(name)), value) for key, value in entry.parameters)
    return replace(entry, name=name, asked=entry.name, parameters=parameters)


def _merged(first: Wanted, second: Wanted) -> Wanted:
    """Two places want the same module: the first gives unit and reason, parameters add up."""
    known = dict(first.parameters)
    clashes = tuple(key for key, value in second.parameters if key in known and value_of(known[key]) != value_of(value))
    parameters = {**dict(second.parameters), **known}
    return replace(first, parameters=tuple(parameters.items()), clashes=first.clashes + clashes)


def names_of_interest(modules: Modules | None) -> tuple[str, ...]:
    """Names whose files planning wants to see; those the node file wants, and both peer memory modules for auto."""
    if modules is None:
        return ()
    named = [canonical(entry.name) for entry in _all(modules, "")]
    stack = GPU_STACK if NVIDIA in named else ()  # what a reload of the driver takes along needs a way back
    peers = _PEERS[modules.peermem]
    driver = (NVIDIA,) if modules.nvidia or peers or modules.gds or modules.gdrcopy else ()
    return tuple(dict.fromkeys(canonical(name) for name in (*named, *driver, *stack, *peers, *modules.absent)))


_PEERS = {
    PeerMemory.NONE: (),
    PeerMemory.DMA_BUF: (),
    PeerMemory.AUTO: (NVIDIA_PEERMEM, NV_PEER_MEM, "ib_core"),
    PeerMemory.NVIDIA_PEERMEM: (NVIDIA_PEERMEM,),
    PeerMemory.NV_PEER_MEM: (NV_PEER_MEM, "ib_core"),
}


def expand(names: Iterable[str]) -> tuple[str, ...]:
    """Set names by their members, module names as they are: for the verbs of the command line."""
    sets = {str(kind): kind for kind in ModuleSet}
    return tuple(
        dict.fromkeys(
            member for name in names for member in (MEMBERS[sets[name]] if name in sets else (canonical(name),))
        )
    )
