"""Verb `modules`: list, load, unload and reload kernel modules by the same rules as `apply`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from nodeagent.cli.completing import module_names, offer
from nodeagent.cli.convergence import BLOCKED, add_disruption_option, carry_out, override, show_plan
from nodeagent.cli.output import emit, style_for
from nodeagent.cli.parsing import add_verb, nearest
from nodeagent.cli.show import modules_text, observed
from nodeagent.cli.target import Target, add_file_option, add_target_options, agents_nvml, spec_of, target_of
from nodeagent.errors import UsageError
from nodeagent.host.module_facts import read_modules
from nodeagent.plan.convergence import Goal, once, pod_socket, survey
from nodeagent.plan.model import Plan
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.plan.sequencer import Terms
from nodeagent.resources.base import Wish
from nodeagent.resources.kernel_modules import names_of_interest
from nodeagent.resources.module_sets import UNLOAD_ORDER, ModuleSet, canonical
from nodeagent.resources.module_steps import UnloadModule
from nodeagent.resources.module_verbs import plan_load, plan_reload, plan_unload
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.node import NodeState

_EPILOG = """\
A NAME is a module, or a set: nvidia (the whole GPU stack), rdma (the whole RDMA stack).
Nothing is touched when something holds on: the holder is named and the exit code is 6.

examples:
  nodeagent modules list
  nodeagent modules unload nvidia --dry-run
  nodeagent modules reload nvidia
  nodeagent modules load rdma gdrdrv
"""
_VERBS = {
    "list": "loaded modules of the GPU and RDMA stacks, and who holds them",
    "load": "load modules with all they need, in order",
    "unload": "unload modules and what stands on them, in order",
    "reload": "unload and load again, for new options or a new build",
}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("modules", help="list, load, unload or reload kernel modules safely", epilog=_EPILOG)
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    for name, text in _VERBS.items():
        verb = add_verb(verbs, name, common, text, _EPILOG)
        add_target_options(verb)
        if name == "list":
            verb.add_argument("--all", action="store_true", help="every loaded module")
            verb.set_defaults(run=run_list)
        else:
            offer(verb.add_argument("names", nargs="+", metavar="NAME", help="module or set"), module_names)
            verb.add_argument("--dry-run", action="store_true", help="show the plan and do nothing")
            add_file_option(verb)
            add_disruption_option(verb)
            verb.set_defaults(run=run_change, partial=False, wished="the modules are as asked")


def run_list(arguments: argparse.Namespace) -> int:
    known = tuple(dict.fromkeys(UNLOAD_ORDER))
    everything = observed(target_of(arguments), known)["modules"]
    modules = [entry for entry in everything if arguments.all or entry["name"] in known]
    style = style_for(arguments, sys.stdout)
    nothing = style("dim", "no module of the GPU and RDMA stacks is loaded")
    emit({"modules": modules}, arguments.output, lambda: modules_text(modules, style) or nothing)
    return 0


def run_change(arguments: argparse.Namespace) -> int:
    target = target_of(arguments)
    spec = _spec(arguments, target)
    _refuse_unknown(arguments.names, target, may_lack=arguments.operation == "load")
    goal = _goal(arguments, spec, agents_nvml(target) if arguments.dry_run else ())
    if arguments.dry_run:
        with target.observer(spec.loop.nvml_deadline_seconds) as observer:
            state, plan = survey(observer, goal)
        show_plan(plan, state, arguments)
        return BLOCKED if any(entry.blockers for entry in plan.blocked) else 0

    def proof(plan: Plan) -> Goal:
        return _loaded_again(goal, plan, spec) if arguments.operation == "reload" else goal

    with target.lock(), target.observer(spec.loop.nvml_deadline_seconds) as observer:
        return carry_out(goal, observer, arguments, lambda goal, context: once(goal, proof, context))


def _refuse_unknown(names: Sequence[str], target: Target, *, may_lack: bool) -> None:
    """UsageError for a name that is no set, is not loaded and has no file: it is a slip then.

    With `may_lack` only where a near name is known: the plan says which package a module without a file comes from.
    """
    with target.observer() as observer:
        host = observer.host
        loaded = read_modules(host.files)
        ours = dict.fromkeys(UNLOAD_ORDER)
        known = {*ModuleSet, *loaded, *(ours if may_lack else ())}
        unknown = [name for name in names if canonical(name) not in known and not host.kmod.lookup(name)]
    slips = {name: nearest(canonical(name), {*known, *ours}) for name in unknown}
    refused = [name for name, meant in slips.items() if meant or not may_lack]
    if refused:
        meant = slips[refused[0]]
        there = ", ".join([one for one in ours if one in loaded] or sorted(loaded)) or "none"
        advice = f"did you mean {meant}? " if meant else ""
        raise UsageError(
            f"module {refused[0]}: there is no such module or set; {advice}loaded are {there}; "
            f"sets are {', '.join(ModuleSet)}"
        )


def _spec(arguments: argparse.Namespace, target: Target) -> NodeSpec:
    """The node file gives parameters and policies; without one, defaults apply."""
    if arguments.file or os.path.exists(target.default_file):
        return spec_of(arguments, target)[0]
    return NodeSpec(version=1)


def _goal(arguments: argparse.Namespace, spec: NodeSpec, own_pids: tuple[int, ...]) -> Goal:
    names = tuple(name.replace("-", "_") for name in arguments.names)
    wish: Mapping[str, Callable[[NodeState], Wish]] = {
        "load": lambda state: plan_load(names, spec, state),
        "unload": lambda state: plan_unload(names, state),
        "reload": lambda state: plan_reload(names, state, spec),
    }
    disruption = override(spec.disruption, arguments.disruption)
    terms = Terms(disruption, (*KNOWN_SERVICES, *spec.services), own_pids=own_pids, guard=spec.guard)
    terms = replace(terms, pod_socket=pod_socket(spec.metrics))
    return Goal(lambda state: (wish[arguments.operation](state),), names_of_interest(spec, names), terms)


def _loaded_again(goal: Goal, plan: Plan, spec: NodeSpec) -> Goal:
    """What proves a reload: every module that the plan unloads is there."""
    steps = (step for transition in plan.transitions for step in transition.steps)
    names = tuple(dict.fromkeys(step.subject.name for step in steps if isinstance(step, UnloadModule)))
    return replace(goal, wishes=lambda state: (plan_load(names, spec, state),))
