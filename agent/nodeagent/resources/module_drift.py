"""Whether a loaded module is as the node file wants it: parameters, flavour, stack, build."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.resources.module_checks import Problem
from nodeagent.resources.module_parameters import drift, unknown_parameter
from nodeagent.resources.module_sets import NVIDIA, OFED_MARK, RDMA_STACK, ModuleSet
from nodeagent.spec.schema import Flavor, Modules, RdmaStack
from nodeagent.state.modules import Liveness

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodeagent.resources.module_wishes import Wanted
    from nodeagent.state.node import NodeState

NVIDIA_UNIT = f"modules/{ModuleSet.NVIDIA}"


def reload_reason(wanted: Wanted, modules: Modules, state: NodeState) -> str:
    """Why a live module must be loaded anew, "" if it is as wanted."""
    reasons = [
        *drift(wanted.name, wanted.parameters, state).different,
        *_flavor(wanted.name, modules, state),
        *_stack(wanted.name, modules, state),
        *_update(wanted, modules, state),
    ]
    return "; ".join(reasons)


def unchangeable(wanted: Wanted, state: NodeState) -> Problem | None:
    """What is wrong with a loaded module and cannot be put right by a reload that we may decide on."""
    found, loaded = drift(wanted.name, wanted.parameters, state), state.modules[wanted.name]
    file = state.module_files.get(wanted.name)
    if loaded.liveness is Liveness.BUILTIN and (found.different or found.unreadable):
        text = "; ".join(found.different) or f"parameter {found.unreadable[0]} cannot be read"
        return Problem(f"is built into the kernel: {text}", "give it on the kernel command line and reboot")
    unknown = unknown_parameter(found.unreadable[0], file) if found.unreadable and file else ""
    if found.unreadable and not unknown:
        names = ", ".join(found.unreadable)
        text = f"parameter {names} cannot be read back, and the agent did not load the module"
        return Problem(text, f"put it in force with `nodeagent modules reload {wanted.name}`")
    return None


def _flavor(name: str, modules: Modules, state: NodeState) -> Iterable[str]:
    if name != NVIDIA or modules.nvidia is None or state.driver is None:
        return
    loaded, wanted = Flavor.OPEN if state.driver.is_open else Flavor.PROPRIETARY, modules.nvidia.flavor
    if wanted not in (Flavor.AUTO, loaded):
        yield f"the {loaded} driver is loaded, modules.nvidia.flavor is {wanted}"


def _stack(name: str, modules: Modules, state: NodeState) -> Iterable[str]:
    if modules.rdma is None or name not in RDMA_STACK or not name.startswith("mlx5_"):
        return
    loaded, wanted = RdmaStack.OFED if state.is_loaded(OFED_MARK) else RdmaStack.INBOX, modules.rdma.stack
    if wanted not in (RdmaStack.AUTO, loaded):
        yield f"the {loaded} stack is loaded, modules.rdma.stack is {wanted}"


def _update(wanted: Wanted, modules: Modules, state: NodeState) -> Iterable[str]:
    builds = other_build(wanted.name, state)
    if builds and wanted.unit == NVIDIA_UNIT and modules.nvidia is not None and modules.nvidia.reload_on_update:
        yield f"{builds}, modules.nvidia.reload_on_update is set"


def other_build(name: str, state: NodeState) -> str:
    """How the loaded code differs from the file, "" if it does not: srcversion is the identity of the code."""
    loaded, file = state.modules.get(name), state.module_files.get(name)
    if loaded is None or file is None or not (loaded.srcversion and file.srcversion):
        return ""
    if loaded.srcversion == file.srcversion:
        return ""
    if loaded.version == file.version:
        return f"srcversion {loaded.srcversion} is loaded, {file.srcversion} on disk"
    return f"version {loaded.version or 'unknown'} is loaded, {file.version or 'unknown'} on disk"


def pending_updates(wanted: Iterable[Wanted], state: NodeState) -> tuple[str, ...]:
    """One remark per unit and difference for loaded modules whose file is another build."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in wanted:
        builds = other_build(entry.name, state)
        if builds:
            found.setdefault((entry.unit.split("/")[1], builds), []).append(entry.name)
    return tuple(
        f"{', '.join(names)}: {builds}; reload pending (nodeagent modules reload {_verb_name(unit, names)})"
        for (unit, builds), names in found.items()
    )


def _verb_name(unit: str, names: list[str]) -> str:
    return unit if unit in list(ModuleSet) else names[0]
