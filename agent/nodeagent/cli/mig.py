"""Verb `mig`: look at MIG layouts, plan and apply them, and carry them over to and from other tools."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from nodeagent.cli.convergence import (
    BLOCKED,
    NOT_AS_WISHED,
    add_apply_options,
    add_disruption_option,
    carry_out,
    differences,
    show_plan,
)
from nodeagent.cli.mig_source import Source, checkpoint_source, counts_of, selected, source_of
from nodeagent.cli.mig_text import (
    alike,
    fit_text,
    gpu_document,
    profiles_document,
    profiles_text,
    show_text,
)
from nodeagent.cli.output import Style, count, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_file_option, add_target_options, agents_nvml, target_of
from nodeagent.errors import HostError
from nodeagent.plan.convergence import pod_socket, survey_owed
from nodeagent.plan.document import plan_document
from nodeagent.plan.journal import Journal
from nodeagent.plan.model import Plan
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.resources.mig_conflict import layouts
from nodeagent.resources.mig_export import devices_of, node_document, parted_document
from nodeagent.resources.mig_layout import slot_of
from nodeagent.resources.mig_names import UnknownNameError, resolve
from nodeagent.resources.mig_placement import Board, Wanted, refusal
from nodeagent.spec.mig_checkpoint import checkpoint_document
from nodeagent.spec.render import render
from nodeagent.spec.schema import Metrics
from nodeagent.state.gpu import Gpu
from nodeagent.state.node import NodeState
from nodeagent.state.pods import users_of

Run = Callable[[argparse.Namespace], int]

_EPILOG = """\
What is wanted comes from profiles (3g.20gb=1 1g.5gb=4), from --layout, from a file of nvidia-mig-parted with --config,
or from the section mig of a node file. Profiles are named as the driver names them, or by shape (3g, 1g, 1g.double).
Instances in use are never touched: what is in the way is named, with what could be had instead.

exit codes: 0 as wanted, 3 different, 6 blocked and nothing done

examples:
  nodeagent mig show
  nodeagent mig profiles
  nodeagent mig plan 3g=1 1g=4 --gpus 0,1
  nodeagent mig apply --layout all-balanced --gpus 0
  nodeagent mig apply -f mig-parted.yaml -c all-1g.5gb
  nodeagent mig assert -f mig-parted.yaml -c all-1g.5gb
  nodeagent mig export > current.yaml
  nodeagent mig checkpoint -f layout.json && nodeagent mig restore -f layout.json
  nodeagent mig fit 2g=1
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "mig", help="show, plan, apply, assert, export and restore MIG layouts", epilog=_EPILOG
    )
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    for name, (text, run, add) in _VERBS.items():
        verb = add_verb(verbs, name, common, text, _EPILOG)
        add_target_options(verb)
        verb.add_argument("--gpus", default="", help="indices, UUIDs, PCI addresses or products, with commas between")
        add(verb)
        verb.set_defaults(run=run)


def run_show(arguments: argparse.Namespace) -> int:
    state = _observed(arguments)
    gpus, style = selected(arguments, state), style_for(arguments, sys.stdout)
    document = {"gpus": [gpu_document(one, state) for one in gpus]}
    emit(document, arguments.output, lambda: show_text(gpus, state, style))
    return 0


def run_profiles(arguments: argparse.Namespace) -> int:
    document = profiles_document(selected(arguments, _observed(arguments)))
    style = style_for(arguments, sys.stdout)
    emit({"boards": document}, arguments.output, lambda: profiles_text(document, style))
    return 0


def run_plan(arguments: argparse.Namespace) -> int:
    state, plan = _survey(arguments, source_of)
    show_plan(plan, state, arguments)
    return 0 if plan.converged else NOT_AS_WISHED


def run_assert(arguments: argparse.Namespace) -> int:
    state, plan = _survey(arguments, source_of)
    style = style_for(arguments, sys.stdout)
    emit(plan_document(plan), arguments.output, lambda: _differences(plan, state, style))
    return 0 if plan.converged else NOT_AS_WISHED


def run_apply(arguments: argparse.Namespace) -> int:
    return _apply(arguments, source_of)


def run_restore(arguments: argparse.Namespace) -> int:
    return _apply(arguments, checkpoint_source)


def run_export(arguments: argparse.Namespace) -> int:
    gpus = selected(arguments, _observed(arguments))
    is_node_file = arguments.format == "node"
    document = node_document(gpus, exact=arguments.exact) if is_node_file else parted_document(gpus, arguments.label)
    text = render(document) if is_node_file else _parted_text(document)
    emit(document, "json" if arguments.output == "json" else "table", lambda: text.rstrip("\n"))
    return 0


def _parted_text(document: Mapping[str, Any]) -> str:
    import yaml

    text: str = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=120)
    return text


def run_checkpoint(arguments: argparse.Namespace) -> int:
    document = checkpoint_document(selected(arguments, _observed(arguments)))
    if not arguments.file:
        print(json.dumps(document, indent=2))
        return 0
    try:
        with open(arguments.file, "w", encoding="utf-8", opener=_private) as file:
            json.dump(document, file, indent=2)
            file.write("\n")
    except OSError as error:
        raise HostError("write checkpoint", arguments.file, (error.strerror or str(error)).lower()) from error
    return 0


def run_fit(arguments: argparse.Namespace) -> int:
    state = _observed(arguments)
    wants = counts_of(arguments.wants)
    document = [_fit(members, wants, state) for members in _same_use(selected(arguments, state))]
    style = style_for(arguments, sys.stdout)
    emit({"boards": document}, arguments.output, lambda: fit_text(document, style))
    return NOT_AS_WISHED if any(entry["problems"] for entry in document) else 0


def _apply(arguments: argparse.Namespace, read: Callable[..., Source]) -> int:
    target = target_of(arguments)
    source = read(arguments, target)
    if arguments.dry_run:
        state, plan = _survey(arguments, lambda _arguments, _target: source)
        show_plan(plan, state, arguments)
        return BLOCKED if any(entry.blockers for entry in plan.blocked) else 0
    goal = source.goal(arguments)
    with target.lock(), target.observer(source.spec.loop.nvml_deadline_seconds) as observer:
        return carry_out(goal, observer, arguments)


def _survey(arguments: argparse.Namespace, read: Callable[..., Source]) -> tuple[NodeState, Plan]:
    target = target_of(arguments)
    source = read(arguments, target)
    goal = source.goal(arguments, agents_nvml(target))
    with target.observer(source.spec.loop.nvml_deadline_seconds) as observer:
        state, plan, _ = survey_owed(goal, Journal(observer.host.files).read(), observer)
    return state, plan


def _observed(arguments: argparse.Namespace) -> NodeState:
    """The node with who runs on its instances, and which pods have them. HostError where the GPUs cannot be read."""
    with target_of(arguments).observer() as observer:
        state = observer.add_pods(observer.observe(()), pod_socket(Metrics()))
        state = observer.add_holders(state, KNOWN_SERVICES)
    for unknown in () if state.gpus else state.unknown:
        raise HostError("read", unknown.what, unknown.reason)
    return state


def _differences(plan: Plan, state: NodeState, style: Style) -> str:
    if plan.converged:
        return style("good", "the layout is as wanted")
    found = differences(plan, state, style)
    return "\n".join([style("warn", f"{count(len(found), 'difference')}, to be as wanted:"), *found])


def _same_use(gpus: tuple[Gpu, ...]) -> list[list[Gpu]]:
    """GPUs of one kind with the same instances in use, so that the same layouts are possible."""
    groups: dict[tuple[int, object], list[Gpu]] = {}
    for number, members in enumerate(alike(gpus)):
        for one in members:
            busy = tuple(sorted(slot_of(instance) for instance in one.instances if instance.in_use))
            groups.setdefault((number, (busy, one.mig_mode, str(devices_of(one)))), []).append(one)
    return list(groups.values())


def _fit(members: list[Gpu], wants: Mapping[str, int], state: NodeState) -> dict[str, Any]:
    one = members[0]
    entry: dict[str, Any] = {
        "gpus": [member.index for member in members],
        "product": one.product,
        "inUse": [
            f"{instance.profile} at {instance.placement.start} by {users_of(instance, state.processes)}"
            for instance in one.instances
            if instance.in_use
        ],
        "now": devices_of(one),
        "layouts": [],
        "problems": [],
    }
    if not one.profiles:
        return entry | {"problems": ["the driver lists its profiles once MIG is on"]}
    try:
        names = [resolve(name, one.profiles).profile.name for name, number in wants.items() for _ in range(number)]
    except UnknownNameError as error:
        return entry | {"problems": [f"{error.problem}; {error.advice}"]}
    board = Board.of(one.profiles, one.instances)
    found = [dict(layout) for layout in layouts(board, names, one.instances)]
    reason = "" if found else refusal(board, [Wanted(name) for name in names])
    problems = [] if found else [f"they do not fit: {reason}" if reason else "they do not fit beside what is in use"]
    return entry | {"layouts": found, "problems": problems}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _add_nothing(_parser: argparse.ArgumentParser) -> None:
    pass


def _add_wants(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wants", nargs="*", metavar="PROFILE=COUNT", help="devices wanted on each of the GPUs")
    parser.add_argument("--layout", default="", help="a layout by name, such as all-balanced (see `mig profiles`)")
    add_file_option(parser)
    parser.add_argument("-c", "--config", default="", metavar="LABEL", help="configuration in a nvidia-mig-parted file")
    parser.add_argument("-m", "--mode-only", action="store_true", help="only the MIG mode, not the instances")
    add_disruption_option(parser)


def _add_apply(parser: argparse.ArgumentParser) -> None:
    _add_wants(parser)
    add_apply_options(parser)


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=("mig-parted", "node"), default="mig-parted", help="form of the file")
    parser.add_argument("-l", "--label", default="current", help="label of the configuration (mig-parted)")
    parser.add_argument("--exact", action="store_true", help="name every instance with its place (node)")


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--file", default="", help="where to write it (default: the standard output)")


def _add_restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-f", "--file", required=True, help="the checkpoint")
    parser.add_argument("-m", "--mode-only", action="store_true", help="only the MIG mode, not the instances")
    add_disruption_option(parser)
    add_apply_options(parser)


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wants", nargs="*", metavar="PROFILE=COUNT", help="instances that shall be part of the layout")


_VERBS: Mapping[str, tuple[str, Run, Callable[[argparse.ArgumentParser], None]]] = {
    "show": ("a picture of the slices of each GPU, and who uses them", run_show, _add_nothing),
    "profiles": ("profiles with places and limits, and layouts by name", run_profiles, _add_nothing),
    "plan": ("what would be done, why, and who is in the way", run_plan, _add_wants),
    "apply": ("make the layout so, with the least change", run_apply, _add_apply),
    "assert": ("say whether the layout is so (exit 3 when not, and in what)", run_assert, _add_wants),
    "export": ("the present layout as a file", run_export, _add_export),
    "checkpoint": ("the present layout with places, as nvidia-mig-parted writes it", run_checkpoint, _add_checkpoint),
    "restore": ("make the layout as in a checkpoint", run_restore, _add_restore),
    "fit": ("which layouts are possible, with the instances in use in place", run_fit, _add_fit),
}
