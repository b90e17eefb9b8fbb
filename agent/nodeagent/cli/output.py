"""How results are printed: tables for people, JSON and YAML for programs, colours only where they can be seen."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

_CODES = {"good": "32", "bad": "31", "warn": "33", "dim": "2", "bold": "1", "name": "36"}
_GPU_UUID = re.compile(r"(?:\bgpu )?\bGPU-([0-9a-f]{8})(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_NARROWEST = 60


class Style:
    """Colours by meaning; returns text unchanged where colours are off.

    `width` is how many columns the terminal has, 0 where there is none: then nothing is wrapped, for grep's sake.
    """

    def __init__(self, *, enabled: bool, width: int = 0) -> None:
        self._enabled = enabled
        self.width = width

    def __call__(self, meaning: str, text: str) -> str:
        return f"\x1b[{_CODES[meaning]}m{text}\x1b[0m" if self._enabled and text else text

    def wrap(self, text: str, indent: int) -> list[str]:
        """The text, without colours, as lines that fit; those after the first are indented."""
        if not self.width or len(text) <= self.width:
            return [text]
        import textwrap

        return textwrap.wrap(
            text,
            max(self.width, _NARROWEST),
            subsequent_indent=" " * indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )


def style_for(arguments: argparse.Namespace, stream: TextIO) -> Style:
    """--color decides, else NO_COLOR (no-color.org), else whether the stream is a terminal."""
    is_terminal = stream.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else 0
    if arguments.color != "auto":
        return Style(enabled=arguments.color == "always", width=width)
    return Style(enabled=is_terminal and not os.environ.get("NO_COLOR"), width=width)


def emit(document: object, form: str, table: Callable[[], str]) -> None:
    """Print the document in the form asked for; `table` makes the text for people."""
    if form == "json":
        print(json.dumps(document, indent=2))
    elif form == "yaml":
        import yaml

        print(yaml.safe_dump(document, sort_keys=False, width=120), end="")
    else:
        text = table()
        if text:
            print(text)


def columns(rows: Sequence[Sequence[str]], header: Sequence[str] = (), indent: str = "", width: int = 0) -> str:
    """Rows as aligned columns, two spaces apart. Cells must be free of colours.

    The last column is not padded; where it does not fit into `width` (0: no limit) it goes on below itself.
    """
    everything = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    if not everything:
        return ""
    widths = [
        max(len(row[index]) for row in everything if index < len(row)) for index in range(max(map(len, everything)))
    ]
    lines = []
    left = sum(widths[:-1]) + 2 * len(widths[:-1]) + len(indent)
    for row in everything:
        padded = [cell.ljust(widths[index]) for index, cell in enumerate(row[:-1])]
        first, *more = _folded(row[-1], width - left if width else 0)
        lines.append(indent + "  ".join([*padded, first]).rstrip())
        lines += [" " * left + part for part in more]
    return "\n".join(lines)


def in_blocks(rows: Sequence[Sequence[str]], header: Sequence[str], width: int) -> str:
    """A wide table as several below each other that fit into `width` (0: no limit), each with the first column."""
    everything = [list(header), *map(list, rows)]
    widths = [max(len(row[index]) for row in everything) for index in range(len(header))]
    blocks: list[list[int]] = []
    left = 0
    for index, wide in enumerate(widths[1:], 1):
        if not blocks or (width and left < wide + 2):
            blocks.append([])
            left = width - widths[0]
        blocks[-1].append(index)
        left -= wide + 2
    return "\n\n".join(columns([[row[index] for index in (0, *block)] for row in everything]) for block in blocks)


def natural(name: str) -> list[tuple[int, str]]:
    """To sort by: mlx5_2 before mlx5_10."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def _folded(cell: str, width: int) -> list[str]:
    narrowest = 20
    if not width or len(cell) <= width or width < narrowest:
        return [cell]
    import textwrap

    return textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [cell]


def count(number: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def subject_text(subject: str) -> str:
    """A subject as a person says it: the node itself has no other name."""
    return "node" if subject == "node node" else subject


def with_short_gpus(value: Any, indices: Mapping[str, int]) -> Any:
    """A text or document with `GPU 0 (GPU-4d5bd23c)` for a UUID whose index is known, `GPU-4d5bd23c` for another."""
    if isinstance(value, str):
        return _GPU_UUID.sub(lambda found: _short_gpu(found, indices), value)
    if isinstance(value, Mapping):
        return {key: with_short_gpus(item, indices) for key, item in value.items()}
    if isinstance(value, list):
        return [with_short_gpus(item, indices) for item in value]
    return value


def _short_gpu(found: re.Match[str], indices: Mapping[str, int]) -> str:
    index = indices.get(found[0].removeprefix("gpu "))
    short = f"GPU-{found[1]}"
    return short if index is None else f"GPU {index} ({short})"


def warn(text: str) -> None:
    """A remark for a person that is not part of the result."""
    print(f"nodeagent: {text}", file=sys.stderr)
