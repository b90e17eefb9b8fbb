"""Carries out one transition: journals each step before taking it, undoes failures, restores what was quiesced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from typing import Protocol

from nodeagent.errors import HostError
from nodeagent.plan.journal import Journal, Phase, Status
from nodeagent.plan.model import Transition
from nodeagent.plan.observing import Observer
from nodeagent.resources.base import Step
from nodeagent.state.things import Thing

CARD_UNIT = "quiet/"  # followed by a card's PCI address, and another / and that of its function (plan.parking)
MOST_LANES = 16


class Report(Protocol):
    """Who is told about progress, step by step."""

    def started(self, phase: Phase, step: Step) -> None: ...

    def finished(self, phase: Phase, step: Step, error: HostError | None) -> None: ...

    def skipped(self, step: Step, reason: str) -> None: ...


@dataclass(frozen=True)
class Failure:
    """A step the host refused, and in which phase."""

    phase: Phase
    step: Step
    error: HostError

    def __str__(self) -> str:
        error = self.error
        name = error.subject.rpartition(" ")[2]  # "gpu GPU-…" is what a step calls "GPU-…"
        told = str(self.step).startswith((f"{error.operation} {error.subject}", f"{error.operation} {name}"))
        reason = f"{error.reason}; {error.advice}" if error.advice else error.reason
        text = f"{self.step}: {reason if told else error}"
        return text if self.phase is Phase.ACT else f"{self.phase} {text}"


@dataclass(frozen=True)
class Context:
    """What a run works with. `stop` is asked between acts: when it says yes, no further act begins."""

    observer: Observer
    journal: Journal
    report: Report
    stop: Callable[[], bool] = lambda: False


@dataclass
class _Run:
    """The running transition: what happened so far."""

    context: Context
    failures: list[Failure] = field(default_factory=list)
    lost: set[Thing] = field(default_factory=set)  # what should have come back and is not there
    lock: threading.Lock = field(default_factory=threading.Lock)  # the report is told by one at a time

    def take(self, phase: Phase, step: Step) -> bool:
        self.context.journal.note(phase, step, Status.INTENT)
        with self.lock:
            self.context.report.started(phase, step)
        try:
            step.apply(self.context.observer.host)
        except HostError as error:
            with self.lock:
                self.failures.append(Failure(phase, step, error))
                self.context.report.finished(phase, step, error)
            self.context.journal.note(phase, step, Status.FAILED)
            return False
        with self.lock:
            self.context.report.finished(phase, step, None)
        self.context.journal.note(phase, step, Status.DONE)
        return True

    def bring_back(self, phase: Phase, step: Step) -> None:
        """Take the step unless what it stands on is not there: waiting for that would be in vain, and it stays owed."""
        if self.lost.intersection(step.after):
            with self.lock:
                self.context.report.skipped(step, "what it stands on is not back")
            self.lost.add(step.subject)
        elif self.take(phase, step):
            self.lost.discard(step.subject)
        else:
            self.lost.add(step.subject)


@dataclass(frozen=True)
class Result:
    """What came of a transition. `failed_units` are to be backed off; `acted` are the acts that stand.

    `held_back` are the units of the acts that were not begun because quiescing failed: it is for them that things would
    be quiesced again, so they are backed off instead of the unit of the quiesce step.
    """

    acted: tuple[Step, ...]
    failures: tuple[Failure, ...]
    stopped: bool = False
    held_back: frozenset[str] = frozenset()

    @property
    def failed_units(self) -> frozenset[str]:
        refused = (failure.step.unit for failure in self.failures if failure.phase is not Phase.QUIESCE)
        return self.held_back.union(refused)


def execute(transition: Transition, context: Context, owed: Sequence[Step] = ()) -> Result:
    """Carry out the transition. A refusal of the host is never raised: failures are in the result.

    `owed` is what an earlier, interrupted transition still owes; it stays in the journal until the node is seen to have
    it. When told to stop, no further act begins, half-done units are undone, and what was quiesced is restored.
    """
    run = _Run(context)
    context.journal.begin(transition, owed)
    if transition.is_owed:
        return _settle(run, transition.acts)
    quieted = _quiesce(run, transition)
    ready = len(quieted) == len(transition.quiesce)
    acted, stopped = _act(run, transition.acts) if ready else ((), False)
    _restore(run, transition, quieted)
    context.journal.end()
    held_back = frozenset() if ready else frozenset(step.unit for step in transition.acts)
    return Result(acted, tuple(run.failures), stopped, held_back)


def _settle(run: _Run, owed: Sequence[Step]) -> Result:
    """Bring back what an interrupted transition owes. Nothing of it is undone: what is there again stays."""
    stopped = _bring_back(run, Phase.ACT, owed, run.context.stop)
    failed = [failure.step for failure in run.failures]
    done = tuple(step for step in owed if step not in failed and step.subject not in run.lost)
    run.context.journal.end()
    return Result(() if stopped else done, tuple(run.failures), stopped)


def _quiesce(run: _Run, transition: Transition) -> tuple[Thing, ...]:
    """Subjects that let go, up to the first that would not."""
    quieted: list[Thing] = []
    for step in transition.quiesce:
        if not run.take(Phase.QUIESCE, step):
            for act in transition.acts:
                run.context.report.skipped(act, f"{step} failed")
            break
        quieted.append(step.subject)
    return tuple(quieted)


def _act(run: _Run, acts: Sequence[Step]) -> tuple[tuple[Step, ...], bool]:
    """Take the acts in order; undo the unit of one that fails and skip what comes after it."""
    acted: list[Step] = []
    lost: set[Thing] = set()
    lost_units: set[str] = set()
    for step in acts:
        if run.context.stop():
            return _finish_units(run, acts, acted), True
        if step.unit in lost_units or lost.intersection((step.subject, *step.after)):
            run.context.report.skipped(step, "a step before it failed")
            lost.add(step.subject)
            continue
        if run.take(Phase.ACT, step):
            acted.append(step)
            continue
        lost_units.add(step.unit)
        lost.add(step.subject)
        kept = _undo_dependent(run, step.unit, acted)
        lost.update(thing for undone in acted if undone not in kept for thing in undone.back)
        acted = kept
    return tuple(acted), False


def _finish_units(run: _Run, acts: Sequence[Step], acted: list[Step]) -> tuple[Step, ...]:
    """Told to stop: undo units that are only half done, so that nothing is left in between."""
    half = {step.unit for step in acts if step not in acted} & {step.unit for step in acted}
    for unit in half:
        acted = _undo_dependent(run, unit, acted)
    return tuple(acted)


def _undo_dependent(run: _Run, unit: str, acted: list[Step]) -> list[Step]:
    """Undo the unit's acts, newest first, together with acts of other units that stand on what goes away with them."""
    doomed = [step for step in acted if step.unit == unit]
    while True:
        vanishing = {thing for step in doomed for thing in step.back}
        more = [step for step in acted if step not in doomed and vanishing.intersection(step.after)]
        if not more:
            break
        doomed += more
    kept = [step for step in acted if step not in doomed]
    undos = [undo for step in reversed(acted) if step in doomed and (undo := step.undo()) is not None]
    for undo in undos:
        run.context.journal.add(Phase.UNDO, undo)
    for undo in undos:
        run.take(Phase.UNDO, undo)
    return kept


def _restore(run: _Run, transition: Transition, quieted: Sequence[Thing]) -> None:
    """Bring back what let go, in reverse."""
    _bring_back(run, Phase.RESTORE, [step for step in transition.restore if step.subject in quieted], lambda: False)


def _bring_back(run: _Run, phase: Phase, steps: Sequence[Step], stop: Callable[[], bool]) -> bool:
    """One that fails does not keep others from coming back, but for what stands on it. True when told to stop."""
    for depth, together in groupby(steps, key=_depth):
        if stop():
            return True
        lanes: dict[str, list[Step]] = {}
        for step in together:
            lanes.setdefault(step.unit if depth else "", []).append(step)
        _side_by_side(run, phase, tuple(lanes.values()))
    return False


def _depth(step: Step) -> int:
    """0: one after the other; 1: cards at once; 2: virtual functions at once, after all cards have made theirs."""
    return step.unit.count("/") if step.unit.startswith(CARD_UNIT) else 0


def _side_by_side(run: _Run, phase: Phase, lanes: Sequence[Sequence[Step]]) -> None:
    """Each lane in its order; the lanes at once, for each waits for firmware and for names most of the time."""

    def follow(lane: Sequence[Step]) -> None:
        for step in lane:
            run.bring_back(phase, step)

    if len(lanes) == 1:
        follow(lanes[0])
        return
    with ThreadPoolExecutor(MOST_LANES, "restore") as pool:
        for done in [pool.submit(follow, lane) for lane in lanes]:
            done.result()
