"""The kernel's log and NVML's Xids as faults, host troubles and events, with what is remembered between lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nodeagent.health.incidents import BY_KERNEL, BY_NVML, Fault, Incidents, fault_event
from nodeagent.health.judging import BUS_LOST, Judgement, judge, judge_code
from nodeagent.health.kernel_lines import Line, LineKind, LineReader, read_line
from nodeagent.health.observation import Identities
from nodeagent.host.kernel_follow import LogBatch
from nodeagent.host.kernel_log import KernelRecord
from nodeagent.state.gpu import GpuSample, Notice
from nodeagent.state.health import NODE, EventKind, HealthEvent, Recovery, Subject, SubjectKind, Verdict

TOLD_PER_INCIDENT = 10  # of one number: the incident itself counts all of them
OF_THE_JOB = (Recovery.NONE, Recovery.RESTART_JOB)
UNAVAILABLE = Judgement(
    Verdict.FAILED,
    Recovery.RESET_GPU,
    Notice.UNAVAILABLE.value,
    "see the recovery action, and the kernel's log for an Xid",
)
REFUSED = "a process wrote what only the driver may say; refused"


@dataclass(frozen=True)
class HostTrouble:
    """A line that is not about a GPU, and when it last came."""

    subject: Subject
    check: str
    time: float
    judgement: Judgement
    text: str


class LogReading:
    """What the log has told so far. `incidents` are those of GPUs and switches, `troubles` the rest."""

    def __init__(self, burst_seconds: float) -> None:
        self.burst_seconds = burst_seconds
        self.ignored: frozenset[int] = frozenset()
        self.incidents = Incidents()
        self.troubles: dict[tuple[SubjectKind, str, str], HostTrouble] = {}
        self.identified: dict[str, str] = {}  # UUID by address, as the driver prints it with the first Xid
        self._reader = LineReader()

    def read(self, batch: LogBatch, who: Identities, now: float) -> Iterator[HealthEvent]:
        """The events of a batch of records."""
        for record in batch.records:
            line = self._reader.read(record.text)
            if line is not None:
                identity = f"{batch.cursor.boot_id}/{record.sequence}"
                yield from self._line(line, who, (batch.time_of(record, now), identity, record.text))
        yield from self._refused(batch, now)

    def _refused(self, batch: LogBatch, now: float) -> Iterator[HealthEvent]:
        for record in batch.foreign:
            if _claims(record):
                data = (("line", record.text), ("facility", str(record.facility)))
                identity = f"{batch.cursor.boot_id}/{record.sequence}"
                at = batch.time_of(record, now)
                yield HealthEvent(at, EventKind.KERNEL, NODE, REFUSED, "kernel-log", data=data, identity=identity)

    def _line(self, line: Line, who: Identities, record: tuple[float, str, str]) -> Iterator[HealthEvent]:
        at, identity, text = record
        if line.kind in (LineKind.XID, LineKind.BUS_LOST, LineKind.SXID):
            yield from self.fault(_fault(line, who, at), identity, text)
        elif line.kind is LineKind.IDENTITY:
            self.identified[line.pci_address] = line.uuid
        elif line.kind is LineKind.DRIVER_LOADED:
            self.incidents = self.incidents.close_all()
            yield HealthEvent(at, EventKind.KERNEL, NODE, "the nvidia driver was loaded", identity=identity)
        elif line.kind in (LineKind.HOST, LineKind.RESET_REQUIRED):
            yield self._trouble(line, who, record)

    def _trouble(self, line: Line, who: Identities, record: tuple[float, str, str]) -> HealthEvent:
        at, identity, text = record
        judged = judge(line)
        subject = _owner(line, who)
        check = line.check or "xid"
        if judged.verdict is not Verdict.OK:
            found = HostTrouble(subject, check, at, judged, line.text)
            self.troubles[(*subject.key, check)] = found
        return HealthEvent(
            at,
            EventKind.KERNEL,
            subject,
            judged.meaning,
            check,
            judged.verdict,
            data=(("line", text),),
            identity=identity,
        )

    def fault(self, fault: Fault, identity: str, text: str) -> Iterator[HealthEvent]:
        """One error more; told unless its incident has told enough of its kind."""
        if fault.code not in self.ignored:
            self.incidents = self.incidents.absorb(fault, self.burst_seconds)
        incident = self.incidents.open.get(fault.subject.key)
        count = incident.count(fault.code) if incident else 0
        if count <= TOLD_PER_INCIDENT:
            yield fault_event(fault, "xid", identity, text)

    def from_nvml(self, samples: Iterable[GpuSample], who: Identities, now: float) -> Iterator[HealthEvent]:
        """Xids by NVML's events; told only where the kernel's log had fewer of them, as without access to it."""
        for sample in samples:
            for xid in sample.xids:
                line = Line(LineKind.XID, "", code=xid.code, gi_id=xid.gi_id)
                fault = replace(_fault(line, who, now, sample.uuid), source=BY_NVML, judgement=judge_code(xid.code))
                told = list(self.fault(fault, "", ""))
                incident = self.incidents.open.get(fault.subject.key)
                counts: Mapping[tuple[int, str], int] = incident.counts if incident else {}
                if counts.get((xid.code, BY_NVML), 1) > counts.get((xid.code, BY_KERNEL), 0):
                    yield from told

    def notices(self, samples: Iterable[GpuSample], who: Identities, now: float) -> Iterator[HealthEvent]:
        """What else NVML told of a GPU; counters and the recovery action have verdicts of their own."""
        for sample in samples:
            for notice in sample.notices:
                subject = who.gpu(sample.uuid)
                if notice is Notice.UNAVAILABLE:
                    found = HostTrouble(subject, "gpu-notice", now, UNAVAILABLE, f"{BY_NVML}: {notice.value}")
                    self.troubles[(*subject.key, "gpu-notice")] = found
                verdict = UNAVAILABLE.verdict if notice is Notice.UNAVAILABLE else Verdict.OK
                yield HealthEvent(now, EventKind.NVML, subject, f"{BY_NVML}: {notice.value}", "gpu-notice", verdict)

    def replay(self, events: Iterable[HealthEvent]) -> None:
        """Take up what an earlier run of the agent saw in this boot."""
        for event in events:
            data = dict(event.data)
            if event.kind in (EventKind.XID, EventKind.SXID) and event.code is not None:
                line = read_line(data.get("line", ""))
                judged = judge(line) if line else judge_code(event.code)
                text = line.text if line else ""
                source = data.get("source", BY_KERNEL)
                fault = Fault(event.time, event.subject, event.code, source, text, judged, data.get("job", ""))
                if fault.code not in self.ignored:
                    self.incidents = self.incidents.absorb(fault, self.burst_seconds)
            elif event.kind in (EventKind.ACTION, EventKind.AGENT) and event.check == "xid":
                self.incidents = self.incidents.close(event.subject)
            elif event.text == "the nvidia driver was loaded":
                self.incidents = self.incidents.close_all()


def _claims(record: KernelRecord) -> bool:
    """Whether a line that a process wrote passes itself off as the driver's or the switch's."""
    line = read_line(record.text)
    return line is not None and line.kind is not LineKind.HOST


def _fault(line: Line, who: Identities, at: float, uuid: str = "") -> Fault:
    judged = judge(line)
    code = BUS_LOST if line.kind is LineKind.BUS_LOST else line.code or 0
    if line.kind is LineKind.SXID:
        subject = Subject(SubjectKind.NVSWITCH, f"nvswitch{line.switch}", line.pci_address)
    else:
        subject = who.gpu(uuid, line.pci_address)
        device = who.instances.get((subject.name, line.gi_id), "")
        if device and judged.recovery in OF_THE_JOB:  # only a GPU as a whole can be reset
            subject = Subject(SubjectKind.MIG, device, subject.pci_address, subject.name)
    job = f"{line.process}[{line.pid}]" if line.pid is not None else ""
    return Fault(at, subject, code, BY_KERNEL, line.text, judged, job)


def _owner(line: Line, who: Identities) -> Subject:
    if not line.pci_address:
        return NODE
    uuid = who.uuid_at(line.pci_address)
    return who.gpu(uuid) if uuid else Subject(SubjectKind.PORT, who.ports.get(line.pci_address, ""), line.pci_address)
