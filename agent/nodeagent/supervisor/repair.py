"""Repair at work: after each look at the node's health it is decided what to do, before each pass it is done.

Deciding happens in the thread that looks, acting in the one that acts. What limits it is on disk before anything is
done, so that neither a crash nor a restart is a way around it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError, NodeAgentError
from nodeagent.host.files import rooted
from nodeagent.host.history import Entry
from nodeagent.host.paths import REBOOT_REQUEST, REMEDIATION
from nodeagent.host.ports import Host
from nodeagent.plan.convergence import Goal, goal_of, once, survey
from nodeagent.plan.executor import Context, Result
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.plan.sequencer import sequence
from nodeagent.remediation.decide import by_identity, decide
from nodeagent.remediation.follow import Told, began, ended, findings_of, follow, resumed
from nodeagent.remediation.memory import decode, encode
from nodeagent.remediation.wishes import drain_reason, drain_wish, reboot_wish, wish_for
from nodeagent.resources.base import Wish
from nodeagent.resources.kernel_modules import names_of_interest
from nodeagent.spec.remediation import RemediationMode
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.health import NODE, EventKind, Health, HealthEvent
from nodeagent.state.repair import Answer, AttemptOutcome, Decision, RepairMemory, Standing

PREVIEWED = (Standing.READY, Standing.ASKS, Standing.DRY_RUN, Standing.WAITING)
CHORE_REST_SECONDS = 60.0  # after Slurm did not answer, or the disk refused

log = logging.getLogger("nodeagent")
Record = Callable[[Entry], object]


@dataclass(frozen=True)
class Preview:
    """What a decision would come to now: its steps in order, and who or what is in the way."""

    steps: tuple[str, ...] = ()
    in_the_way: tuple[str, ...] = ()


@dataclass
class Repairs:
    """Decisions and memory of one node. `spec` is the node file in force, `record` keeps events in the history.

    `trouble` says why repair is off although it is declared: a damaged memory, a disk that refuses.
    """

    host: Host
    spec: Callable[[], NodeSpec]
    record: Record
    memory: RepairMemory = field(default_factory=RepairMemory)
    decisions: tuple[Decision, ...] = ()
    previews: Mapping[str, Preview] = field(default_factory=dict)
    trouble: str = ""

    def __post_init__(self) -> None:
        self._lock = threading.RLock()
        self._health = Health()
        self._rest_until: dict[str, float] = {}
        self._read()

    # In the thread that looks.

    def consider(self, health: Health) -> Health:
        """Decide; the same health with what repair has to say."""
        with self._lock:
            self._health = health
            self._decide()
            return replace(health, findings=(*health.findings, *findings_of(self.memory)))

    @property
    def is_due(self) -> bool:
        """Whether the acting thread has something to do or to look at."""
        with self._lock:
            open_ = {one.identity for one in self.decisions if one.standing in PREVIEWED}
            has_ready = any(one.standing is Standing.READY for one in self.decisions)
            return has_ready or not open_ <= self.previews.keys() or bool(self._chore().steps)

    def _decide(self) -> None:
        section, findings, now = self.spec().remediation, self._health.findings, self._health.generated
        if self.trouble or not now:
            self.decisions = ()
            return
        found = decide(findings, section, self.memory, now)
        followed = follow(findings, found, section, self.memory, now)
        self._keep(followed.memory, followed.told)
        self.decisions = decide(findings, section, self.memory, now)

    # In the thread that acts.

    def act(self, observer: Observer, context: Context) -> None:
        """Do what is ready and free, one thing at most; say of the rest what is in the way."""
        try:
            self._do_chores(context)
            with self._lock:
                wanted = tuple(one for one in self.decisions if one.standing in PREVIEWED)
            if not wanted:
                self.previews = {}
                return
            free = self._preview(wanted, observer)
            if free is not None:
                self._take(free, context)
        except NodeAgentError as error:
            log.error("repair: %s", error)

    def _goal(self, wish: Callable[..., Wish]) -> Goal:
        spec = self.spec()
        names = names_of_interest(spec, spec.remediation.reload)
        return Goal(lambda state: (wish(state),), names, goal_of(spec).terms)

    def _preview(self, wanted: Iterable[Decision], observer: Observer) -> Decision | None:
        """Plan each; the first that is ready and free, or impossible, which is an attempt as well."""
        spec, wanted = self.spec(), tuple(wanted)
        goal = self._goal(lambda state: _joined(wish_for(one, spec, state) for one in wanted))
        state, _ = survey(observer, goal)
        plans = {one.identity: sequence((wish_for(one, spec, state),), state, goal.terms) for one in wanted}
        self.previews = {identity: _preview(plan) for identity, plan in plans.items()}
        ready = (one for one in wanted if one.standing is Standing.READY)
        return next((one for one in ready if _is_due(plans[one.identity])), None)

    def _take(self, decision: Decision, context: Context) -> None:
        spec = self.spec()
        goal = self._goal(lambda state: wish_for(decision, spec, state))

        def before(plan: Plan) -> None:
            if _is_due(plan):
                self._begin(decision)

        outcome, text = AttemptOutcome.DONE, ""
        try:
            done = once(goal, lambda _plan: replace(goal, wishes=lambda _state: ()), context, before)
            outcome, text = _outcome(done.results)
        except NodeAgentError as error:
            text = f"broken off: {error}"
        if outcome is AttemptOutcome.FAILED and not text:
            text = "; ".join(self.previews[decision.identity].in_the_way) or "it could not be done"
        with self._lock:
            if any(one.outcome is AttemptOutcome.BEGUN for one in self.memory.attempts):
                self._end(decision, outcome, text)

    def _begin(self, decision: Decision) -> None:
        """Raises HostError where it cannot be kept, and then nothing is done."""
        with self._lock:
            memory = began(self.memory, decision, time.time())
            self.host.files.replace(REMEDIATION, encode(memory))
            self.memory = memory
            self._tell([Told(decision.subject, f"{decision.action}: begun, {decision.reason}")])

    def _end(self, decision: Decision, outcome: AttemptOutcome, text: str) -> None:
        words = f"{decision.action}: {outcome}" + (f", {text}" if text else "")
        self._keep(ended(self.memory, outcome, text, time.time()), [Told(decision.subject, words)])
        if outcome is AttemptOutcome.DONE:
            self._acknowledge(decision)
        self.previews = {}
        self._decide()

    def _acknowledge(self, decision: Decision) -> None:
        """Past Xids are dealt with: what is still wrong shows in the checks and in new ones."""
        subjects = dict.fromkeys(one.subject for one in decision.findings if one.check == "xid")
        text = f"{decision.action}: its errors until now are dealt with"
        events = tuple(HealthEvent(time.time(), EventKind.ACTION, one, text, "xid") for one in subjects)
        if events:
            self._record(events)

    # What is not limited, because it is done once and can be taken back: the drain, the request for a reboot.

    def _chore(self) -> Wish:
        spec, memory = self.spec(), self.memory
        if self.trouble:
            return Wish()
        before = self.host.files.read_optional(REBOOT_REQUEST)
        reboot = reboot_wish(REBOOT_REQUEST, before, memory)
        drain = drain_wish(self._slurm_node(), drain_reason(spec, memory), memory.drained)
        return next((wish for wish in (reboot, drain) if wish.steps and not self._rests(wish)), Wish())

    def _rests(self, wish: Wish) -> bool:
        """Whether it was refused a moment ago; a Slurm that does not answer holds up no request for a reboot."""
        return time.monotonic() < self._rest_until.get(wish.steps[0].unit, 0.0)

    def _slurm_node(self) -> str:
        return self.spec().remediation.quarantine.slurm_node or socket.gethostname().partition(".")[0]

    def _do_chores(self, context: Context) -> None:
        with self._lock:
            wish, before = self._chore(), self.memory.drained
            why = drain_reason(self.spec(), self.memory)
        if not wish.steps:
            return
        drains = wish.steps[0].unit == "repair/slurm"
        if drains and why:  # known before it is done: what is not known to be ours is never lifted
            self._keep_safely(replace(self.memory, drained=why))
        goal = self._goal(lambda _state: wish)
        done = once(goal, lambda _plan: replace(goal, wishes=lambda _state: ()), context)
        failures = [failure for result in done.results for failure in result.failures]
        if failures:
            log.error("repair: %s", failures[0])
            self._rest_until[wish.steps[0].unit] = time.monotonic() + CHORE_REST_SECONDS
        with self._lock:
            drained = (before if failures else why) if drains else self.memory.drained
            told = [] if failures else [Told(NODE, str(step)) for step in wish.steps]
            self._keep(replace(self.memory, drained=drained), told)

    def _keep_safely(self, memory: RepairMemory) -> None:
        with self._lock:
            self.host.files.replace(REMEDIATION, encode(memory))
            self.memory = memory

    # In the threads of the control socket.

    def answer(self, identity: str, uid: int, *, approved: bool) -> Decision:
        """Approve or deny; the decision. HostError where there is none that waits for an answer."""
        with self._lock:
            found = by_identity(self.decisions).get(identity)
            if found is None or found.action is None:
                known = ", ".join(one.identity for one in self.decisions if one.action) or "none"
                raise HostError("answer", f"repair {identity}", "there is no such decision", f"there is {known}")
            answers = {**self.memory.answers, identity: Answer(approved, uid, time.time())}
            word = "approved" if approved else "denied"
            self._keep(
                replace(self.memory, answers=answers), [Told(found.subject, f"{found.action}: {word} by user {uid}")]
            )
            self._decide()
            return by_identity(self.decisions).get(identity, found)

    def pause(self, uid: int, *, paused: bool) -> None:
        """No action begins while paused; quarantines stay as they are."""
        with self._lock:
            words = f"by user {uid}" if paused else ""
            self._keep(replace(self.memory, paused=words), [Told(NODE, _paused(words))])
            self._decide()

    # The memory.

    def _read(self) -> None:
        try:
            text = self.host.files.read_optional(REMEDIATION)
            if text is not None:
                self.memory = resumed(decode(text, rooted(self.host.files.root, REMEDIATION)), time.time())
        except HostError as error:
            self.trouble = str(error)
            log.error("repair is off: %s", error)

    def _keep(self, memory: RepairMemory, told: Iterable[Told]) -> None:
        """On disk first. Where the disk refuses, repair is off until it does not."""
        if memory != self.memory:
            try:
                self.host.files.replace(REMEDIATION, encode(memory))
            except HostError as error:
                log.error("repair: %s", error)
                return
            self.memory = memory
        self._tell(told)

    def _tell(self, told: Iterable[Told]) -> None:
        events = tuple(HealthEvent(time.time(), EventKind.ACTION, one.subject, one.text, "repair") for one in told)
        for event in events:
            log.info("repair: %s: %s", event.subject, event.text)
        if events:
            self._record(events)

    def _record(self, events: tuple[HealthEvent, ...]) -> None:
        try:
            self.record(Entry(events))
        except HostError as error:
            log.error("history: %s", error)

    @property
    def is_on(self) -> bool:
        return self.spec().remediation.mode is RemediationMode.ON and not self.trouble


def _paused(words: str) -> str:
    return f"repair is paused {words}" if words else "repair goes on"


def _joined(wishes: Iterable[Wish]) -> Wish:
    return Wish(tuple(step for wish in wishes for step in wish.steps))


def _is_due(plan: Plan) -> bool:
    """It can be done as a whole, or it can never be done, which is tried and has failed at once."""
    impossible = any(not one.waits for one in plan.obstacles)
    return impossible or (not plan.blocked and any(not one.is_owed for one in plan.transitions))


def _preview(plan: Plan) -> Preview:
    steps = tuple(str(step) for transition in plan.transitions for step in transition.steps)
    blocked = tuple(dict.fromkeys(_cause(one.cause, tuple(map(str, one.blockers))) for one in plan.blocked))
    obstacles = tuple(f"{one.problem}; {one.advice}" if one.advice else one.problem for one in plan.obstacles)
    return Preview(steps or tuple(str(one.step) for one in plan.blocked), blocked + obstacles)


def _cause(cause: str, blockers: tuple[str, ...]) -> str:
    return f"{cause}: {'; '.join(blockers)}" if blockers else cause


def _outcome(results: Iterable[Result]) -> tuple[AttemptOutcome, str]:
    """What came of it as far as the host says; whether it healed shows later."""
    results = tuple(results)
    failures = [str(failure) for result in results for failure in result.failures]
    acted = any(result.acted for result in results)
    if failures:
        return AttemptOutcome.FAILED, "; ".join(failures)
    return (AttemptOutcome.DONE if acted else AttemptOutcome.FAILED), ""
