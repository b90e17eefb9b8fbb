"""Verb `report`: everything that whoever helps will ask for, in one archive, without secrets."""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from nodeagent import __version__
from nodeagent.cli.health import node_of
from nodeagent.cli.output import count, emit
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_file_option, add_target_options
from nodeagent.errors import DeniedError, GoneError, NodeAgentError, UsageError
from nodeagent.host.control_client import agent_listens, ask

if TYPE_CHECKING:
    from nodeagent.cli.target import Target

TEXT = (
    "a support bundle (tar.gz): node file without secrets, state, plan, health, events, metrics, kernel log, versions"
)
EPILOG = """\
What could not be read is listed in the archive's missing.json. Nothing is sent anywhere.

examples:
  nodeagent report
  nodeagent report --output-file /tmp/node7.tar.gz
"""
EVENTS = 20_000
LOG_LINES = 5_000
# Values of keys with such names, credentials in URLs, and bearer tokens are left out, wherever in a text they stand.
SECRET_KEY = re.compile(
    r"(?im)^(\s*(?:- )?[\"']?[\w-]*(?:password|passwd|secret|token|api[_-]?key|credential|authorization)[\w-]*[\"']?"
    r"\s*[:=]\s*)"
    r"(?!\s*$)(?!\s*[\"']?/)(.+)$"
)
SECRET_URL = re.compile(r"(\w+://)[^\s/@]+@")
SECRET_QUERY = re.compile(r"(https?://[^\s\"'?]+)\?[^\s\"']+")
SECRET_PATH = re.compile(r"(\burl[\"']?\s*:\s*[\"']?https?://[^/\s\"']+)/[^\s\"',]+")
SECRET_OPTION = re.compile(r"(?i)(--?[\w-]*(?:password|passwd|secret|token|key)[\w-]*[= ])[^\s\"']+")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")
LEFT_OUT = "(left out)"


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(subparsers, "report", common, TEXT, EPILOG)
    parser.add_argument(
        "--output-file", metavar="FILE", default="", help="where to (default: here, named for node and time)"
    )
    add_file_option(parser)
    add_target_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    target = node_of(arguments)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path = arguments.output_file or f"nodeagent-report-{platform.node()}-{stamp}.tar.gz"
    _refuse_place(path)
    contents, missing = gather(target, arguments.file)
    contents["missing.json"] = json.dumps(missing, indent=2)
    _write(path, f"nodeagent-report-{stamp}", contents)
    document = {"file": os.path.abspath(path), "contents": sorted(contents), "missing": missing}
    emit(document, arguments.output, lambda: _text(document))
    return 0


def _refuse_place(path: str) -> None:
    """UsageError where no file can be made, before everything is gathered for it."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"write {path}: there is no directory {folder}; make it, or name another with --output-file")
    if os.path.lexists(path):
        raise UsageError(f"write {path}: it is there already; name another with --output-file")


def _text(document: dict[str, Any]) -> str:
    lines = [f"{document['file']}: {count(len(document['contents']), 'file')}"]
    return "\n".join([*lines, *(f"not in it: {name}: {why}" for name, why in document["missing"].items())])


def gather(target: Target, file: str) -> tuple[dict[str, str], dict[str, str]]:
    """Texts by name, without secrets; and why what is missing is."""
    contents: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name, read in _sources(target, file):
        try:
            contents[name] = without_secrets(read())
        except (NodeAgentError, OSError) as error:
            missing[name] = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    return contents, missing


def _sources(target: Target, file: str) -> Iterator[tuple[str, Callable[[], str]]]:
    path = file or target.default_file
    yield "versions.json", lambda: json.dumps(_versions(), indent=2)
    yield "node.yaml", lambda: _read(path)
    running = agent_listens(target.root)
    for name in ("status", "state", "health", "telemetry"):
        yield f"{name}.json", partial(_asked, target, name) if running else _nobody
    yield "plan.txt", partial(_plan, target) if running else _nobody
    yield "metrics.prom", (lambda: str(ask(target.root, "GET", "/v1/metrics")["text"])) if running else _nobody
    yield "events.json", lambda: _events(target)
    yield "kernel.log", lambda: _kernel_log(target)
    for name in (
        "proc/driver/nvidia/version",
        "proc/driver/nvidia/params",
        "proc/modules",
        "proc/cmdline",
        "etc/os-release",
    ):
        yield name, partial(_read, f"{target.root.rstrip('/')}/{name}")


def _nobody() -> str:
    raise DeniedError("ask", "the agent", "no agent is running", "start it, and report again")


def _versions() -> dict[str, str]:
    return {
        "nodeagent": __version__,
        "python": sys.version,
        "kernel": platform.release(),
        "machine": platform.machine(),
    }


def _asked(target: Target, name: str) -> str:
    return json.dumps(ask(target.root, "GET", f"/v1/{name}"), indent=2)


def _plan(target: Target) -> str:
    """What the agent's last pass left to do, as `nodeagent plan` shows it; status.json has it for programs."""
    from nodeagent.cli.output import Style
    from nodeagent.cli.render import plan_text

    last = ask(target.root, "GET", "/v1/status")["lastPass"]
    if last is None:
        raise GoneError("read", "the plan", "no pass has ended yet", "report again in a moment")
    return plan_text(last["plan"], Style(enabled=False), indices=last["gpuIndices"]) + "\n"


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as opened:
        return opened.read()


def _events(target: Target) -> str:
    from nodeagent.health.documents import event_document
    from nodeagent.host.history import Query, read_history

    return json.dumps([event_document(one) for one in read_history(target.root, Query(limit=EVENTS))], indent=1)


def _kernel_log(target: Target) -> str:
    from nodeagent.host.kernel_follow import KmsgFollower

    follower = KmsgFollower(target.root)
    lines: list[str] = []
    try:
        while (batch := follower.read()).records or batch.foreign:
            lines += [f"[{record.microseconds / 1e6:12.6f}] {record.text}" for record in batch.records]
    finally:
        follower.close()
    return "\n".join(lines[-LOG_LINES:]) + "\n"


def without_secrets(text: str) -> str:
    """The text with values of secret keys, credentials and queries in URLs, and authorization headers left out.

    A path to a file that holds a secret stays: it says where, not what.
    """
    text = SECRET_KEY.sub(rf"\1{LEFT_OUT}", text)
    text = SECRET_URL.sub(rf"\1{LEFT_OUT}@", text)
    text = SECRET_QUERY.sub(rf"\1?{LEFT_OUT}", text)
    text = SECRET_PATH.sub(rf"\1/{LEFT_OUT}", text)
    text = SECRET_OPTION.sub(rf"\1{LEFT_OUT}", text)
    return BEARER.sub(rf"\1 {LEFT_OUT}", text)


def _write(path: str, folder: str, contents: dict[str, str]) -> None:
    """For the caller's eyes only: mode 0600, and never over a file that is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise DeniedError(
            "write", path, (error.strerror or str(error)).lower(), "name another with --output-file"
        ) from error
    with os.fdopen(descriptor, "wb") as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, text in sorted(contents.items()):
            data = text.encode()
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
