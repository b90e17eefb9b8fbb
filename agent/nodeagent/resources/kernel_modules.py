"""The modules section: kernel modules by what they are for, loaded, with the right parameters, or gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.resources import module_wishes
from nodeagent.resources.base import Obstacle, Wish
from nodeagent.resources.module_checks import Context, is_present
from nodeagent.resources.module_drift import pending_updates, reload_reason, unchangeable
from nodeagent.resources.module_graph import dependents, hard_needs, resolve
from nodeagent.resources.module_planning import Reload, obstacle, plan_changes, unload
from nodeagent.resources.module_sets import NOUVEAU, NVIDIA, NVIDIA_PEERMEM, RDMA_STACK, nvidia_gpus
from nodeagent.resources.module_verbs import plan_load, plan_reload, plan_unload
from nodeagent.resources.module_wishes import Wanted, wanted_modules
from nodeagent.resources.peer_memory import PeerChoice, choose, driver_is_open
from nodeagent.state.modules import Liveness
from nodeagent.state.things import Thing, module

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from nodeagent.resources.module_steps import UnloadModule
    from nodeagent.spec.schema import Modules, NodeSpec
    from nodeagent.state.modules import KernelModule
    from nodeagent.state.node import NodeState

__all__ = ["names_of_interest", "plan", "plan_load", "plan_reload", "plan_unload"]


def names_of_interest(spec: NodeSpec, names: Iterable[str] = (), state: NodeState | None = None) -> tuple[str, ...]:
    """Module names whose files planning wants to see.

    `names` are those given to a verb of the command line; with a state also what stands on them, which a reload takes
    along.
    """
    asked = module_wishes.expand(names)
    above = dependents(asked, state.modules) if state is not None else ()
    return tuple(dict.fromkeys((*module_wishes.names_of_interest(spec.modules), *asked, *above)))


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """What the modules section comes to on this node: unloads, then loads, one module each, in an order that works."""
    modules = spec.modules
    if modules is None:
        return Wish()
    peer = choose(modules, state)
    wanted = wanted_modules(modules, peer.module, state.module_files)
    gone = _absent(modules, wanted, state)
    there = _present(modules, wanted, gone, state)
    return Wish(
        steps=gone.steps + there.steps,
        obstacles=gone.obstacles + there.obstacles + _peer_obstacles(peer, modules, state),
        remarks=gone.remarks + _remarks(peer, wanted, there, state),
        decided=_decided(modules, wanted, state),
    )


def _decided(modules: Modules, wanted: Iterable[Wanted], state: NodeState) -> tuple[Thing, ...]:
    """What is wanted, what must be absent, and what cannot be there without that."""
    files = state.module_files
    absent = {resolve(name, files) for name in modules.absent}
    above = {name for name in files if absent.intersection(hard_needs(name, files))}
    return tuple(module(name) for name in sorted(absent | above | {entry.name for entry in wanted}))


def _present(modules: Modules, wanted: Sequence[Wanted], gone: Wish, state: NodeState) -> Wish:
    leaving = {step.subject.name for step in gone.steps}
    loads = [entry for entry in wanted if not is_present(entry.name, state)]
    live = [entry for entry in wanted if entry.name in state.modules and is_present(entry.name, state)]
    fixed = {entry.name: problem for entry in live if (problem := unchangeable(entry, state))}
    reloads = [
        Reload(entry, reason)
        for entry in live
        if entry.name not in fixed and (reason := reload_reason(entry, modules, state))
    ]
    reloads += _stack_reloads(reloads, state)
    names = {reload.wanted.name for reload in reloads}
    wish = plan_changes(loads, reloads, Context(modules, state, leaving, names))
    obstacles = tuple(obstacle(entry, fixed[entry.name]) for entry in live if entry.name in fixed)
    return Wish(wish.steps, wish.obstacles + obstacles)


def _stack_reloads(reloads: Iterable[Reload], state: NodeState) -> list[Reload]:
    """With another RDMA stack everything below the drivers has to be exchanged too."""
    reloads = tuple(reloads)
    swapped = next((entry for entry in reloads if "modules.rdma.stack" in entry.reason), None)
    if swapped is None:
        return []
    named = {entry.wanted.name for entry in reloads}
    below = {name for entry in reloads for name in hard_needs(entry.wanted.name, state.module_files)}
    return [
        Reload(Wanted(name, swapped.wanted.unit, f"needed by {swapped.wanted.name}"), swapped.reason)
        for name in sorted(below)
        if name in RDMA_STACK and name not in named and name in state.modules
    ]


def _absent(modules: Modules, wanted: Iterable[Wanted], state: NodeState) -> Wish:
    """Unload what must not be there with all that stands on it; nothing of it is ever to come back."""
    names = {entry.name for entry in wanted}
    steps: dict[str, UnloadModule] = {}
    obstacles: list[Obstacle] = []
    remarks: list[str] = []
    for name in dict.fromkeys(resolve(asked, state.module_files) for asked in modules.absent):
        unit, found = f"modules/absent/{name}", state.modules.get(name)
        remarks += _comes_back(name, state)
        if found is None:
            continue
        chain = dependents((name,), state.modules)
        problem = _stays(found, chain, names, state)
        if problem is not None:
            obstacles.append(Obstacle(unit, module(name), problem[0], problem[1], waits=problem[2]))
            continue
        remarks += _console(found)
        for one in chain:
            reason = "modules.absent names it" if one == name else f"stands on {name}, which modules.absent names"
            steps.setdefault(one, unload(one, unit, reason, state))
    return Wish(tuple(steps.values()), tuple(obstacles), tuple(remarks))


def _stays(
    found: KernelModule, chain: Iterable[str], wanted: Iterable[str], state: NodeState
) -> tuple[str, str, bool] | None:
    """Why a module cannot go: problem, advice, and whether time may solve it."""
    if found.liveness is Liveness.BUILTIN:
        return (
            "is built into the kernel and cannot be removed",
            f"add initcall_blacklist or boot without {found.name}",
            False,
        )
    if found.liveness is not Liveness.LIVE:
        return f"is {found.liveness} in the kernel", "if it stays so, read the kernel log", True
    if state.kernel.modules_disabled:
        return "kernel.modules_disabled is 1, nothing can be removed any more", "reboot", False
    clash = [name for name in chain if name in set(wanted)]
    if clash:
        return f"modules.absent names it, yet {clash[0]} is wanted", "take one of them out of the node file", False
    return None


def _comes_back(name: str, state: NodeState) -> list[str]:
    file = state.module_files.get(name)
    if file is None or not file.aliases or file.blacklisted or name in state.kernel.command_line_blacklist:
        return []
    return [f"module {name} is not blacklisted, so udev may load it again; add `blacklist {name}` to modprobe.d"]


def _console(found: KernelModule) -> list[str]:
    if found.name != NOUVEAU or not found.foreign_references:
        return []
    count = found.foreign_references
    text = (
        f"module {NOUVEAU} has {count} reference(s) that are no modules, often the framebuffer console; if it stays, "
        "write 0 to bind of the vtconsole that is a frame buffer device, or blacklist it and reboot"
    )
    return [text]


def _peer_obstacles(peer: PeerChoice, modules: Modules, state: NodeState) -> tuple[Obstacle, ...]:
    if not peer.problem:
        return ()
    waits = modules.nvidia is not None and driver_is_open(modules, state) is None
    return (Obstacle("modules/peermem", module(peer.module or NVIDIA_PEERMEM), peer.problem, peer.advice, waits=waits),)


def _remarks(peer: PeerChoice, wanted: Iterable[Wanted], wish: Wish, state: NodeState) -> tuple[str, ...]:
    changing = {step.subject.name for step in wish.steps}
    remarks = [peer.why] if peer.why else []
    remarks += pending_updates((entry for entry in wanted if entry.name not in changing), state)
    if NVIDIA in changing:
        remarks += _gpu_remarks(state)
    return tuple(remarks)


def _gpu_remarks(state: NodeState) -> list[str]:
    gpus = nvidia_gpus(state)
    if state.pci and not gpus:
        return ["there is no NVIDIA GPU on the PCI bus, so module nvidia may refuse with ENODEV"]
    return [
        f"{address} is driven by {driver} and stays with it" for address, driver in gpus.items() if driver == "vfio_pci"
    ]
