"""Verb `offers`: what pods can get from the node."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from nodeagent.cli.health import node_of
from nodeagent.cli.output import columns, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_file_option, add_target_options
from nodeagent.host.control_client import ask

if TYPE_CHECKING:
    from nodeagent.cli.output import Style

TEXT = "what pods can get from the node: resources, devices, which of them are unhealthy and why; asks the agent"
EPILOG = """\
exit codes:
  0 all of it is well    4 a device is unhealthy, or the kubelet does not know of a resource

examples:
  nodeagent offers
  nodeagent offers -o json
"""
NOT_WELL = 4


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "offers", common, TEXT, EPILOG)
    add_file_option(parser)
    add_target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    document = ask(node_of(arguments).root, "GET", "/v1/offers")
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: offers_text(document, style))
    rows = document["resources"]
    bad = document["problem"] or any(row["unhealthy"] or row["problem"] or not row["watched"] for row in rows)
    return NOT_WELL if bad else 0


def offers_text(document: dict[str, Any], style: Style) -> str:
    """The table of resources, then what is wrong, then remarks."""
    lines = [_headline(document)]
    rows = [
        (row["resource"], str(row["devices"]), str(row["healthy"]), "yes" if row["watched"] else "no")
        for row in document["resources"]
    ]
    if rows:
        lines.append(columns(rows, ("RESOURCE", "DEVICES", "HEALTHY", "KUBELET KNOWS")))
    for row in document["resources"]:
        lines += [style("bad", f"{row['resource']}: {row['problem']}")] if row["problem"] else []
        lines += [style("warn", f"{one['id']}: {one['reason']}") for one in row["unhealthy"]]
    lines += [style("bad", document["problem"])] if document["problem"] else []
    return "\n".join([*lines, *(f"remark: {text}" for text in document["remarks"])])


def _headline(document: dict[str, Any]) -> str:
    if not document["directory"]:
        return "nothing is offered: the node file has no section kubernetes"
    if not document["kubelet"]:
        return f"no kubelet at {document['directory']} yet"
    return f"to the kubelet at {document['directory']}"
