"""Verb `cdi`: the CDI specifications of this node, what is in them, and whether they are right."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nodeagent.cli.output import columns, count, emit, style_for, warn
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import Target, add_target_options, target_of
from nodeagent.errors import NotConvergedError, UnsupportedError
from nodeagent.host.container_facts import not_there, read_cdi_files
from nodeagent.resources.cdi import directories_of, nodes_of, parts
from nodeagent.resources.cdi_checks import Severity, findings, priority
from nodeagent.resources.cdi_specs import render
from nodeagent.resources.container_query import query_for
from nodeagent.spec.containers import Cdi, DeviceName
from nodeagent.spec.reader import read_spec
from nodeagent.state.containers import CdiFile
from nodeagent.state.node import NodeState

_EPILOG = """\
exit code of check: 0 all right, 3 something is wrong

examples:
  nodeagent cdi generate
  nodeagent cdi generate --kind rdma
  nodeagent cdi generate --kind gds            (GPUDirect Storage; gdrcopy, mofed, imex: what goes with GPUs)
  nodeagent cdi generate --name uuid --driver-root /run/nvidia/driver > /etc/cdi/mine.json
  nodeagent cdi list
  nodeagent cdi check
  nodeagent cdi check --host-root /host        (in a container)
  podman run --rm --device nvidia.com/gpu=0 IMAGE nvidia-smi -L
"""
_TEXT = "CDI specifications: print what this node has, list and check what is installed"
_KINDS = ("gpu", "management", "rdma", "gdrcopy", "gds", "mofed", "imex")
_VERBS = {
    "generate": "print the specification for this node; the agent itself writes them with section cdi",
    "list": "every device that a runtime finds, and which file gives it",
    "check": "look for conflicts, missing paths and wrong names in every file",
}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("cdi", help=_TEXT, description=_TEXT, epilog=_EPILOG)
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    runs = {"generate": run_generate, "list": run_list, "check": run_check}
    for name, text in _VERBS.items():
        verb = add_verb(verbs, name, common, text, _EPILOG)
        add_target_options(verb)
        if name == "generate":
            verb.add_argument("--kind", choices=_KINDS, default="gpu", help="default: gpu")
            verb.add_argument(
                "--name", choices=[one.value for one in DeviceName], action="append", help="form of names, repeatable"
            )
            verb.add_argument("--driver-root", default="", metavar="DIR", help="where the driver is, if not below /")
        else:
            verb.add_argument(
                "--directory", metavar="DIR", action="append", default=[], help="look there too, repeatable"
            )
            verb.add_argument(
                "--host-root",
                metavar="DIR",
                default=None,
                help="in a container: where the node's root directory is (default: cdi.host_root of the node file)",
            )
        verb.set_defaults(run=runs[name])


def run_generate(arguments: argparse.Namespace) -> int:
    names = tuple(DeviceName(name) for name in arguments.name or ())
    section = Cdi(names=names or Cdi().names, driver_root=arguments.driver_root)
    state = _observed(target_of(arguments), section)
    nodes = nodes_of(state)
    part = next(part for part in parts(section, state, nodes) if part.name == arguments.kind)
    for reason in part.content.left_out:
        warn(reason)
    if part.problem or not part.content.devices:
        reason = part.problem or "there is no such device"
        raise UnsupportedError("generate cdi specification", part.content.kind, reason, "see nodeagent show")
    text = render(part.content, section, nodes)
    form = "yaml" if arguments.output == "yaml" else "json"
    emit(json.loads(text), form, lambda: text)
    return 0


def _observed(target: Target, section: Cdi) -> NodeState:
    with target.observer() as observer:
        return observer.add_containers(observer.observe(()), query_for(section))


class _Installed(NamedTuple):
    """The files, the paths they need that are not there, and those that cannot be seen from this container."""

    files: tuple[CdiFile, ...]
    missing: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()


def _installed(arguments: argparse.Namespace) -> _Installed:
    target = target_of(arguments)
    host = target.open()
    try:
        folders = dict.fromkeys((*directories_of(Cdi()), *arguments.directory))
        files = read_cdi_files(host.files, folders)
        needed = {path for file in files for path in file.paths}
        missing, hidden = not_there(host.files, _host_root(arguments, target), needed)
        return _Installed(files, missing, hidden)
    finally:
        host.nvml.close()


def _host_root(arguments: argparse.Namespace, target: Target) -> str:
    """Where the node's root directory is seen: as told, else as section cdi of the node file says."""
    if arguments.host_root is not None:
        return str(arguments.host_root)
    if not os.path.exists(target.default_file):
        return ""
    section = read_spec(target.default_file).cdi
    return section.host_root if section else ""


def run_list(arguments: argparse.Namespace) -> int:
    files = _installed(arguments).files
    devices = [
        {"name": f"{file.kind}={name}", "kind": file.kind, "file": file.path, "usable": usable}
        for file in files
        for name, usable in _usable(file, files)
    ]
    emit({"devices": devices}, arguments.output, lambda: _table(devices) or "no CDI specification is installed")
    return 0


def _usable(file: CdiFile, files: Sequence[CdiFile]) -> Iterator[tuple[str, bool]]:
    """Each device, and whether it is this file that gives it: not a lower directory's, and nobody else's too."""
    for name in file.devices:
        others = [one for one in files if one is not file and one.kind == file.kind and name in one.devices]
        yield name, all(priority(one.directory) < priority(file.directory) for one in others)


def _table(devices: Sequence[Mapping[str, Any]]) -> str:
    rows = [(one["name"], "" if one["usable"] else "no", one["file"]) for one in devices]
    return columns(rows, ("DEVICE", "USABLE", "FILE")) if rows else ""


def run_check(arguments: argparse.Namespace) -> int:
    files, missing, hidden = _installed(arguments)
    found = findings(files, missing)
    style = style_for(arguments, sys.stdout)
    wrong = any(one.severity is Severity.ERROR for one in found)
    document = {
        "files": [file.path for file in files],
        "findings": [{"file": one.path, "severity": one.severity.value, "text": one.text} for one in found],
        "notSeen": sorted(hidden),
    }

    def text() -> str:
        lines = [f"{one.path}: {style('bad' if one.severity is Severity.ERROR else 'dim', one.text)}" for one in found]
        verdict = "something is wrong" if wrong else style("good", "all right")
        return "\n".join((*lines, f"{count(len(files), 'specification')}: {verdict}"))

    if hidden:
        warn(f"{count(len(hidden), 'path')} of the node cannot be seen from here, such as {min(hidden)}; mount it")
    emit(document, arguments.output, text)
    return NotConvergedError.exit_code if wrong else 0
