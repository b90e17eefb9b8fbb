"""Verb `top`: a live view of GPUs, MIG instances, RDMA ports and what runs on them."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from nodeagent.cli.output import Style, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import some_seconds
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.cli.telemetry import direct, from_agent, running_agent
from nodeagent.cli.top_frame import frame
from nodeagent.metrics.document import telemetry_document

_TEXT = "live view of GPUs, MIG instances, RDMA ports and what runs on them"
_EPILOG = """\
keys: q quits, space reads again at once, arrows (j, k) and page keys scroll
from the running agent, in the rhythm in which it samples; without one, the node is read directly

examples:
  nodeagent top
  nodeagent top --once
  nodeagent top --simulate dgx-a100 --interval 1
"""
_HOME, _CLEAR_BELOW, _CLEAR_LINE = "\x1b[H", "\x1b[J", "\x1b[K"
_SCREEN_ON, _SCREEN_OFF = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_PAGE_LINES = 10
_MOVES = {
    **dict.fromkeys(("j", "\x1b[B", "\x1bOB"), 1),
    **dict.fromkeys(("k", "\x1b[A", "\x1bOA"), -1),
    "\x1b[6~": _PAGE_LINES,
    "\x1b[5~": -_PAGE_LINES,
}
_QUITS = ("q", "Q", "\x03", "\x1b")

Document = Mapping[str, Any]


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "top", common, _TEXT, _EPILOG)
    add_target_options(parser)
    parser.add_argument("--once", action="store_true", help="print one frame and end; so it is without a terminal")
    parser.add_argument("--interval", type=some_seconds, default=2.0, metavar="SECONDS", help="time between two frames")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    with _source(arguments) as read:
        style = style_for(arguments, sys.stdout)
        if arguments.once or arguments.output != "table" or not (sys.stdout.isatty() and sys.stdin.isatty()):
            document = read()
            emit(document, arguments.output, lambda: _frame(document, None, style))
        else:
            _live(read, style, max(0.2, arguments.interval))
    return 0


@contextmanager
def _source(arguments: argparse.Namespace) -> Iterator[Callable[[], Document]]:
    target = running_agent(arguments)
    if target and (first := from_agent(target, "/v1/telemetry")):
        yield lambda: from_agent(target, "/v1/telemetry") or first
        return
    with direct(target_of(arguments)) as read:
        yield lambda: telemetry_document(read().view)


def _live(read: Callable[[], Document], style: Style, seconds: float) -> None:
    """Frame after frame until q; what is read last is compared with the one before for rates."""
    before: Document | None = None
    place = 0
    with _screen():
        while True:
            document = read()
            text = _frame(document, before, style)
            if before is None or document["readUnixSeconds"] > before["readUnixSeconds"]:
                before = document
            due = time.monotonic() + seconds
            place = _draw(text, place)
            while (key := _key_within(due - time.monotonic())) in _MOVES:
                place = _draw(text, place + _MOVES[key])
            if key in _QUITS:
                return


@contextmanager
def _screen() -> Iterator[None]:
    """A screen of its own without echo and cursor; the terminal is given back as it was, whatever happens."""
    settings = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        sys.stdout.write(_SCREEN_ON)
        yield
    finally:
        sys.stdout.write(_SCREEN_OFF)
        sys.stdout.flush()
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, settings)


def _draw(text: str, place: int) -> int:
    """In place, line by line, so that nothing flickers; what does not fit is scrolled to. The first line shown."""
    shown, place = window(text.split("\n"), os.get_terminal_size().lines - 1, place)
    sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in shown) + _CLEAR_BELOW)
    sys.stdout.flush()
    return place


def window(lines: Sequence[str], height: int, place: int) -> tuple[list[str], int]:
    """As many lines as fit from `place` on, with a last one that says which; and the place, if there are so many.

    Some terminals, as those of a serial line, do not say how high they are (0 lines): they get everything.
    """
    if height < 0 or len(lines) <= height:
        return list(lines), 0
    room = max(1, height - 1)
    first = max(0, min(place, len(lines) - room))
    return [
        *lines[first : first + room],
        f"lines {first + 1} to {first + room} of {len(lines)}: arrow and page keys",
    ], first


def _key_within(seconds: float) -> str:
    """What was typed, an arrow as the sequence it sends; nothing where the time is up."""
    ready, _, _ = select.select([sys.stdin], [], [], max(0.0, seconds))
    return os.read(sys.stdin.fileno(), 8).decode(errors="replace") if ready else ""


def _frame(document: Document, before: Document | None, style: Style) -> str:
    return frame(document, before, style, max(0.0, time.time() - document["readUnixSeconds"]))
