"""Verb `events`: the node's history."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nodeagent.cli.health import COLOURS, name_of, node_of
from nodeagent.cli.output import Style, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import some
from nodeagent.cli.target import add_file_option, add_target_options
from nodeagent.errors import GoneError, UsageError
from nodeagent.health.documents import event_document
from nodeagent.host.history import Query, read_history
from nodeagent.state.health import EventKind, Verdict

if TYPE_CHECKING:
    from nodeagent.state.health import HealthEvent

TEXT = "what happened on the node: Xids and SXids, changed verdicts, lost log lines, actions; works without an agent"
EPILOG = """\
examples:
  nodeagent events
  nodeagent events --since 2h --kind xid
  nodeagent events --subject GPU-4d5bd23c-11a1-31b8-9b5c-0f7b1d2f7a10 -o json
  nodeagent events --follow
"""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
POLL_SECONDS = 0.5  # the history is a file that is followed with and without an agent; a look costs one query


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "events", common, TEXT, EPILOG)
    parser.add_argument("--since", default="", metavar="TIME", help="30m, 2h, 7d, or a time such as 2026-11-22T12:00")
    parser.add_argument("--kind", action="append", choices=[kind.value for kind in EventKind], help="only of this kind")
    parser.add_argument("--subject", default="", help="only about this: a UUID, a PCI address, mlx5_0/1")
    parser.add_argument("--limit", type=some, default=1000, help="the newest so many (default: 1000)")
    parser.add_argument("--follow", action="store_true", help="go on with what comes; with -o json a line for each")
    add_file_option(parser)
    add_target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    target = node_of(arguments)
    kinds = tuple(EventKind(kind) for kind in arguments.kind or ())
    query = Query(since_seconds(arguments.since, time.time()), 0, kinds, arguments.subject, arguments.limit)
    style = style_for(arguments, sys.stdout)
    if arguments.follow:
        return _follow(target.root, query, arguments.output, style)
    events = read_history(target.root, query)
    emit(
        [event_document(event) for event in events],
        arguments.output,
        lambda: "\n".join(event_line(event, style) for event in events),
    )
    return 0


def _follow(root: str, query: Query, form: str, style: Style) -> int:
    """Until interrupted, or the reader goes away."""
    after = 0
    while True:
        try:
            events = read_history(root, Query(query.since, after, query.kinds, query.subject, query.limit))
        except GoneError:
            events = ()
        for event in events:
            print(json.dumps(event_document(event)) if form == "json" else event_line(event, style), flush=True)
            after = event.number
        time.sleep(POLL_SECONDS)


def event_line(event: HealthEvent, style: Style) -> str:
    """One line: time, how bad, whom, what."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.time))
    word = event.verdict.value if event.verdict else event.kind.value
    number = f" {event.code}" if event.code is not None else ""
    what = f"{event.kind.value}{number}: " if event.kind is not EventKind.VERDICT else ""
    colour = COLOURS[event.verdict or Verdict.OK]
    return f"{style('dim', at)}  {style(colour, f'{word:<8}')} {name_of(event.subject)}  {what}{event.text}"


def since_seconds(text: str, now: float) -> float:
    """`2h` before now, or a time of the day here; 0 for nothing."""
    if not text:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found:
        return now - float(found[1]) * UNITS[found[2]]
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except ValueError as error:
        raise UsageError(f"--since {text}: expected 30m, 2h, 7d, or a time such as 2026-11-22T12:00") from error
