"""The supervisor: one thread that observes and acts, woken by whatever happens, never faster than it is useful."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError, NodeAgentError, SpecError
from nodeagent.host.notify import Notifier
from nodeagent.plan.convergence import Outcome, converge, goal_of, survey
from nodeagent.plan.executor import Context, Report, Result
from nodeagent.plan.journal import Journal, Phase
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.spec.reader import read_spec
from nodeagent.spec.schema import NodeSpec
from nodeagent.supervisor.backoff import Backoff
from nodeagent.supervisor.status import Pass, Status
from nodeagent.supervisor.wake import Wake, Waker, fingerprint

TICK_SECONDS = 2.0  # how often a changed node file is noticed, and how often the watchdog is fed at least
DEBOUNCE_SECONDS = 0.5  # events come in bursts: a driver load alone makes dozens
EVENT_REST_SECONDS = 2.0  # after a pass, so that a node whose interfaces come and go all the time costs little
BLOCKED_SECONDS = 15.0  # a holder that goes away sends no event
JITTER = 0.1

log = logging.getLogger("nodeagent")


@dataclass
class Schedule:
    """When the next pass is due, in monotonic seconds."""

    due: float
    reasons: set[str] = field(default_factory=set)

    def ask(self, reason: str, at: float) -> None:
        self.due = min(self.due, at)
        self.reasons.add(reason)


@dataclass(frozen=True)
class Followed:
    """A report that also tells which step is being taken."""

    report: Report
    tell: Callable[[Step], None]

    def started(self, phase: Phase, step: Step) -> None:
        self.tell(step)
        self.report.started(phase, step)

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None:
        self.report.finished(phase, step, error)

    def skipped(self, step: Step, reason: str) -> None:
        self.report.skipped(step, reason)


def needs_restart(running: NodeSpec, wanted: NodeSpec) -> tuple[str, ...]:
    """Keys whose new value comes into force with the next start of the agent only."""
    changed = {
        "metrics.listen": running.metrics.listen != wanted.metrics.listen,
        "metrics.web_config_file": running.metrics.web_config_file != wanted.metrics.web_config_file,
        "labels.api": _publishes(running) != _publishes(wanted),
        "loop.nvml_deadline_seconds": running.loop.nvml_deadline_seconds != wanted.loop.nvml_deadline_seconds,
    }
    return tuple(name for name, is_changed in changed.items() if is_changed)


def _publishes(spec: NodeSpec) -> bool:
    return spec.labels is not None and spec.labels.api


@dataclass
class Supervisor:
    """The running agent. `status` is replaced as a whole after each pass and may be read from any thread.

    `hardware` is held while steps are taken, so that nobody else touches what is being made quiet. `read` reads the
    node file again. `on_status` is told every status, `on_spec` every node file that is taken over. `repair` acts on
    findings before each pass.
    """

    observer: Observer
    spec: NodeSpec
    status: Status
    journal: Journal
    report: Report
    waker: Waker
    notifier: Notifier
    hardware: threading.Lock = field(default_factory=threading.Lock)
    read: Callable[[str], NodeSpec] = read_spec
    on_status: Callable[[Status], None] = lambda _status: None
    on_spec: Callable[[NodeSpec], None] = lambda _spec: None
    repair: Callable[[Context], None] = lambda _context: None

    def __post_init__(self) -> None:
        self._started_with = self.spec
        self._ended = -EVENT_REST_SECONDS
        self._chance = random.SystemRandom()
        self._backoff = Backoff(self.spec.loop.backoff_seconds, self._chance)
        self._stopping = False
        self._seen = fingerprint([self.status.identity.file])
        self._schedule = Schedule(time.monotonic(), {"start"})

    def run(self) -> None:
        """Pass after pass until told to stop. Ready means that the node has been looked at, not that it is right."""
        self._look()
        self.notifier.ready(self.status.line)
        self._pass()
        while not self._stopping:
            self._attend(self.waker.wait(self._patience()))
            self.notifier.progress()
            if not self._stopping and time.monotonic() >= self._schedule.due:
                self._pass()

    def stop_asked(self) -> bool:
        """Whether to stop between two steps; collects wake-ups that came in meanwhile."""
        self._attend(self.waker.wait(0))
        self.notifier.progress()
        return self._stopping

    def _patience(self) -> float:
        tick = min(TICK_SECONDS, self.notifier.watchdog_seconds / 3 or TICK_SECONDS)
        return min(tick, self._schedule.due - time.monotonic())

    def _attend(self, reasons: frozenset[Wake]) -> None:
        if Wake.STOP in reasons and not self._stopping:
            self._stopping = True
            self.notifier.stopping()
        if self._stopping:
            return
        if fingerprint([self.status.identity.file]) != self._seen:
            reasons |= {Wake.FILE}
        if reasons & {Wake.RELOAD, Wake.FILE}:
            self._reload()
        now = time.monotonic()
        settled = max(now + DEBOUNCE_SECONDS, self._ended + EVENT_REST_SECONDS)
        for reason in reasons - {Wake.TIMER}:
            self._schedule.ask(reason.value, settled if reason in (Wake.UDEV, Wake.LINK) else now)

    def _reload(self) -> None:
        """Read the node file again; a bad one is reported and the last good one stays in force."""
        self.notifier.reloading()
        self._seen = fingerprint([self.status.identity.file])
        try:
            spec = self.read(self.status.identity.file)
        except SpecError as error:
            log.error("node file not taken over, the last good one stays in force: %s", error)
            self._publish(replace(self.status, spec_error=str(error)))
        else:
            self._take_over(spec)
        self.notifier.ready(self.status.line)

    def _take_over(self, spec: NodeSpec) -> None:
        log.info("node file read again: %s", self.status.identity.file)
        restart = needs_restart(self._started_with, spec)
        if restart:
            log.warning("comes into force with the next start only: %s", ", ".join(restart))
        self.spec = spec
        self._backoff.first_seconds = spec.loop.backoff_seconds
        self._backoff.reset()
        self.on_spec(spec)
        self._publish(replace(self.status, spec_error="", postponed={}, needs_restart=restart))

    def _look(self) -> None:
        """The first look; a node that cannot be observed yet is no reason to give up."""
        started = time.monotonic()
        try:
            state, plan = survey(self.observer, goal_of(self.spec))
        except NodeAgentError as error:
            self._publish(replace(self.status, trouble=str(error)))
        else:
            look = Pass(Outcome(state, plan), ("start",), time.time(), time.monotonic() - started)
            self._publish(replace(self.status, last=look))

    def _pass(self) -> None:
        started = time.monotonic()
        reasons = tuple(sorted(self._schedule.reasons)) or (Wake.TIMER.value,)
        self._schedule = Schedule(float("inf"))
        try:
            with self.hardware:  # until it is recorded: whoever reads the hardware next knows what we did to it
                self._record(self._converge(started), reasons, started)
        except NodeAgentError as error:
            # An observation that fails as a whole, as with a damaged journal: nothing was changed, try again later.
            log.error("pass failed: %s", error)
            self._publish(replace(self.status, step="", trouble=str(error), passes=self.status.passes + 1))
        self._ended = time.monotonic()
        self._plan_next(started)

    def _converge(self, now: float) -> Outcome:
        goal = goal_of(self.spec)
        goal = replace(goal, terms=replace(goal.terms, postponed=self._backoff.postponed(now)))
        report = Followed(self.report, self._tell_step)
        context = Context(self.observer, self.journal, report, self.stop_asked)
        self.repair(context)
        return converge(goal, context)

    def _tell_step(self, step: Step) -> None:
        self.status = replace(self.status, step=str(step))
        self.notifier.status(self.status.line)

    def _record(self, outcome: Outcome, reasons: tuple[str, ...], started: float) -> None:
        now = time.monotonic()
        failed = {unit: _reason(result, unit) for result in outcome.results for unit in result.failed_units}
        for unit, reason in failed.items():
            self._backoff.failed(unit, reason, now)
        wanted = {step.unit for transition in outcome.plan.transitions for step in transition.steps}
        wanted |= {entry.step.unit for entry in outcome.plan.blocked}
        self._backoff.succeeded(set(self._backoff.waits) - wanted - set(failed))
        totals = dict(self.status.failures_total)
        for unit in failed:
            totals[unit] = totals.get(unit, 0) + 1
        self._publish(
            replace(
                self.status,
                last=Pass(outcome, reasons, time.time(), now - started),
                step="",
                passes=self.status.passes + 1,
                trouble="",
                postponed=self._backoff.postponed(now),
                failures_total=totals,
            )
        )

    def _plan_next(self, started: float) -> None:
        """The next pass: after the interval, sooner where something waits; never sooner than asked meanwhile."""
        now = time.monotonic()
        seconds = self.spec.loop.interval_seconds * (1 + self._chance.uniform(-JITTER, JITTER))
        last = self.status.last
        unread = last is not None and any(item.what.startswith("GPU") for item in last.outcome.state.unknown)
        if self.status.trouble or unread or (last and not last.outcome.plan.converged):
            seconds = min(seconds, max(BLOCKED_SECONDS, now - started))
        retry = self._backoff.next_try(started, now)
        if retry is not None:
            seconds = min(seconds, retry)
        self._schedule.due = min(self._schedule.due, now + seconds)

    def _publish(self, status: Status) -> None:
        self.status = status
        self.on_status(status)
        self.notifier.status(status.line)


def _reason(result: Result, unit: str) -> str:
    """Why the unit failed: its own first failure, else what failed before it."""
    own = [failure for failure in result.failures if failure.step.unit == unit]
    return str((*own, *result.failures)[0])
