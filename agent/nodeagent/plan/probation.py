"""Changes to interfaces that must not be lost: rolled back unless the node is seen to be reachable in time.

As `netplan try`, NetworkManager's checkpoints and Junos' `commit confirmed` do it. The way back is on disk before the
first step, so that a crash at any moment ends in a confirmed change or in none: whoever runs next goes on waiting and
rolls back when the time is over. Settings of interfaces do not outlive a reboot, so neither does the file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from nodeagent.errors import DeadlineError, GoneError, HostError, JournalError
from nodeagent.host.paths import PROBATION, PROC_BOOT_ID, SYS_CLASS_NET
from nodeagent.host.ports import Files, Host
from nodeagent.plan.executor import Context, Failure, Result, execute
from nodeagent.plan.journal import Entry, Phase, decode, encode
from nodeagent.plan.model import Transition
from nodeagent.resources.base import Step
from nodeagent.resources.guarded import AwaitConfirmation, Evidence, evidence_of, waiting
from nodeagent.spec.guard import Guard, GuardMode
from nodeagent.state.network import DEFAULT_ROUTE
from nodeagent.state.node import NodeState
from nodeagent.state.things import netdev

LOOK_SECONDS = 0.5
LOOKS = 2  # a link that is about to go down after a change often still looks well at first


@dataclass(frozen=True)
class Probation:
    """A change on trial. `deadline` is in seconds of the monotonic clock, which all processes of one boot share."""

    boot_id: str
    deadline: float
    mode: GuardMode
    evidence: tuple[Evidence, ...]
    back: tuple[Step, ...]
    confirmed: bool = False

    @property
    def names(self) -> str:
        return ", ".join(one.netdev for one in self.evidence)


def read(files: Files) -> Probation | None:
    """The change on trial, None if there is none in this boot. JournalError if the file is damaged."""
    text = files.read_optional(PROBATION)
    if text is None:
        return None
    try:
        document = json.loads(text)
        steps = tuple(entry.step for entry in decode(document.pop("back")))
        evidence = tuple(Evidence(**{**one, "gateways": tuple(one["gateways"])}) for one in document.pop("evidence"))
        found = Probation(**{**document, "mode": GuardMode(document["mode"])}, evidence=evidence, back=steps)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise JournalError(
            f"read {PROBATION}: not a change on trial ({error!r}); look at the links, remove it"
        ) from error
    if found.boot_id != (files.read_optional(PROC_BOOT_ID) or ""):
        files.remove(PROBATION)
        return None
    return found


def write(files: Files, probation: Probation) -> None:
    back = encode([Entry(Phase.UNDO, step) for step in probation.back], probation.boot_id)
    document = {
        "boot_id": probation.boot_id,
        "deadline": probation.deadline,
        "mode": probation.mode.value,
        "evidence": [asdict(one) for one in probation.evidence],
        "confirmed": probation.confirmed,
        "back": back,
    }
    files.replace(PROBATION, json.dumps(document, indent=1) + "\n")


def confirm(files: Files) -> Probation:
    """Say that the change on trial is meant. GoneError where there is none."""
    found = read(files)
    if found is None:
        raise GoneError(
            "confirm", "change", "none is waiting", "a change to a guarded interface is confirmed in its time"
        )
    write(files, replace(found, confirmed=True))
    return found


@dataclass(frozen=True)
class Trial:
    """Carries out transitions that touch guarded interfaces; `look` observes the whole node anew."""

    guard: Guard
    context: Context
    look: Callable[[], NodeState]

    @property
    def _host(self) -> Host:
        return self.context.observer.host

    def execute(self, transition: Transition, owed: Sequence[Step]) -> Result:
        """As the executor, and on trial where the transition touches a guarded interface."""
        if not transition.guarded or self.guard.changes is GuardMode.ALLOW:
            return execute(transition, self.context, owed)
        probation = self._begin(transition)
        write(self._host.files, probation)
        result = execute(transition, self.context, owed)
        if not result.acted or self._confirmed(probation, waiting(transition.guarded, self.guard)):
            self._host.files.remove(PROBATION)
            return result
        probation = replace(probation, back=(*transition.quiesce, *probation.back))  # what came back stands on the acts
        return replace(result, acted=(), failures=(*result.failures, *self._roll_back(probation, transition.acts)))

    def resume(self) -> tuple[Result, ...]:
        """Bring the trial of an interrupted run to its end, if there is one.

        Where the transition itself was broken off, what the node lost with it comes back by the way back only: waiting
        for it would keep the node cut off until the deadline.
        """
        found = read(self._host.files)
        if found is None:
            return ()
        self.context.journal.read()
        if self.context.journal.is_broken_off and not self._holds(found):
            return (Result((), self._roll_back(found, found.back, "the change was broken off")),)
        left = max(0.0, found.deadline - self._host.clock.monotonic())
        subject = netdev(found.evidence[0].netdev) if found.evidence else netdev("?")
        if self._confirmed(found, AwaitConfirmation(subject=subject, unit="guard", mode=found.mode, seconds=left)):
            self._host.files.remove(PROBATION)
            return ()
        return (Result((), self._roll_back(found, found.back)),)

    def _begin(self, transition: Transition) -> Probation:
        host = self._host
        names = transition.guarded
        state = self.look()
        evidence = tuple(
            replace(one, gateways=tuple(via for via in one.gateways if _answers(host, one.netdev, via)))
            for one in evidence_of(names, state)
        )
        undos = (undo for step in reversed(transition.acts) if (undo := step.undo()) is not None)
        deadline = host.clock.monotonic() + self.guard.seconds
        boot_id = host.files.read_optional(PROC_BOOT_ID) or ""
        return Probation(boot_id, deadline, self.guard.changes, evidence, (*undos, *transition.restore))

    def _confirmed(self, probation: Probation, step: AwaitConfirmation) -> bool:
        """Wait for it; the time is over at the deadline, or when the agent is told to stop: nobody would watch then."""
        host = self._host
        self.context.report.started(Phase.ACT, step)
        seen = 0
        while True:
            told = read(host.files)
            seen = seen + 1 if self._holds(probation) else 0
            automatic = probation.mode is not GuardMode.MANUAL and seen >= LOOKS
            if automatic or (told is not None and told.confirmed):
                self.context.report.finished(Phase.ACT, step, None)
                return True
            if host.clock.monotonic() >= probation.deadline or self.context.stop():
                return False
            host.clock.sleep(LOOK_SECONDS)

    def _holds(self, probation: Probation) -> bool:
        return all(holds(self._host, one) for one in probation.evidence)

    def _roll_back(self, probation: Probation, acts: Sequence[Step], reason: str = "") -> tuple[Failure, ...]:
        """Take the way back as far as it is needed. The failures are one for each unit, so that it is backed off."""
        failures: list[Failure] = []
        for step in probation.back:
            if step.satisfied(self.look()):
                continue
            self.context.report.started(Phase.UNDO, step)
            error: HostError | None = None
            try:
                step.apply(self._host)
            except HostError as refused:
                error = refused
                failures.append(Failure(Phase.UNDO, step, refused))
            self.context.report.finished(Phase.UNDO, step, error)
        self._host.files.remove(PROBATION)
        units = {step.unit: step for step in reversed(acts)}
        reason = reason or self._missing(probation)
        stands = _standing(failures)
        missing = DeadlineError("change", probation.names, reason, f"{stands}; see guard in the node file")
        return (*(Failure(Phase.ACT, step, missing) for step in units.values()), *failures)

    def _missing(self, probation: Probation) -> str:
        if probation.mode is GuardMode.MANUAL:
            return "it was not confirmed in time"
        gateways = ", ".join(via for one in probation.evidence for via in one.gateways)
        parts = "carrier and default route" + (f" and gateway {gateways}" if gateways else "")
        return f"{parts} were not there again in time"


def _standing(refused: Sequence[Failure]) -> str:
    """What became of the way back: a driver that something holds stays loaded, and nobody may take it for undone."""
    if not refused:
        return "rolled back"
    return f"not rolled back as a whole, refused and not undone: {', '.join(str(one.step) for one in refused)}"


def holds(host: Host, wanted: Evidence) -> bool:
    """Whether the interface is as reachable as it was."""
    if wanted.carrier and host.files.read_optional(f"{SYS_CLASS_NET}/{wanted.netdev}/carrier") != "1":
        return False
    if wanted.default_route and DEFAULT_ROUTE not in host.links.uses().get(wanted.netdev, ()):
        return False
    return all(_answers(host, wanted.netdev, via) for via in wanted.gateways)


def _answers(host: Host, name: str, address: str) -> bool:
    try:
        return host.links.addressing.answers(name, address)
    except HostError:
        return False
