"""The command line: one module per group of verbs, imported only when its verb is used."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nodeagent.cli.parsing import Parser
from nodeagent.errors import NodeAgentError

# verb -> (module, one line for the overview); the module's `register` adds the parser.
VERBS: Mapping[str, tuple[str, str]] = {
    "run": ("run", "keep the node as the file says, and serve metrics and status"),
    "plan": ("convergence", "show what would be done, why, what it disturbs and what is in the way"),
    "apply": ("convergence", "do it once"),
    "check": ("convergence", "say whether the node is as the file says (exit 3 when not)"),
    "confirm": ("confirm", "keep a change to a guarded interface that waits for it"),
    "status": ("show", "what the running agent reports, or a direct look when none runs"),
    "show": ("show", "what is observed: driver, GPUs, MIG, modules, links, holders"),
    "metrics": ("metrics", "print the metrics once, as a scrape would get them"),
    "top": ("top", "live view of GPUs, MIG instances, RDMA ports and what runs on them"),
    "modules": ("modules", "list, load, unload or reload kernel modules safely"),
    "mig": ("mig", "show, plan, apply, assert, export and restore MIG layouts"),
    "topology": ("topology", "show how GPUs and NICs are wired, and what makes the way between them slow"),
    "roce": ("roce", "GIDs, RoCE mode, counters and NCCL settings of the RDMA NICs"),
    "cdi": ("cdi", "print, list and check the CDI specifications that give devices to containers"),
    "offers": ("offers", "what pods can get from the node, what is unhealthy and why"),
    "health": ("health", "which GPU, port or part of the node is ill, since when, and what to do"),
    "report": ("report", "a support bundle without secrets"),
    "events": ("events", "what happened on the node: Xids, verdicts, reboots"),
    "labels": ("labels", "print the node's labels, or patch the node object"),
    "validate": ("validate", "prove that driver, GPUs, NICs and containers work, by using them"),
    "repair": ("repair", "what is done about findings: list, plan, approve, deny, pause, resume, history"),
    "config": ("config", "validate a node file, print its schema, an example, import other files"),
    "simulate": ("simulate", "profiles, jobs and faults of a simulated node"),
    "version": ("about", "print the version"),
    "completion": ("about", "print a shell completion script"),
}

EPILOG = """\
exit codes:
  0 done, nothing to do    1 failed               2 wrong usage or node file   3 node is not as the file says
  6 blocked, nothing done  7 no answer in time    8 not permitted              65 the journal is damaged
  75 another agent is running

examples:
  nodeagent run --simulate dgx-a100
  nodeagent plan --file /etc/nodeagent/node.yaml
  nodeagent apply --partial
  nodeagent modules unload nvidia
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser(words)
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments = parser.parse_args(words)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except NodeAgentError as error:
        _complain(error, getattr(arguments, "output", "table"))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader went away: nothing left to say
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser with the verb of these words, or of the line that a shell completes; names only without a verb."""
    parser = Parser(
        prog="nodeagent",
        description="Makes a Linux node with NVIDIA GPUs and RDMA NICs what one file says, and keeps it so.",
        epilog=EPILOG,
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    if "_ARGCOMPLETE" in os.environ:
        words = f"{os.environ.get('COMP_LINE', '')}|".split()[1:-1]  # the word at the cursor is not complete yet
    verb = next((word for word in words if not word.startswith("-")), "")
    if verb not in VERBS:
        return _overview(parser, subparsers)
    importlib.import_module(f"nodeagent.cli.{VERBS[verb][0]}").register(subparsers, common_options())
    return parser


def _overview(parser: argparse.ArgumentParser, subparsers: Any) -> argparse.ArgumentParser:
    """Names and one line each: enough for `--help` and for a wrong verb, and nothing is imported."""
    for name, (_, text) in VERBS.items():
        subparsers.add_parser(name, help=text)
    return parser


def common_options() -> argparse.ArgumentParser:
    """Options every verb has."""
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("common options")
    group.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table", help="form of the output")
    group.add_argument(
        "--color", choices=("auto", "always", "never"), default="auto", help="colours (default: on a terminal)"
    )
    return common


def _complain(error: NodeAgentError, form: str) -> None:
    if form == "json":
        import json

        print(json.dumps({"error": type(error).__name__, "message": str(error)}), file=sys.stderr)
    else:
        print(f"nodeagent: {error}", file=sys.stderr)
