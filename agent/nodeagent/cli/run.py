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

from nodeagent import __version__
from nodeagent.cli.narrator import Narrator
from nodeagent.cli.output import Style, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.progress import Progress
from nodeagent.cli.target import Target, add_file_option, add_target_options, spec_of, target_of
from nodeagent.errors import GoneError
from nodeagent.host.link_watch import LinkWatch
from nodeagent.host.mps import scope_of_its_own
from nodeagent.host.notify import Notifier
from nodeagent.host.paths import CONTROL_SOCKET
from nodeagent.host.udev import UdevWatch
from nodeagent.metrics.document import telemetry_document
from nodeagent.metrics.server import serve
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.plan.summary import state_document
from nodeagent.resources.gpu_units import held_by
from nodeagent.spec.reader import read_spec
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.health import KEPT_FROM_WORK, Health
from nodeagent.state.node import NodeState
from nodeagent.supervisor.choices import Choices
from nodeagent.supervisor.control import Answers, ControlServer
from nodeagent.supervisor.health_facts import Reading
from nodeagent.supervisor.health_watch import HealthWatch
from nodeagent.supervisor.loop import Supervisor
from nodeagent.supervisor.mps_keeper import MpsKeeper
from nodeagent.supervisor.offer_desk import OfferDesk
from nodeagent.supervisor.otlp_push import OtlpPush
from nodeagent.supervisor.pod_watch import PodWatch
from nodeagent.supervisor.repair import Repairs
from nodeagent.supervisor.repair_orders import repair_document, repair_orders
from nodeagent.supervisor.sampler import Sampler
from nodeagent.supervisor.status import Identity, Status, status_document
from nodeagent.supervisor.validation_watch import ValidationWatch, Withdrawing
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
    parser = add_verb(subparsers, "run", common, _TEXT, _EPILOG)
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
    print(f"nodeagent {__version__} on {style('bold', target.title)}, file {path}", file=sys.stderr, flush=True)
    with ExitStack() as stack:
        stack.enter_context(target.lock())
        observer = stack.enter_context(target.observer(spec.loop.nvml_deadline_seconds))
        supervisor = _supervisor(observer, _listening(spec, arguments.listen), _identity(target, path), notifier, style)
        supervisor.read = lambda path: _listening(read_spec(path), arguments.listen)
        _attach(stack, supervisor, target, Narrator(style, sys.stderr))
        supervisor.run()
    print("stopped; the node stays as it is", file=sys.stderr)
    return 0


def _identity(target: Target, path: str) -> Identity:
    return Identity(os.getpid(), socket.gethostname(), target.simulated, path, time.time())


def _supervisor(observer: Observer, spec: NodeSpec, identity: Identity, notifier: Notifier, style: Style) -> Supervisor:
    watch, links = (UdevWatch(), LinkWatch()) if not identity.simulated else (None, None)
    waker = Waker(watch, links)
    waker.handle_signals()
    degraded = tuple(one.degraded for one in (watch, links) if one and one.degraded)
    return Supervisor(
        observer=observer,
        spec=spec,
        status=Status(identity, degraded=degraded),
        journal=Journal(observer.host.files),
        report=Progress(style, sys.stderr),
        waker=waker,
        notifier=notifier,
    )


def _listening(spec: NodeSpec, listen: str | None) -> NodeSpec:
    """The node file with --listen in place of metrics.listen, if it was given."""
    return spec if listen is None else replace(spec, metrics=replace(spec.metrics, listen=listen))


def _attach(stack: ExitStack, supervisor: Supervisor, target: Target, narrator: Narrator) -> None:
    """Those who only read: metrics server, sampler, control socket, terminal. They end in reverse order."""
    spec = supervisor.spec
    host = supervisor.observer.host
    choices = Choices(spec.metrics, host.files)
    sampler = Sampler(host, supervisor.hardware, lambda: supervisor.status, spec.loop.sample_seconds, choices)
    watch = HealthWatch(host, spec.health, target.path_of)
    supervisor.observer.health = lambda: watch.health if watch.health.generated else None
    desk = _desk(supervisor, watch, target)
    sampler.examine = lambda reading: _examined(supervisor, watch, desk, reading)
    repairs = _repairs(supervisor, watch)
    desk.held = lambda: held_by(repairs.memory.quarantines)
    watch.log.on_line = sampler.soon
    sampler.on_repartition = lambda: supervisor.waker.wake(Wake.MIG)
    proofs = _proofs(supervisor, sampler)
    sampler.push = push = OtlpPush(spec.metrics.otlp_endpoint)
    sampler.pods = pods = PodWatch(target.path_of(choices.pod_socket()), spec.loop.sample_seconds)
    sampler.network.statistics = target.statistics()

    def tell(status: Status) -> None:
        sampler.refresh(status)
        narrator(status)
        desk.ask()
        proofs.ask()

    supervisor.on_status = tell

    def follow(spec: NodeSpec) -> None:
        choices.take_over(spec.metrics)
        watch.take_over(spec.health)
        desk.take_over(spec)
        proofs.take_over(spec)
        sampler.pace(spec.loop.sample_seconds)
        push.endpoint = spec.metrics.otlp_endpoint
        pods.socket, pods.seconds = target.path_of(choices.pod_socket()), spec.loop.sample_seconds

    supervisor.on_spec = follow
    if spec.labels is not None and spec.labels.api:
        _attach_labels(stack, supervisor, target)
    if spec.metrics.listen:
        _serve_metrics(stack, supervisor, sampler, target)
    control = ControlServer(
        target.root.rstrip("/") + CONTROL_SOCKET, _answers(supervisor, sampler, (watch, repairs), desk)
    )
    stack.callback(control.close)
    for each in (watch, pods, push, desk, proofs):
        each.start()
        stack.callback(each.stop)
    sampler.start()
    stack.callback(sampler.stop)


def _proofs(supervisor: Supervisor, sampler: Sampler) -> ValidationWatch:
    watch = ValidationWatch(supervisor.observer, supervisor.spec, lambda: supervisor.status, supervisor.hardware)
    sampler.validation = watch.latest
    supervisor.report = Withdrawing(supervisor.report, watch)
    return watch


def _serve_metrics(stack: ExitStack, supervisor: Supervisor, sampler: Sampler, target: Target) -> None:
    """The port is taken before the first step, and its address is in the status."""
    section = supervisor.spec.metrics
    server = serve(section.listen, lambda: sampler.snapshot, target.path_of(section.web_config_file))
    stack.callback(server.close)
    supervisor.status = replace(supervisor.status, identity=replace(supervisor.status.identity, metrics=server.address))


def _attach_labels(stack: ExitStack, supervisor: Supervisor, target: Target) -> None:
    """The node object's labels; the node file is read through them from now on."""
    from nodeagent.kubernetes.api_client import access_from
    from nodeagent.kubernetes.node_api import NodeApi
    from nodeagent.kubernetes.node_watch import NodeWatch
    from nodeagent.supervisor.node_labels import NodeLabels

    files, read, tell = supervisor.observer.host.files, supervisor.read, supervisor.on_status
    access = access_from(os.environ, target.root)
    labels = NodeLabels(
        NodeApi(access),
        lambda: supervisor.status,
        lambda: supervisor.waker.wake(Wake.RELOAD),
        lambda path: files.read_optional(path) if path else None,
    )
    labels.watch = NodeWatch(NodeApi(access), labels.ask)  # a client of its own: its request stays open
    labels.spec = supervisor.spec

    def told(status: Status) -> None:
        tell(status)
        labels.ask()

    supervisor.on_status = told
    supervisor.read = lambda path: labels.overridden(read(path))
    labels.start()
    stack.callback(labels.stop)


def _desk(supervisor: Supervisor, watch: HealthWatch, target: Target) -> OfferDesk:
    """With the keeper of MPS daemons. A simulated node has none to start, and its shares are offered at once."""
    desk = _bare_desk(supervisor, watch, target)
    if target.simulated:
        desk.mps = lambda: frozenset(uuid for wish in desk.wanted_mps().values() for uuid, _ in wish.gpus)
    else:
        desk.keeper = keeper = MpsKeeper(desk.wanted_mps, desk.ask, launcher=scope_of_its_own())
        desk.mps = lambda: keeper.ready
    return desk


def _bare_desk(supervisor: Supervisor, watch: HealthWatch, target: Target) -> OfferDesk:
    return OfferDesk(
        supervisor.observer.host,
        supervisor.spec,
        lambda: _seen(supervisor.status),
        lambda: watch.health,
        supervisor.hardware,
        target.path_of,
    )


def _examined(supervisor: Supervisor, watch: HealthWatch, desk: OfferDesk, reading: Reading) -> Health:
    """One cycle of health, which decides about what pods may get."""
    before = watch.health
    found = watch.examine(reading)
    if supervisor.spec.labels is not None and _told(found) != _told(before):
        supervisor.waker.wake(Wake.HEALTH)
    desk.ask()
    return found


def _told(health: Health) -> tuple[object, ...]:
    """What labels say of it."""
    return health.verdict, {one.check for one in health.problems} & set(KEPT_FROM_WORK)


def _seen(status: Status) -> NodeState | None:
    return status.last.outcome.state if status.last else None


def _repairs(supervisor: Supervisor, watch: HealthWatch) -> Repairs:
    """Repair between the one who looks and the one who acts."""
    repairs = Repairs(supervisor.observer.host, lambda: supervisor.spec, watch.history.record)

    def after(health: Health) -> Health:
        considered = repairs.consider(health)
        if repairs.is_due:
            supervisor.waker.wake(Wake.REPAIR)
        return considered

    watch.after = after
    supervisor.repair = lambda context: repairs.act(supervisor.observer, context)
    return repairs


def _answers(supervisor: Supervisor, sampler: Sampler, health: tuple[HealthWatch, Repairs], desk: OfferDesk) -> Answers:
    watch, repairs = health

    def state() -> dict[str, Any]:
        last = supervisor.status.last
        if last is None:
            raise GoneError("show", "node", supervisor.status.trouble or "it has not been looked at yet")
        seen = supervisor.observer.add_holders(last.outcome.state, supervisor.spec.services)  # reads /proc only
        return {**state_document(seen), "observedUnixSeconds": last.ended_unix_seconds}

    def status() -> dict[str, Any]:
        return status_document(supervisor.status, supervisor.observer.host.nvml.pid())

    def telemetry() -> dict[str, Any]:
        return telemetry_document(sampler.view) if sampler.view else {}

    def metrics() -> dict[str, Any]:
        return {"text": sampler.snapshot.body.decode() if sampler.snapshot else ""}

    def ask(reason: Wake) -> dict[str, Any]:
        supervisor.waker.wake(reason)
        return {"asked": reason.value}

    return Answers(
        documents={
            "/v1/status": status,
            "/v1/state": state,
            "/v1/telemetry": telemetry,
            "/v1/metrics": metrics,
            "/v1/health": watch.document,
            "/v1/offers": desk.document,
            "/v1/repair": lambda: repair_document(repairs),
        },
        requests={"/v1/reconcile": lambda: ask(Wake.ASKED), "/v1/reload": lambda: ask(Wake.RELOAD)},
        orders=repair_orders(repairs, lambda: supervisor.waker.wake(Wake.REPAIR)),
    )
