"""Errors of GPUs and switches as incidents: thirty lines that belong together are one trouble; pure.

Errors of one device with no more than `burst_seconds` of silence between them are one incident. Its root is the first
error that is not itself a consequence. The kernel's log and NVML report the same errors: of each number counts whoever
saw more of them. An incident whose errors last is over when the driver wants nothing done any more, after the driver
was loaded anew, or when somebody says so; any other when the device has been quiet for a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nodeagent.health.judging import Judgement
from nodeagent.state.health import EventKind, Finding, HealthEvent, Recovery, Subject, SubjectKind, Verdict

REPEAT_SECONDS = 86400.0
JOBS_KEPT = 200
BY_KERNEL, BY_NVML = "kernel log", "NVML"


@dataclass(frozen=True)
class Fault:
    """One error that was reported, at `time` (Unix seconds). `job` tells different jobs apart, "" where unknown."""

    time: float
    subject: Subject
    code: int
    source: str
    text: str
    judgement: Judgement
    job: str = ""


@dataclass(frozen=True)
class Incident:
    """Errors of one subject that belong together. `counts` is by (code, source)."""

    subject: Subject
    started: float
    last: float
    root: Fault
    worst: Judgement
    counts: Mapping[tuple[int, str], int]

    @property
    def codes(self) -> tuple[int, ...]:
        """The numbers in the order in which they were first seen."""
        return tuple(dict.fromkeys(code for code, _ in self.counts))

    def count(self, code: int) -> int:
        return max(self.counts.get((code, source), 0) for source in (BY_KERNEL, BY_NVML))


@dataclass(frozen=True)
class Incidents:
    """All open incidents by subject, and which jobs met which errors within a day."""

    open: Mapping[tuple[SubjectKind, str], Incident] = field(default_factory=lambda: MappingProxyType({}))
    jobs: tuple[tuple[float, tuple[SubjectKind, str], int, str], ...] = ()

    def absorb(self, fault: Fault, burst_seconds: float) -> Incidents:
        """With one more error."""
        key = fault.subject.key
        before = self.open.get(key)
        joined = before is not None and _belongs(before, fault, burst_seconds)
        fault, jobs = self._repeated(fault)
        incident = _extended(before, fault) if before is not None and joined else _begun(fault, before)
        return Incidents({**self.open, key: incident}, jobs)

    def _repeated(self, fault: Fault) -> tuple[Fault, tuple[tuple[float, tuple[SubjectKind, str], int, str], ...]]:
        """An application's error becomes the GPU's when several jobs meet it there."""
        if not fault.judgement.repeats or not fault.job:
            return fault, self.jobs
        entry = (fault.time, fault.subject.key, fault.code, fault.job)
        recent = tuple(one for one in self.jobs if one[0] > fault.time - REPEAT_SECONDS and one[1:] != entry[1:])
        jobs = (*recent, entry)[-JOBS_KEPT:]
        met = sum(1 for one in jobs if one[1:3] == entry[1:3])
        if met < fault.judgement.repeats:
            return fault, jobs
        meaning = f"{fault.judgement.meaning}, met by {met} jobs within a day"
        judged = replace(
            fault.judgement,
            verdict=Verdict.WARNING,
            recovery=Recovery.INSPECT,
            meaning=meaning,
            advice="run a diagnosis",
        )
        return replace(fault, judgement=judged), jobs

    def close(self, subject: Subject) -> Incidents:
        """Without what is open of this subject, and of the instances of a GPU."""
        kept = {key: one for key, one in self.open.items() if key != subject.key and one.subject.parent != subject.name}
        return replace(self, open=kept)

    def close_all(self) -> Incidents:
        return replace(self, open={})

    def over(self, now: float, quiet_seconds: float, healed: Iterable[Subject]) -> tuple[Incident, ...]:
        """Incidents that count no more: quiet for long enough, and healed where their errors last."""
        free = {subject.key for subject in healed}
        return tuple(
            one
            for one in self.open.values()
            if now - one.last >= quiet_seconds and (not one.worst.lasting or _owner(one.subject) in free)
        )


def _owner(subject: Subject) -> tuple[SubjectKind, str]:
    return (SubjectKind.GPU, subject.parent) if subject.kind is SubjectKind.MIG else subject.key


def _belongs(incident: Incident, fault: Fault, burst_seconds: float) -> bool:
    return fault.time - incident.last <= burst_seconds


def _begun(fault: Fault, before: Incident | None) -> Incident:
    """A new incident; what lasts of an earlier one goes on within it."""
    worst = fault.judgement
    if before is not None and before.worst.lasting and not _is_worse(worst, before.worst):
        worst = before.worst
    return Incident(
        fault.subject, fault.time, fault.time, fault, worst, MappingProxyType({(fault.code, fault.source): 1})
    )


def _extended(incident: Incident, fault: Fault) -> Incident:
    counts = dict(incident.counts)
    key = (fault.code, fault.source)
    counts[key] = counts.get(key, 0) + 1
    root = fault if incident.root.judgement.follows and not fault.judgement.follows else incident.root
    worst = fault.judgement if _is_worse(fault.judgement, incident.worst) else incident.worst
    return replace(incident, last=max(incident.last, fault.time), root=root, worst=worst, counts=counts)


def _is_worse(one: Judgement, other: Judgement) -> bool:
    """By verdict; of equals, the driver's own word goes before a table."""
    return (one.verdict.rank, one.by_driver) > (other.verdict.rank, other.by_driver)


def incident_finding(incident: Incident, check: str, driver: Judgement | None = None) -> Finding:
    """The finding of an incident; `driver` is what the driver itself wants done now, if it wants anything."""
    worst = driver or incident.worst
    verdict = max(incident.worst.verdict, worst.verdict, key=lambda one: one.rank)
    seen = ", ".join(
        f"{code}" + (f" x{count}" if (count := incident.count(code)) > 1 else "") for code in incident.codes
    )
    name = "SXid" if incident.subject.kind is SubjectKind.NVSWITCH else "Xid"
    first = f": {incident.root.text}" if incident.root.text else ""
    return Finding(
        subject=incident.subject,
        check=check,
        verdict=verdict,
        evidence=f"{name} {seen}, first {name} {incident.root.code}{first}",
        cause=incident.worst.meaning,
        advice=worst.advice,
        recovery=worst.recovery,
        by_driver=worst.by_driver,
        codes=incident.codes,
        since=incident.started,
    )


def fault_event(fault: Fault, check: str, identity: str, line: str) -> HealthEvent:
    """The same for the history."""
    kind = EventKind.SXID if fault.subject.kind is SubjectKind.NVSWITCH else EventKind.XID
    return HealthEvent(
        time=fault.time,
        kind=kind,
        subject=fault.subject,
        text=f"{fault.judgement.meaning}" + (f": {fault.text}" if fault.text else ""),
        check=check,
        verdict=fault.judgement.verdict,
        code=fault.code,
        recovery=fault.judgement.recovery,
        data=(("source", fault.source), ("line", line), ("job", fault.job)),
        identity=identity,
    )
