"""What the command line's verbs on modules come to: load, unload and reload modules or whole sets by name."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, Wish
from nodeagent.resources.module_checks import Context, is_present
from nodeagent.resources.module_graph import dependents, resolve
from nodeagent.resources.module_planning import Reload, options_of, plan_changes, unload
from nodeagent.resources.module_sets import NVIDIA_PEERMEM, ModuleSet, canonical
from nodeagent.resources.module_wishes import Wanted, expand, wanted_modules
from nodeagent.resources.peer_memory import choose
from nodeagent.spec.schema import Modules, NvidiaModules, PeerMemory, RdmaModules
from nodeagent.state.modules import Liveness
from nodeagent.state.things import module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodeagent.spec.schema import NodeSpec
    from nodeagent.state.node import NodeState

ASKED = "asked for on the command line"


def plan_load(names: Sequence[str], spec: NodeSpec, state: NodeState) -> Wish:
    """Load modules or sets (see ModuleSet) with what the node file says about them; what is loaded stays as it is."""
    modules = spec.modules or Modules()
    wanted = [entry for name in names for entry in _entries(name, modules, state)]
    unique = {entry.name: entry for entry in reversed(wanted)}
    loads = [entry for entry in reversed(unique.values()) if not is_present(entry.name, state)]
    remarks = tuple(f"module {name} is loaded already" for name in unique if is_present(name, state))
    whole = _with_sets(names, modules)
    wish, peer = plan_changes(loads, [], Context(whole, state)), _peer_memory(names, whole, state)
    return Wish(wish.steps, wish.obstacles + peer.obstacles, remarks + peer.remarks)


def _peer_memory(names: Iterable[str], modules: Modules, state: NodeState) -> Wish:
    """Why this way to peer memory, or why there is none, where the set was asked for."""
    if ModuleSet.PEERMEM not in names:
        return Wish()
    found = choose(modules, state)
    if not found.problem:
        return Wish(remarks=(found.why,))
    return Wish(obstacles=(Obstacle("modules/peermem", module(NVIDIA_PEERMEM), found.problem, found.advice),))


def _entries(name: str, modules: Modules, state: NodeState) -> tuple[Wanted, ...]:
    """A set's modules as the node file or its defaults want them, or the one module of this name."""
    whole = _with_sets((name,), modules)
    known = wanted_modules(whole, choose(whole, state).module, state.module_files)
    if name in list(ModuleSet):
        kind = ModuleSet.RDMA if name == ModuleSet.OFED else name
        return tuple(replace(entry, reason=ASKED) for entry in known if entry.unit == f"modules/{kind}")
    resolved = resolve(name, state.module_files)
    mine = next((entry for entry in known if entry.name == resolved), Wanted(resolved, f"modules/{resolved}", ASKED))
    return (replace(mine, reason=ASKED, asked=name),)


def _with_sets(names: Iterable[str], modules: Modules) -> Modules:
    """The section with the named sets switched on, by their defaults where the node file does not mention them."""
    chosen = set(names)
    peers = PeerMemory.AUTO if modules.peermem is PeerMemory.NONE else modules.peermem
    return replace(
        modules,
        nvidia=modules.nvidia or (NvidiaModules() if ModuleSet.NVIDIA in chosen else None),
        rdma=modules.rdma or (RdmaModules() if chosen & {ModuleSet.RDMA, ModuleSet.OFED} else None),
        peermem=peers if ModuleSet.PEERMEM in chosen else modules.peermem,
        gdrcopy=modules.gdrcopy or ModuleSet.GDRCOPY in chosen,
        gds=modules.gds or ModuleSet.GDS in chosen,
    )


def plan_unload(names: Sequence[str], state: NodeState) -> Wish:
    """Unload modules or sets with every module that stands on them, users first; all of it or nothing."""
    chain, obstacles, remarks = _chain(names, state)
    asked, unit = set(expand(names)), _unit(names)
    steps = tuple(unload(name, unit, ASKED if name in asked else _stands(name, asked, state), state) for name in chain)
    return Wish(() if obstacles else steps, obstacles, remarks)


def plan_reload(names: Sequence[str], state: NodeState, spec: NodeSpec | None = None) -> Wish:
    """Unload modules or sets with all that stands on them and load the same again from disk; all of it or nothing.

    Options are those of the node file where it names parameters, else those of the last load.
    """
    chain, obstacles, remarks = _chain(names, state)
    if obstacles:
        return Wish((), obstacles, remarks)
    modules = (spec.modules if spec else None) or Modules()
    known = {entry.name: entry for entry in wanted_modules(modules, "", state.module_files)}
    reloads = [_again(name, _unit(names), known, state) for name in chain]
    wish = plan_changes([], reloads, Context(replace(modules, absent=()), state, (), chain))
    return Wish(() if wish.obstacles else wish.steps, wish.obstacles, remarks)


def _chain(names: Sequence[str], state: NodeState) -> tuple[tuple[str, ...], tuple[Obstacle, ...], tuple[str, ...]]:
    """Loaded modules in the order of unloading, what keeps them from it, and remarks on names that are not loaded."""
    removable = {name: found for name, found in state.modules.items() if found.liveness is not Liveness.BUILTIN}
    asked = [resolve(name, state.module_files) for name in expand(names)]
    chain = dependents(asked, removable)
    obstacles = [
        Obstacle(
            _unit(names),
            module(name),
            f"is {state.modules[name].liveness} in the kernel",
            "read the kernel log",
            waits=True,
        )
        for name in chain
        if state.modules[name].liveness is not Liveness.LIVE
    ]
    direct = [resolve(name, state.module_files) for name in names if name not in list(ModuleSet)]
    obstacles += [
        Obstacle(_unit(names), module(name), "is built into the kernel and cannot be removed")
        for name in direct
        if name not in removable and is_present(name, state)
    ]
    if state.kernel.modules_disabled and chain:
        text = "kernel.modules_disabled is 1, nothing can be removed any more"
        obstacles.append(Obstacle(_unit(names), module(chain[-1]), text, "reboot"))
    return chain, tuple(obstacles), _not_loaded(names, direct, chain, state)


def _not_loaded(names: Sequence[str], direct: Iterable[str], chain: Sequence[str], state: NodeState) -> tuple[str, ...]:
    missing = tuple(f"module {name} is not loaded" for name in direct if not is_present(name, state))
    if chain or missing:
        return missing
    return (f"nothing of {', '.join(names)} is loaded",)


def _unit(names: Iterable[str]) -> str:
    return "modules/" + "+".join(canonical(name) for name in names)


def _stands(name: str, asked: Iterable[str], state: NodeState) -> str:
    below = next((one for one in sorted(asked) if name in dependents((one,), state.modules)), "")
    return f"stands on {below}"


def _again(name: str, unit: str, known: Mapping[str, Wanted], state: NodeState) -> Reload:
    """Reload with the parameters of the node file, else with the options of the last load."""
    parameters = known[name].parameters if name in known else ()
    wanted = Wanted(name, unit, ASKED, parameters, asked=name)
    return Reload(wanted, ASKED, None if parameters else options_of(name, state))
