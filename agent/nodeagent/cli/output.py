"""How results are printed: tables for people, JSON and YAML for programs, colours only where they can be seen."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TextIO

_CODES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1", "name": "36"}


class Style:
    """Colours by meaning; returns text unchanged where colours are off."""

    def __init__(self, *, enabled: bool) -> None:
        self._enabled = enabled

    def __call__(self, meaning: str, text: str) -> str:
        return f"\x1b[{_CODES[meaning]}m{text}\x1b[0m" if self._enabled and text else text


def style_for(arguments: argparse.Namespace, stream: TextIO) -> Style:
    """--color decides, else NO_COLOR (no-color.org), else whether the stream is a terminal."""
    if arguments.color != "auto":
        return Style(enabled=arguments.color == "always")
    return Style(enabled=not os.environ.get("NO_COLOR") and stream.isatty())


def emit(document: object, form: str, table: Callable[[], str]) -> None:
    """Print the document in the form asked for; `table` makes the text for people."""
    if form == "json":
        print(json.dumps(document, indent=2))
    elif form == "yaml":
        import yaml  # noqa: PLC0415 - costs 30 ms that only YAML output should pay

        print(yaml.safe_dump(document, sort_keys=False, width=120), end="")
    else:
        text = table()
        if text:
            print(text)


def columns(rows: Sequence[Sequence[str]], header: Sequence[str] = (), indent: str = "") -> str:
    """Rows as aligned columns, two spaces apart; the last column is not padded. Cells must be free of colours."""
    everything = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not everything:
        return ""
    widths = [
        max(len(row[index]) for row in everything if index < len(row)) for index in range(max(map(len, everything)))
    ]
    lines = []
    for row in everything:
        padded = [cell.ljust(widths[index]) for index, cell in enumerate(row[:-1])]
        lines.append(indent + "  ".join([*padded, *row[-1:]]).rstrip())
    return "\n".join(lines)


def warn(text: str) -> None:
    """A remark for a person that is not part of the result."""
    print(f"nodeagent: {text}", file=sys.stderr)
