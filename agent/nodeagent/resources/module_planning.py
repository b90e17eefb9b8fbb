"""From single wanted modules to steps in order: what to load, what to reload, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.module_checks import Context, Problem, before_load, file_problem, is_present, with_needs
from nodeagent.resources.module_graph import dependents, hard_needs, load_order, soft_candidates
from nodeagent.resources.module_parameters import format_options
from nodeagent.resources.module_sets import CONFLICTS, GPU_STACK, canonical, load_rank, serves
from nodeagent.resources.module_steps import LoadModule, UnloadModule
from nodeagent.resources.module_wishes import Wanted
from nodeagent.state.things import module

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nodeagent.state.node import NodeState


@dataclass(frozen=True)
class Reload:
    """A loaded module that must be taken out and put in again, and why; `options` None: by the node file."""

    wanted: Wanted
    reason: str
    options: str | None = None


def obstacle(wanted: Wanted, problem: Problem) -> Obstacle:
    """A problem with one wanted module in the form that the plan shows."""
    return Obstacle(wanted.unit, module(wanted.name), problem.text, problem.advice, waits=problem.waits)


def plan_changes(loads: Sequence[Wanted], reloads: Sequence[Reload], context: Context) -> Wish:
    """Steps for all of them that nothing known prevents, and obstacles for the rest."""
    everything = (*loads, *(reload.wanted for reload in reloads))
    problems = {**_no_way_back(reloads, context), **find_problems(everything, context)}
    obstacles = tuple(obstacle(wanted, problems[wanted.name]) for wanted in everything if wanted.name in problems)
    loads = [wanted for wanted in loads if wanted.name not in problems]
    reloads = [reload for reload in reloads if reload.wanted.name not in problems]
    reloads += _between(loads, reloads, context)
    return Wish(steps=(*_unloads(reloads, context.state), *_loads(loads, reloads, context)), obstacles=obstacles)


def find_problems(everything: Iterable[Wanted], context: Context) -> Mapping[str, Problem]:
    """Problems by module; a module that needs one with a problem has one itself."""
    everything = tuple(everything)
    problems = {wanted.name: problem for wanted in everything if (problem := before_load(wanted, context))}
    for wanted in everything:
        needs = hard_needs(wanted.name, context.state.module_files)
        broken = [name for name in needs if name in problems and not is_present(name, context.state)]
        if broken and wanted.name not in problems:
            text = f"needs module {broken[0]}, which cannot be loaded now"
            problems[wanted.name] = Problem(text, "solve that first", waits=problems[broken[0]].waits)
    return problems


def _no_way_back(reloads: Iterable[Reload], context: Context) -> dict[str, Problem]:
    """Reloads that would take along a module which could not be loaded again: first there must be a way back."""
    found: dict[str, Problem] = {}
    state = context.state
    for reload in reloads:
        for name in dependents((reload.wanted.name,), state.modules)[:-1]:
            problem = file_problem(name, state) if name in state.module_files or name in GPU_STACK else None
            if problem is not None:
                text = f"module {name} stands on it and could not be loaded again: {problem.text}"
                found.setdefault(reload.wanted.name, Problem(text, problem.advice, problem.waits))
    return found


def _between(loads: Iterable[Wanted], reloads: Sequence[Reload], context: Context) -> list[Reload]:
    """Loaded modules between a reloaded one and another one of this plan, which needs them back or must go before them.

    What merely stands on a reloaded module is taken out before all acts and restored after them by whoever puts the
    plan in sequence; that is too early, and too late, for these.
    """
    state, why = context.state, "stands on what is reloaded"
    out = [reload.wanted.name for reload in reloads]
    unit = min((reload.wanted.unit for reload in reloads), default="")
    own = {*out, *context.leaving}
    needed = {name for wanted in loads for name in hard_needs(wanted.name, state.module_files)}
    needed |= {name for one in out for name in hard_needs(one, state.module_files)}
    return [
        Reload(Wanted(name, unit, why), why, options_of(name, state))
        for name in dependents(out, state.modules)
        if name not in own and (name in needed or own & set(dependents((name,), state.modules)))
    ]


def _unloads(reloads: Iterable[Reload], state: NodeState) -> tuple[Step, ...]:
    by_name = {reload.wanted.name: reload for reload in reloads}
    order = [name for name in dependents(by_name, state.modules) if name in by_name]
    return tuple(unload(name, by_name[name].wanted.unit, by_name[name].reason, state) for name in order)


def unload(name: str, unit: str, reason: str, state: NodeState) -> UnloadModule:
    """The step that removes one module; it serves whom the modules that stand on it serve."""
    served = serves((name, *reversed(dependents((name,), state.modules))), state)
    return UnloadModule(subject=module(name), unit=unit, reason=reason, options=options_of(name, state), serves=served)


def options_of(name: str, state: NodeState) -> str:
    """The options a module was loaded with by our own record, else what modprobe would give it."""
    file = state.module_files.get(name)
    return state.loaded_options.get(name, file.options if file else "")


def _loads(loads: Iterable[Wanted], reloads: Iterable[Reload], context: Context) -> tuple[Step, ...]:
    loads, reloads = tuple(loads), tuple(reloads)
    state = context.state
    out = {reload.wanted.name for reload in reloads}
    roots = {wanted.name: wanted for wanted in (*(reload.wanted for reload in reloads), *loads)}
    present = {name for name in (*state.modules, *state.module_files) if is_present(name, state)} - out
    away = set(dependents(out, state.modules)) - out  # taken out before the acts, restored after them
    soft = _usable_soft([wanted.name for wanted in loads], present, away, context)
    owners = _owners(tuple(roots.values()), state)
    fixed = {reload.wanted.name: reload.options for reload in reloads if reload.options is not None}
    return tuple(
        _load(_entry(name, roots, owners), fixed.get(name), context)
        for name in load_order(roots, state.module_files, present, soft)
    )


def _usable_soft(
    names: Iterable[str], present: Iterable[str], away: Iterable[str], context: Context
) -> tuple[str, ...]:
    """Soft dependencies that may be loaded; one that cannot is passed over, as modprobe does."""
    files, away = context.state.module_files, frozenset(away)
    candidates = soft_candidates(names, files, set(present))
    return tuple(
        name for name in candidates if away.isdisjoint(hard_needs(name, files)) and with_needs(name, context) is None
    )


def _owners(roots: Sequence[Wanted], state: NodeState) -> Mapping[str, Wanted]:
    """For every hard dependency the first wanted module, in the order of loading, that needs it."""
    owners: dict[str, Wanted] = {}
    for wanted in sorted(roots, key=lambda entry: load_rank(entry.name)):
        for name in hard_needs(wanted.name, state.module_files):
            owners.setdefault(name, wanted)
    return owners


def _entry(name: str, roots: Mapping[str, Wanted], owners: Mapping[str, Wanted]) -> Wanted:
    """The wanted module itself, or an entry for what another one needs or would like to have."""
    if name in roots:
        return roots[name]
    if name in owners:
        return Wanted(name, owners[name].unit, f"needed by {owners[name].name}")
    return Wanted(name, f"modules/soft/{name}", "soft dependency by modprobe.d or modules.softdep")


def _load(wanted: Wanted, options: str | None, context: Context) -> LoadModule:
    files = context.state.module_files
    by_file = format_options(files[wanted.name].options, wanted.parameters)
    return LoadModule(
        subject=module(wanted.name),
        unit=wanted.unit,
        reason=wanted.reason,
        options=by_file if options is None else options,
        needs=hard_needs(wanted.name, files),
        behind=tuple(name for name in CONFLICTS.get(wanted.name, ()) if canonical(name) in context.leaving),
    )
