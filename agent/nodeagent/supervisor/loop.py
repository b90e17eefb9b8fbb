"""The supervisor: one thread that observes and acts, woken by whatever happens, never faster than it is useful."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nodeagent.errors import NodeAgentError, SpecError
from nodeagent.host.notify import Notifier
from nodeagent.plan.convergence import Outcome, converge, goal_of, survey
from nodeagent.plan.executor import Context, Report
from nodeagent.plan.journal import Journal
from nodeagent.plan.observing import Observer
from nodeagent.spec.reader import read_spec
from nodeagent.spec.schema import NodeSpec
from nodeagent.supervisor.backoff import Backoff
from nodeagent.supervisor.status import Pass, Status
from nodeagent.supervisor.wake import Wake, Waker, fingerprint

TICK_SECONDS = 2.0  # how often a changed node file is noticed, and how often the watchdog is fed at least
DEBOUNCE_SECONDS = 0.5  # events come in bursts: a driver load alone makes dozens
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


@dataclass
class Supervisor:
    """The running agent. `status` is replaced as a whole after each pass and may be read from any thread.

    `hardware` is held while steps are taken, so that nobody else touches what is being made quiet.
    """

    observer: Observer
    spec: NodeSpec
    status: Status
    journal: Journal
    report: Report
    waker: Waker
    notifier: Notifier
    hardware: threading.Lock = field(default_factory=threading.Lock)
    on_status: Callable[[Status], None] = lambda _status: None

    def __post_init__(self) -> None:
        self._backoff = Backoff(self.spec.loop.backoff_seconds, random.Random())  # noqa: S311 - spreads retries only
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
        self.notifier.stopping()

    def stop_asked(self) -> bool:
        """Whether to stop between two steps; collects wake-ups that came in meanwhile."""
        self._attend(self.waker.wait(0))
        self.notifier.progress()
        return self._stopping

    def _patience(self) -> float:
        tick = (
            TICK_SECONDS
            if self.notifier.watchdog_seconds is None
            else min(TICK_SECONDS, self.notifier.watchdog_seconds / 3)
        )
        return min(tick, self._schedule.due - time.monotonic())

    def _attend(self, reasons: frozenset[Wake]) -> None:
        now = time.monotonic()
        if Wake.STOP in reasons:
            self._stopping = True
        if fingerprint([self.status.identity.file]) != self._seen:
            reasons |= {Wake.FILE}
        if reasons & {Wake.RELOAD, Wake.FILE}:
            self._reload()
        for reason in reasons - {Wake.STOP, Wake.TIMER}:
            self._schedule.ask(reason.value, now + (DEBOUNCE_SECONDS if reason is Wake.UDEV else 0))

    def _reload(self) -> None:
        """Read the node file again; a bad one is reported and the last good one stays in force."""
        self.notifier.reloading()
        self._seen = fingerprint([self.status.identity.file])
        try:
            self.spec = read_spec(self.status.identity.file)
        except SpecError as error:
            log.error("node file not taken over, the last good one stays in force: %s", error)  # noqa: TRY400
            self._publish(replace(self.status, spec_error=str(error)))
        else:
            log.info("node file read again: %s", self.status.identity.file)
            self._backoff.first_seconds = self.spec.loop.backoff_seconds
            self._backoff.reset()
            self._publish(replace(self.status, spec_error=""))
        self.notifier.ready(self.status.line)

    def _look(self) -> None:
        started = time.monotonic()
        state, plan = survey(self.observer, goal_of(self.spec))
        look = Pass(Outcome(state, plan), ("start",), time.time(), time.monotonic() - started)
        self._publish(replace(self.status, last=look))

    def _pass(self) -> None:
        started = time.monotonic()
        reasons = tuple(sorted(self._schedule.reasons)) or (Wake.TIMER.value,)
        self._schedule = Schedule(float("inf"))
        try:
            with self.hardware:
                outcome = self._converge(started)
        except NodeAgentError as error:
            # An observation that fails as a whole, as with a damaged journal: nothing was changed, try again later.
            log.error("pass failed: %s", error)  # noqa: TRY400
            self._publish(replace(self.status, trouble=str(error), passes=self.status.passes + 1))
        else:
            self._record(outcome, reasons, started)
        self._plan_next(started)

    def _converge(self, now: float) -> Outcome:
        goal = goal_of(self.spec)
        goal = replace(goal, terms=replace(goal.terms, postponed=self._backoff.postponed(now)))
        return converge(goal, Context(self.observer, self.journal, self.report, self.stop_asked))

    def _record(self, outcome: Outcome, reasons: tuple[str, ...], started: float) -> None:
        now = time.monotonic()
        failed = {failure.step.unit: str(failure) for failure in outcome.failures}
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
                passes=self.status.passes + 1,
                trouble="",
                postponed=self._backoff.postponed(now),
                failures_total=totals,
            )
        )

    def _plan_next(self, started: float) -> None:
        """The next pass: after the interval, sooner where something waits; never sooner than asked meanwhile."""
        now = time.monotonic()
        seconds = self.spec.loop.interval_seconds * (1 + random.uniform(-JITTER, JITTER))  # noqa: S311
        last = self.status.last
        if self.status.trouble or (last and not last.outcome.plan.converged):
            seconds = min(seconds, max(BLOCKED_SECONDS, now - started))
        retry = self._backoff.next_try(now)
        if retry is not None:
            seconds = min(seconds, retry)
        self._schedule.due = min(self._schedule.due, now + seconds)

    def _publish(self, status: Status) -> None:
        self.status = status
        self.on_status(status)
        self.notifier.status(status.line)
