"""Verbs `version` and `completion`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from nodeagent import __version__
from nodeagent.cli.output import emit

COMPLETION_EXAMPLES = """\
examples:
  eval "$(nodeagent completion bash)"
  nodeagent completion fish > ~/.config/fish/completions/nodeagent.fish
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    version = subparsers.add_parser(
        "version",
        parents=[common],
        help="print the version",
        description="Print the version; with -o json or yaml also those of Python and of the kernel.",
        epilog="examples:\n  nodeagent version\n  nodeagent version -o json",
    )
    version.set_defaults(run=print_version)
    completion = subparsers.add_parser(
        "completion", parents=[common], help="print a shell completion script", epilog=COMPLETION_EXAMPLES
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    completion.set_defaults(run=print_completion)


def print_version(arguments: argparse.Namespace) -> int:
    document = {"version": __version__, "python": sys.version.split()[0], "kernel": os.uname().release}
    emit(document, arguments.output, lambda: f"nodeagent {__version__}")
    return 0


def print_completion(arguments: argparse.Namespace) -> int:
    import argcomplete

    print(argcomplete.shellcode(["nodeagent"], shell=arguments.shell))
    return 0
