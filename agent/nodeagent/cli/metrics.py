"""Verb `metrics`: what a scrape would get, once."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from nodeagent.cli.output import emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import Target, add_target_options, target_of
from nodeagent.cli.telemetry import direct, from_agent, running_agent
from nodeagent.errors import HostError

_TEXT = "print the metrics once, as a scrape would get them"
_EPILOG = """\
from the running agent; without one, the node is read directly

examples:
  nodeagent metrics
  nodeagent metrics --textfile /var/lib/prometheus/node-exporter/nodeagent.prom
  nodeagent metrics --simulate dgx-a100 | promtool check metrics
  nodeagent metrics --check
"""
_GPM_SECONDS = 0.2  # ratios are means between two readings, and those want 0.1 s between them


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "metrics", common, _TEXT, _EPILOG)
    add_target_options(parser)
    parser.add_argument("--textfile", metavar="PATH", default="", help="write to this file, replacing it at once")
    parser.add_argument(
        "--check", action="store_true", help="print nothing of it: read it with prometheus_client's parser and count"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    target = running_agent(arguments)
    found = from_agent(target, "/v1/metrics") if target else None
    text = found["text"] if found and found["text"] else _read(target_of(arguments))
    if arguments.check:
        found = _check(text)
        emit(found, arguments.output, lambda: f"{found['families']} families, {found['series']} series: well-formed")
    elif arguments.textfile:
        _write(Path(arguments.textfile), text)
    elif arguments.output == "table":
        sys.stdout.write(text)
    else:
        emit({"text": text}, arguments.output, str)
    return 0


def _read(target: Target) -> str:
    with direct(target) as read:
        read()
        time.sleep(_GPM_SECONDS)
        text: str = read().snapshot.body.decode()
        return text


def _check(text: str) -> dict[str, int]:
    """Families and series by another's parser. HostError: it cannot read them, or a series is there twice."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        families = list(text_string_to_metric_families(text))
    except ValueError as error:
        raise HostError("check", "metrics", str(error).lower(), "this is a defect: please report it") from error
    series = [(sample.name, *sorted(sample.labels.items())) for family in families for sample in family.samples]
    twice = next((name for name in series if series.count(name) > 1), None) if len(set(series)) < len(series) else None
    if twice:
        raise HostError("check", "metrics", f"{twice[0]} is there twice with the same labels")
    return {"families": len(families), "series": len(series)}


def _write(path: Path, text: str) -> None:
    """node_exporter may read at any moment, and its user is another."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise HostError("write", str(path), (error.strerror or str(error)).lower()) from error
