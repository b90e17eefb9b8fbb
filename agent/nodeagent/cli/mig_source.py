"""What the verbs of `mig` want: from words, a node file, a file of nvidia-mig-parted, or a checkpoint."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

from nodeagent.cli.convergence import override
from nodeagent.cli.target import Target, spec_of
from nodeagent.errors import UsageError
from nodeagent.plan.convergence import Goal, pod_socket
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.plan.sequencer import Terms
from nodeagent.resources import mig
from nodeagent.resources.base import Wish
from nodeagent.resources.kernel_modules import names_of_interest
from nodeagent.resources.mig_selection import ALL, select
from nodeagent.resources.mig_wanted import wanted_mode
from nodeagent.spec.mig_checkpoint import entries_of, read_checkpoint
from nodeagent.spec.mig_parted import CONFIGS, PartedEntry, entries_for, is_parted, parse_parted, places_for
from nodeagent.spec.names import gpu_selector
from nodeagent.spec.reader import parse_spec, read_text
from nodeagent.spec.schema import MigDrift, MigEntry, NodeSpec
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.node import NodeState

STANDARD_INPUT = "-"
AS_ASKED = "the layout is as asked"
_ENTRY = re.compile(r"^mig\[\d+\](\.gpus)?: ")
Entries = Callable[[NodeState], tuple[MigEntry, ...]]
Places = Callable[[NodeState], Mapping[str, str]]


@dataclass(frozen=True)
class Source:
    """The entries as a function of the GPUs there are, and the node file with the policies (its defaults if none).

    `places` is where a file says what a GPU is to be, by its UUID. `called` is what the entries stand for in messages:
    an option, or a file; "" where they are the node file's own.
    """

    entries: Entries
    spec: NodeSpec
    places: Places = lambda _state: {}
    called: str = ""

    def goal(self, arguments: argparse.Namespace, own_pids: tuple[int, ...] = ()) -> Goal:
        """Only the MIG section; what the entries say about drift does not bind an operator."""
        disruption = override(self.spec.disruption, arguments.disruption)
        terms = Terms(disruption, (*KNOWN_SERVICES, *self.spec.services), own_pids=own_pids)
        terms = replace(terms, pod_socket=pod_socket(self.spec.metrics))
        mode_only = getattr(arguments, "mode_only", False)

        def wishes(state: NodeState) -> tuple[Wish, ...]:
            entries = tuple(_for_now(entry, mode_only=mode_only) for entry in self.entries(state))
            wish = mig.plan(replace(self.spec, mig=entries), state)
            return (_placed(_called(wish, self.called), self.places(state)),)

        return Goal(wishes, names_of_interest(self.spec), terms)


def source_of(arguments: argparse.Namespace, target: Target) -> Source:
    """What the arguments ask for: words or a layout by name first, then the file named, then the node file."""
    if arguments.wants or arguments.layout:
        entry = _entry_of(arguments)
        arguments.wished = AS_ASKED
        return Source(lambda _state: (entry,), _policies(target), called=f"--gpus {arguments.gpus or ALL}")
    if not arguments.file:
        return _of_node_file(arguments, target)
    text, name = _given(arguments.file)
    if is_parted(text, name):
        config = parse_parted(text, name).config(arguments.config)
        places = partial(_parted_places, config)
        arguments.wished = f"the layout is as in {name}"
        return Source(lambda state: _parted_entries(config, state), _policies(target), places, name)
    if arguments.config or arguments.file == STANDARD_INPUT:
        raise UsageError(_not_parted(arguments, name))
    return _of_node_file(arguments, target)


def checkpoint_source(arguments: argparse.Namespace, target: Target) -> Source:
    """The layout that a checkpoint holds."""
    document = read_checkpoint(arguments.file)
    arguments.wished = f"the layout is as in {arguments.file}"
    entries = partial(_checkpoint_entries, document, arguments.file)
    return Source(entries, _policies(target), called=arguments.file)


def selected(arguments: argparse.Namespace, state: NodeState) -> tuple[Gpu, ...]:
    """The GPUs that --gpus names, in index order. UsageError for one that does not exist."""
    if not arguments.gpus:
        return tuple(sorted(state.gpus.values(), key=lambda one: one.index))
    found = select((MigEntry(MigMode.ENABLED, gpus=_selectors(arguments)),), state.gpus.values())
    for obstacle in found.obstacles:
        problem = obstacle.problem.replace("mig[0].gpus: ", "")
        raise UsageError(f"--gpus {arguments.gpus}: {problem}; {obstacle.advice}")
    return tuple(one for one, _ in found.chosen)


def counts_of(words: Sequence[str]) -> dict[str, int]:
    """`3g.20gb=1 1g.5gb=4`; a bare profile means one. UsageError for anything else."""
    counts: dict[str, int] = {}
    for word in (part for argument in words for part in argument.split(",") if part):
        name, _, count = word.partition("=")
        if count and not (count.isdecimal() and len(count) <= 2):
            raise UsageError(f"{word}: expected PROFILE=COUNT such as 3g.20gb=1, the count from 0 to 99")
        counts[name] = counts.get(name, 0) + int(count or 1)
    return counts


def _given(file: str) -> tuple[str, str]:
    """The text of a file, or of the standard input for -, and its name in messages."""
    return (sys.stdin.read(), "standard input") if file == STANDARD_INPUT else (read_text(file), file)


def _not_parted(arguments: argparse.Namespace, name: str) -> str:
    option = f"--config {arguments.config}" if arguments.config else f"--file {arguments.file}"
    advice = "expected a file of nvidia-mig-parted (of a ConfigMap, only what stands below its key config.yaml)"
    return f"{option}: {name} has no key {CONFIGS}, so there are no labels; {advice}"


def _parted_entries(config: Sequence[PartedEntry], state: NodeState) -> tuple[MigEntry, ...]:
    """An entry for all where no GPU can be seen: planning says why, and does not take it for nothing to do."""
    return entries_for(config, state.gpus.values()) if state.gpus else (MigEntry(MigMode.DISABLED),)


def _parted_places(config: Sequence[PartedEntry], state: NodeState) -> Mapping[str, str]:
    return places_for(config, state.gpus.values())


def _checkpoint_entries(document: Mapping[str, Any], file: str, state: NodeState) -> tuple[MigEntry, ...]:
    return entries_of(document, state.gpus.values(), file)


def _called(wish: Wish, name: str) -> Wish:
    """Messages with the user's own word for what the plan calls mig[0]; unchanged for the entries of a node file."""
    if not name:
        return wish
    told = tuple(replace(one, problem=_ENTRY.sub(f"{name}: ", one.problem)) for one in wish.obstacles)
    return replace(wish, obstacles=told)


def _placed(wish: Wish, places: Mapping[str, str]) -> Wish:
    """What the GPU cannot be at all is a mistake in the file, and told with line and key."""
    told = tuple(
        one
        if one.waits or one.subject.name not in places
        else replace(one, problem=f"{places[one.subject.name]}: {one.problem}")
        for one in wish.obstacles
    )
    return replace(wish, obstacles=told)


def _for_now(entry: MigEntry, *, mode_only: bool) -> MigEntry:
    entry = replace(entry, drift=MigDrift.REPAIR)
    if not mode_only:
        return entry
    mode = wanted_mode(entry)
    return replace(entry, mode=mode, devices=None, instances=None, layout=None)


def _entry_of(arguments: argparse.Namespace) -> MigEntry:
    if arguments.wants and arguments.layout:
        raise UsageError(f"--layout {arguments.layout}: excludes profiles; expected one or the other")
    gpus = _selectors(arguments)
    if arguments.layout:
        return MigEntry(gpus=gpus, layout=arguments.layout)
    return MigEntry(MigMode.ENABLED, gpus=gpus, devices=MappingProxyType(counts_of(arguments.wants)))


def _selectors(arguments: argparse.Namespace) -> str | tuple[str, ...]:
    if arguments.gpus in ("", ALL):
        return ALL
    return tuple(gpu_selector(word.strip()) for word in arguments.gpus.split(",") if word.strip())


def _of_node_file(arguments: argparse.Namespace, target: Target) -> Source:
    spec, path = spec_of(arguments, target)
    if not spec.mig:
        raise UsageError(f"{path} has no section mig; name profiles such as 3g.20gb=1, a --layout, or another --file")
    return Source(lambda _state: spec.mig, spec)


def _policies(target: Target) -> NodeSpec:
    """Policies and services of the node file, where there is one that can be read."""
    if not os.path.exists(target.default_file):
        return NodeSpec(version=1)
    return parse_spec(read_text(target.default_file), target.default_file)
