"""Verb `confirm`: keep a change to a guarded interface."""

from __future__ import annotations

import argparse
from typing import Any

from nodeagent.cli.output import emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.plan.probation import confirm

_EPILOG = """\
With `guard: {changes: manual}` a change to an interface that carries the default route, the ssh session or a listed
name is rolled back unless it is confirmed in time.

exit codes: 0 confirmed, 1 nothing waits

examples:
  nodeagent confirm
  nodeagent confirm --simulate dgx-a100 -o json
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    text = "keep a change to a guarded interface that waits for it"
    parser = add_verb(subparsers, "confirm", common, text, _EPILOG)
    add_target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Mark the change as meant; the agent that made it sees that within half a second."""
    target = target_of(arguments)
    found = confirm(target.open().files)
    document = {"interfaces": [one.netdev for one in found.evidence], "confirmed": True}
    emit(document, arguments.output, lambda: f"confirmed: change of {found.names}")
    return 0
