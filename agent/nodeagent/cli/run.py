"""Verb `run`: the agent itself."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from nodeagent.cli.output import Style, style_for
from nodeagent.cli.progress import Progress
from nodeagent.cli.target import Target, add_file_option, add_target_options, spec_of, target_of
from nodeagent.host.lock import node_lock
from nodeagent.host.notify import Notifier
from nodeagent.host.paths import CONTROL_SOCKET
from nodeagent.host.udev import UdevWatch
from nodeagent.metrics.server import serve
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.plan.summary import state_document
from nodeagent.spec.schema import NodeSpec
from nodeagent.supervisor.control import Answers, ControlServer
from nodeagent.supervisor.loop import Supervisor
from nodeagent.supervisor.sampler import Sampler
from nodeagent.supervisor.status import Identity, Status, status_document
from nodeagent.supervisor.wake import Wake, Waker

_TEXT = "keep the node as the file says, and serve metrics and status until stopped"
_EPILOG = """\
signals: TERM stops between two steps, HUP reads the node file again

examples:
  nodeagent run
  nodeagent run --file node.yaml --listen 0.0.0.0:9400
  nodeagent run --simulate dgx-a100
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = subparsers.add_parser(
        "run",
        parents=[common],
        help=_TEXT,
        description=_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=_EPILOG,
    )
    add_file_option(parser)
    add_target_options(parser)
    parser.add_argument("--listen", metavar="HOST:PORT", default=None, help="override metrics.listen of the file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Everything is checked and opened before the first step: file, lock, host, socket, port."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    target = target_of(arguments)
    spec, path = spec_of(arguments, target)
    notifier = Notifier(os.environ)
    style = style_for(arguments, sys.stderr)
    with ExitStack() as stack:
        stack.enter_context(node_lock(target.root))
        observer = stack.enter_context(target.observer(spec.loop.nvml_deadline_seconds))
        supervisor = _supervisor(observer, spec, _identity(target, path), notifier, style)
        _attach(stack, supervisor, target, spec if arguments.listen is None else _listening(spec, arguments.listen))
        supervisor.run()
    return 0


def _identity(target: Target, path: str) -> Identity:
    return Identity(os.getpid(), socket.gethostname(), target.simulated, path, time.time())


def _supervisor(observer: Observer, spec: NodeSpec, identity: Identity, notifier: Notifier, style: Style) -> Supervisor:
    watch = UdevWatch() if not identity.simulated else None
    waker = Waker(watch)
    waker.handle_signals()
    degraded = (watch.degraded,) if watch and watch.degraded else ()
    return Supervisor(
        observer=observer,
        spec=spec,
        status=Status(identity, degraded=degraded),
        journal=Journal(observer.host.files),
        report=Progress(style, sys.stderr),
        waker=waker,
        notifier=notifier,
    )


def _listening(spec: NodeSpec, listen: str) -> NodeSpec:
    return replace(spec, metrics=replace(spec.metrics, listen=listen))


def _attach(stack: ExitStack, supervisor: Supervisor, target: Target, spec: NodeSpec) -> None:
    """Those who only read: metrics server, sampler, control socket. They end in reverse order."""
    sampler = Sampler(
        supervisor.observer.host, supervisor.hardware, lambda: supervisor.status, spec.loop.sample_seconds
    )
    supervisor.on_status = sampler.refresh
    if spec.metrics.listen:
        server = serve(spec.metrics.listen, lambda: sampler.snapshot)
        stack.callback(server.close)
        supervisor.status = replace(
            supervisor.status, identity=replace(supervisor.status.identity, metrics=server.address)
        )
        print(f"metrics on http://{server.address}/metrics", file=sys.stderr)
    control = ControlServer(target.root.rstrip("/") + CONTROL_SOCKET, _answers(supervisor))
    stack.callback(control.close)
    sampler.start()
    stack.callback(sampler.stop)


def _answers(supervisor: Supervisor) -> Answers:
    def state() -> dict[str, Any]:
        last = supervisor.status.last
        return state_document(last.outcome.state) if last else {}

    def ask(reason: Wake) -> dict[str, Any]:
        supervisor.waker.wake(reason)
        return {"asked": reason.value}

    return Answers(
        documents={"/v1/status": lambda: status_document(supervisor.status), "/v1/state": state},
        requests={"/v1/reconcile": lambda: ask(Wake.ASKED), "/v1/reload": lambda: ask(Wake.RELOAD)},
    )
