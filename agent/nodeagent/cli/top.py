"""Verb `top`: a live view of GPUs, MIG instances, RDMA ports and what runs on them."""

from __future__ import annotations

import argparse
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nodeagent.cli.output import Style, columns, emit, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.quantities import some_seconds
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.cli.telemetry import direct, from_agent, running_agent
from nodeagent.metrics.document import telemetry_document

_TEXT = "live view of GPUs, MIG instances, RDMA ports and what runs on them"
_EPILOG = """\
keys: q quits, space reads again at once
from the running agent, in the rhythm in which it samples; without one, the node is read directly

examples:
  nodeagent top
  nodeagent top --once
  nodeagent top --simulate dgx-a100 --interval 1
"""
_BAR = 10
_HOME, _CLEAR_BELOW, _CLEAR_LINE = "\x1b[H", "\x1b[J", "\x1b[K"
_SCREEN_ON, _SCREEN_OFF = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_GPU_HEAD = ("GPU", "PRODUCT", "TEMP", "POWER", "UTIL", "", "MEMORY", "", "SM MHZ", "XID")
_PORT_HEAD = ("PORT", "STATE", "LINK", "RAIL", "GPU", "GB/S", "SENT", "RECEIVED")

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
            emit(document, arguments.output, lambda: frame(document, None, style))
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
    with _screen():
        while True:
            document = read()
            _draw(frame(document, before, style))
            if before is None or document["readUnixSeconds"] > before["readUnixSeconds"]:
                before = document
            if _key_within(seconds) in ("q", "Q", "\x03", "\x1b"):
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


def _draw(text: str) -> None:
    """In place, line by line, so that nothing flickers; what does not fit is cut."""
    height = os.get_terminal_size().lines
    lines = text.split("\n")
    if len(lines) >= height:
        lines = [*lines[: height - 2], "..."]
    sys.stdout.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in lines) + _CLEAR_BELOW)
    sys.stdout.flush()


def _key_within(seconds: float) -> str:
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""


def frame(document: Document, before: Document | None, style: Style) -> str:
    """One picture of the node; rates need the document before."""
    age = max(0.0, time.time() - document["readUnixSeconds"])
    simulated = f" (simulated {document['simulated']})" if document["simulated"] else ""
    driver = f"driver {document['driver']}" if document["driver"] else "no driver"
    parts = [style("bold", f"{document['hostname']}{simulated}") + f"   {driver}   read {age:.0f} s ago"]
    gpus, ports = document["gpus"], document["ports"]
    if gpus:
        parts.append(columns([row for gpu in gpus for row in _gpu_rows(gpu)], _GPU_HEAD))
    if ports:
        parts.append(columns([_port_row(port, _rates(port, document, before)) for port in ports], _PORT_HEAD))
    users = [f"GPU {gpu['index']}: {process['text']}" for gpu in gpus for process in gpu["processes"]]
    if users:
        parts.append(style("bold", "PROCESSES") + "\n" + "\n".join(users))
    return "\n\n".join(parts)


def _gpu_rows(gpu: Document) -> Iterator[tuple[str, ...]]:
    name = gpu["product"].removeprefix("NVIDIA ")
    if not gpu["up"]:
        yield (str(gpu["index"]), name, "no answer", *("",) * 7)
        return
    used, total = gpu["memoryUsedMib"], gpu["memoryTotalMib"]
    watts, limit = gpu["powerWatts"], gpu["powerLimitWatts"]
    share = None if gpu["utilizationPercent"] is None else gpu["utilizationPercent"] / 100
    yield (
        str(gpu["index"]),
        name,
        _with(gpu["temperatureCelsius"], " C"),
        f"{_with(watts, '')}/{_with(limit, ' W')}",
        _percent(share),
        bar(share),
        f"{_with(used, '')}/{_with(total, ' MiB')}",
        bar(used / total if total and used is not None else None),
        _with(gpu["smClockMhz"], ""),
        str(gpu["lastXid"] or "-"),
    )
    for instance in gpu["instances"]:
        yield _instance_row(instance)


def _instance_row(instance: Document) -> tuple[str, ...]:
    used, total = instance["memoryUsedMib"], instance["memoryTotalMib"]
    share = instance["graphicsRatio"]
    memory = f"{_with(used, '')}/{_with(total, ' MiB')}"
    fill = bar(used / total if total and used is not None else None)
    return (
        "",
        f"  {instance['profile']} @{instance['start']}",
        "",
        "",
        _percent(share),
        bar(share),
        memory,
        fill,
        "",
        "",
    )


def _rates(port: Document, document: Document, before: Document | None) -> tuple[float | None, float | None]:
    """Bytes a second sent and received since the document before."""
    if before is None or (seconds := document["readUnixSeconds"] - before["readUnixSeconds"]) <= 0:
        return None, None
    earlier = {(other["device"], other["port"]): other for other in before["ports"]}
    old = earlier.get((port["device"], port["port"]))
    if old is None or None in (old["sentBytes"], port["sentBytes"], old["receivedBytes"], port["receivedBytes"]):
        return None, None
    return (port["sentBytes"] - old["sentBytes"]) / seconds, (port["receivedBytes"] - old["receivedBytes"]) / seconds


def _port_row(port: Document, rates: tuple[float | None, float | None]) -> tuple[str, ...]:
    most = port["rateBytesPerSecond"]
    sent, received = (
        f"{rate / 1e9:6.2f} {bar(rate / most if most else None)}" if rate is not None else "" for rate in rates
    )
    fastest = f"{most / 1e9:.1f}" if most else "-"
    place = (
        f"{port['device']}/{port['port']}",
        port["state"],
        port["netdev"] or "-",
        port["rail"] or "-",
        port["gpu"] or "-",
    )
    return (*place, fastest, sent or "-", received or "-")


def bar(share: float | None) -> str:
    """`####......` for 0 to 1; empty where the share is not known."""
    if share is None:
        return ""
    filled = round(min(1.0, max(0.0, share)) * _BAR)
    return "#" * filled + "." * (_BAR - filled)


def _with(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.0f}{unit}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share * 100:.0f} %"
