"""Verb `repair`: what is done about findings, and the person's say in it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

from nodeagent.cli.events import event_line, since_seconds
from nodeagent.cli.health import node_of
from nodeagent.cli.output import Style, columns, emit, style_for, with_short_gpus
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_file_option, add_target_options
from nodeagent.errors import GoneError
from nodeagent.health.documents import event_document
from nodeagent.host.control_client import ask
from nodeagent.host.history import Query, read_history
from nodeagent.state.health import EventKind

_TEXT = "what is done about findings: list, plan, approve, deny, pause, resume, history"
_EPILOG = """\
Section `remediation` of the node file declares what may be done; by default nothing is. All but history need a
running agent. Nothing is done to a device that is in use: `plan` says who is in the way.

exit codes: 0 done, 1 no such decision or no agent, 8 not permitted

examples:
  nodeagent repair list
  nodeagent repair plan
  nodeagent repair approve 3fa9c1
  nodeagent repair pause
  nodeagent repair history --since 7d -o json
"""
_VERBS = {
    "list": "what is decided about findings, who is kept from work, what was tried",
    "plan": "the steps of what would be done, and what is in the way of them",
    "approve": "let an action happen, once",
    "deny": "do not let it happen while its finding is there",
    "pause": "let no action begin",
    "resume": "let actions begin again",
    "history": "what repair did; works without an agent",
}
_COLOURS = {"ready": "good", "asks": "warn", "storm": "bad", "given-up": "bad", "verifying": "name"}


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser("repair", help=_TEXT, description=_TEXT, epilog=_EPILOG)
    verbs = parser.add_subparsers(dest="operation", metavar="OPERATION", required=True)
    for name, text in _VERBS.items():
        verb = add_verb(verbs, name, common, text, _EPILOG)
        if name in ("approve", "deny"):
            verb.add_argument("id", metavar="ID", help="as `nodeagent repair list` shows it")
        if name == "history":
            verb.add_argument("--since", default="", metavar="TIME", help="30m, 2h, 7d, or a time")
        add_file_option(verb)
        add_target_options(verb)
        verb.set_defaults(run=_RUNS.get(name, run_order))


def run_list(arguments: argparse.Namespace) -> int:
    return _show(arguments, list_text)


def run_plan(arguments: argparse.Namespace) -> int:
    return _show(arguments, plan_text)


def _show(arguments: argparse.Namespace, text: Callable[[dict[str, Any], Style], str]) -> int:
    document = ask(node_of(arguments).root, "GET", "/v1/repair")
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: text(document, style))
    return 0


def run_order(arguments: argparse.Namespace) -> int:
    """Approve, deny, pause, resume."""
    about = f"?id={quote(arguments.id)}" if "id" in arguments else ""
    document = ask(node_of(arguments).root, "POST", f"/v1/repair/{arguments.operation}{about}")
    emit(document, arguments.output, lambda: _answer_text(arguments.operation, document))
    return 0


def run_history(arguments: argparse.Namespace) -> int:
    since = since_seconds(arguments.since, time.time())
    try:
        events = read_history(node_of(arguments).root, Query(since, kinds=(EventKind.ACTION,)))
    except GoneError:
        events = ()
    style = style_for(arguments, sys.stdout)
    emit(
        [event_document(event) for event in events],
        arguments.output,
        lambda: "\n".join(event_line(event, style) for event in events) or "nothing was done",
    )
    return 0


_RUNS: dict[str, Callable[[argparse.Namespace], int]] = {
    "list": run_list,
    "plan": run_plan,
    "history": run_history,
}


def _answer_text(operation: str, document: dict[str, Any]) -> str:
    if "id" not in document:
        return f"repair is paused {document['paused']}" if document["paused"] else "repair goes on"
    done = {"approve": "approved", "deny": "denied"}[operation]
    return f"{done}: {document['action']} on {document['subject']}, now {document['standing']}: {document['reason']}"


def list_text(document: dict[str, Any], style: Style) -> str:
    """Decisions, then who is kept from work, then attempts that count."""
    return "\n".join((*_headlines(document, style), *_decisions(document, style), *_kept(document)))


def _headlines(document: dict[str, Any], style: Style) -> Iterator[str]:
    if document["trouble"]:
        yield style("bad", f"repair is off: {document['trouble']}")
    yield f"mode {document['mode']}" + (f", paused {document['paused']}" if document["paused"] else "")
    if document["rebootAsked"]:
        yield style("bad", f"a reboot is asked for: {document['rebootAsked']}")


def _decisions(document: dict[str, Any], style: Style) -> Iterator[str]:
    rows = [
        (
            one["id"],
            one["standing"],
            one["action"] or "report",
            with_short_gpus(one["subject"], {}),
            ", ".join(sorted({found["check"] for found in one["findings"]})),
            "; ".join((one["reason"], *(one["inTheWay"] if one["standing"] == "ready" else ()))),
        )
        for one in document["decisions"]
    ]
    if not rows:
        yield "nothing to repair"
        return
    standings = {one["id"]: one["standing"] for one in document["decisions"]}
    table = columns(rows, ("ID", "STANDING", "ACTION", "SUBJECT", "CHECKS", "WHY"), width=style.width)
    for line in table.split("\n"):
        standing = standings.get(line.partition(" ")[0], "")
        yield line.replace(standing, style(_COLOURS.get(standing, "dim"), standing), 1) if standing else line


def _kept(document: dict[str, Any]) -> Iterator[str]:
    document = with_short_gpus(document, {})
    for one in document["quarantines"]:
        yield f"gets no work: {one['subject']} ({one['reason']})"
    if document["slurmDrain"]:
        yield f"drained in Slurm: {document['slurmDrain']}"
    for one in document["attempts"]:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["beganUnixSeconds"]))
        text = f" ({one['text']})" if one["text"] else ""
        yield f"tried: {at} {one['action']} on {one['subject']}: {one['outcome']}{text}"


def plan_text(document: dict[str, Any], style: Style) -> str:
    """What each decision would come to."""
    lines = [*_headlines(document, style)]
    for one in with_short_gpus(document["decisions"], {}):
        if not (one["steps"] or one["inTheWay"]):
            continue
        lines.append(
            f"{style('bold', one['id'])} {one['action']} on {one['subject']}: {one['standing']}, {one['reason']}"
        )
        lines += [f"  {step}" for step in one["steps"]]
        lines += [f"  {style('bad', 'in the way')}: {text}" for text in one["inTheWay"]]
    return "\n".join(lines if len(lines) > 1 else [*lines, "nothing to do"])
