"""One cycle of health: what was observed and logged becomes findings and events. It remembers, and touches nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nodeagent.health.damping import Change, Damper, Key
from nodeagent.health.gpu_checks import COUNTERS, RECOVERY_ACTION, check_gpus
from nodeagent.health.incidents import incident_finding
from nodeagent.health.judging import Judgement
from nodeagent.health.log_reading import HostTrouble, LogReading
from nodeagent.health.look import Learned, Look, bad, ok, unknown
from nodeagent.health.node_checks import check_node
from nodeagent.health.observation import Identities, Observation
from nodeagent.health.port_checks import ACTIVE, PER_MINUTE, check_ports
from nodeagent.health.presence_checks import check_presence
from nodeagent.health.recovery import driver_action
from nodeagent.health.windows import Windows
from nodeagent.host.kernel_follow import LogBatch
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.state.health import (
    NODE,
    EventKind,
    Finding,
    Health,
    HealthEvent,
    Subject,
    SubjectKind,
    Verdict,
)

DOWNS_KEPT = 64
CHECKS = (check_presence, check_gpus, check_ports, check_node)


@dataclass(frozen=True)
class Before:
    """What earlier runs left: verdicts with their beginning, what was learned, and this boot's events."""

    since: Mapping[Key, tuple[Verdict, float]] = field(default_factory=lambda: MappingProxyType({}))
    learned: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    events: tuple[HealthEvent, ...] = ()


@dataclass(frozen=True)
class Cycle:
    """What came of a cycle: verdicts, events for the history, changes to tell, and what to remember."""

    health: Health = field(default_factory=Health)
    events: tuple[HealthEvent, ...] = ()
    changes: tuple[Change, ...] = ()
    learned: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


class Monitor:
    """Keeps what a verdict needs beyond the moment: incidents, windows, damping, what the node has had."""

    def __init__(self, spec: HealthSpec, before: Before) -> None:
        self.spec = spec
        self.log = LogReading(spec.damping.burst_seconds)
        self.log.ignored = frozenset(spec.ignore_xids)
        self.log.replay(before.events)
        self.who = Identities()
        self.learned = _learned(before.learned)
        self._damper = Damper(spec.damping, before.since)
        self._windows = Windows(spec.limits.window_seconds)
        self._downs: dict[str, tuple[float, ...]] = {}
        self._down_since: dict[str, float] = {}
        self._joining: dict[str, float] = {}
        self._published: tuple[Finding, ...] = ()
        self._lost = (0.0, 0)

    def take_over(self, spec: HealthSpec) -> None:
        """The node file was read again."""
        self.spec = spec
        self.log.burst_seconds = spec.damping.burst_seconds
        self.log.ignored = frozenset(spec.ignore_xids)
        self._damper.damping = spec.damping
        self._windows.seconds = spec.limits.window_seconds

    def cycle(self, seen: Observation, batch: LogBatch) -> Cycle:
        """Look once. The log goes first: what it says, NVML may say again."""
        self._identify(seen)
        events = [*self._lost_lines(batch, seen.now), *self.log.read(batch, self.who, seen.now)]
        self._identify(seen)
        events += self.log.from_nvml(seen.samples.values(), self.who, seen.now)
        events += self.log.notices(seen.samples.values(), self.who, seen.now)
        self._count(seen)
        self._follow_ports(seen)
        self._learn(seen)
        events += self._close_incidents(seen)
        seen = replace(seen, log_lost=self._lost[1] if self._is_recent(self._lost[0], seen.now) else 0)
        settled = self._damper.settle(self._findings(seen), seen.now)
        self._published = settled.findings
        events += [_verdict_event(change, seen.now) for change in settled.changes]
        return Cycle(Health(settled.findings, seen.now), tuple(events), settled.changes, _texts(self.learned))

    def acknowledge(self, subject: Subject) -> None:
        """Somebody says that the errors of this GPU are dealt with."""
        self.log.incidents = self.log.incidents.close(subject)

    def _is_recent(self, at: float, now: float) -> bool:
        return at > 0 and now - at < max(self.spec.damping.quiet_seconds, 1e-3)

    def _lost_lines(self, batch: LogBatch, now: float) -> Iterator[HealthEvent]:
        if batch.lost:
            self._lost = (now, batch.lost)
            text = f"{batch.lost} lines of the kernel's log were overwritten before they could be read"
            yield HealthEvent(now, EventKind.LOST, NODE, text, "kernel-log", Verdict.WARNING)

    def _identify(self, seen: Observation) -> None:
        """GPUs keep their name when they do not answer any more; those that were taken out are forgotten."""
        gpus = seen.node.gpus
        found = {uuid: gpu.pci_address for uuid, gpu in gpus.items()}
        logged = {uuid: address for address, uuid in self.log.identified.items() if address in seen.gpu_pci}
        gone = {
            uuid: address
            for uuid, address in {**logged, **self.who.addresses}.items()
            if uuid in seen.unanswered or address in self.learned.gpus
        }
        instances = {
            (uuid, instance.gi_id): instance.compute_instances[0].uuid
            for uuid, gpu in gpus.items()
            for instance in gpu.instances
            if instance.compute_instances
        }
        taken = set(found.values())
        kept = {uuid: address for uuid, address in gone.items() if address not in taken}
        ports = {
            device.pci_address: f"{device.name}/{port.port}"
            for device in seen.node.rdma.values()
            for port in device.ports[:1]
        }
        self.who = Identities({**kept, **found}, instances, ports)

    def _count(self, seen: Observation) -> None:
        keys: set[tuple[str, ...]] = set()
        for uuid, sample in seen.samples.items():
            for number in COUNTERS:
                if number in sample.fields:
                    keys.add((uuid, str(number)))
                    self._windows.add((uuid, str(number)), seen.now, sample.fields[number])
        wanted = {*PER_MINUTE, *self.spec.limits.port_errors_per_minute}
        for device in seen.node.rdma.values():
            for port in device.ports:
                for name, value in port.counters:
                    if name in wanted:
                        key = (f"{device.name}/{port.port}", name)
                        keys.add(key)
                        self._windows.add(key, seen.now, value)
        self._windows.forget_but(keys | {(uuid, str(number)) for uuid in seen.unanswered for number in COUNTERS})

    def _follow_ports(self, seen: Observation) -> None:
        for device in seen.node.rdma.values():
            for port in device.ports:
                name = f"{device.name}/{port.port}"
                if port.state == ACTIVE:
                    self._down_since.pop(name, None)
                elif name not in self._down_since:
                    self._down_since[name] = seen.now
                    if name in self.learned.ports:
                        self._downs[name] = (*self._downs.get(name, ()), seen.now)[-DOWNS_KEPT:]
        for uuid, sample in seen.samples.items():
            joined = sample.fabric is None or sample.fabric.state not in (1, 2)
            if joined:
                self._joining.pop(uuid, None)
            else:
                self._joining.setdefault(uuid, seen.now)

    def _learn(self, seen: Observation) -> None:
        links = dict(self.learned.nvlinks)
        for uuid, sample in seen.samples.items():
            if sample.nvlinks:
                links[uuid] = max(links.get(uuid, 0), sum(sample.nvlinks))
        active = {
            f"{device.name}/{port.port}"
            for device in seen.node.rdma.values()
            for port in device.ports
            if port.state == ACTIVE
        }
        answering = {self.who.addresses[uuid] for uuid in seen.samples if uuid in self.who.addresses}
        self.learned = Learned(self.learned.gpus | answering, links, self.learned.ports | active)

    def _close_incidents(self, seen: Observation) -> Iterator[HealthEvent]:
        healed = [
            self.who.gpu(uuid) for uuid, sample in seen.samples.items() if sample.fields.get(RECOVERY_ACTION) == 0
        ]
        for incident in self.log.incidents.over(seen.now, self.spec.damping.quiet_seconds, healed):
            self.log.incidents = self.log.incidents.close(incident.subject)
            if incident.worst.verdict is not Verdict.OK:
                why = "the driver wants nothing done" if incident.worst.lasting else "quiet since"
                yield HealthEvent(
                    seen.now, EventKind.AGENT, incident.subject, f"its errors count no more: {why}", "xid"
                )

    def _findings(self, seen: Observation) -> Iterator[Finding]:
        """All of this cycle, each once; what was looked at before on a GPU that is silent now is unknown."""
        look = Look(
            seen=seen,
            spec=self.spec,
            windows=self._windows,
            who=self.who,
            learned=self.learned,
            downs=self._downs,
            down_since=self._down_since,
            joining_since=self._joining,
        )
        found: dict[Key, Finding] = {}
        for finding in (*(one for check in CHECKS for one in check(look)), *self._reported(seen)):
            known = found.get(finding.key)
            if known is None or finding.verdict.rank > known.verdict.rank:
                found[finding.key] = finding
        for finding in self._silent(seen, found):
            found[finding.key] = finding
        return (one for one in found.values() if one.check.partition(":")[0] not in self.spec.ignore)

    def _silent(self, seen: Observation, found: Mapping[Key, Finding]) -> Iterator[Finding]:
        for before in self._published:
            silent = before.subject.kind is SubjectKind.GPU and before.subject.name not in seen.samples
            if silent and before.key not in found and before.subject.name in self.who.addresses:
                yield unknown(before.subject, before.check, "the GPU does not answer")

    def _reported(self, seen: Observation) -> Iterator[Finding]:
        """What log and events said: Xids per GPU, SXids per switch, and the rest that is recent."""
        opened = self.log.incidents.open
        for uuid in self.who.addresses:
            subject = self.who.gpu(uuid)
            if subject.key not in opened or opened[subject.key].worst.verdict is Verdict.OK:
                yield ok(subject, "xid", "no error that counts")
        for incident in opened.values():
            if incident.worst.verdict is not Verdict.OK:
                yield incident_finding(incident, "xid", self._driver_says(incident.subject, seen))
        for key, trouble in list(self.log.troubles.items()):
            if self._is_recent(trouble.time, seen.now):
                yield _of_trouble(trouble)
            else:
                del self.log.troubles[key]

    def _driver_says(self, subject: Subject, seen: Observation) -> Judgement | None:
        """What the driver wants done about a GPU; it goes before the table."""
        sample = seen.samples.get(subject.name)
        value = sample.fields.get(RECOVERY_ACTION) if sample else None
        if not value:
            return None
        said = driver_action(int(value))
        return Judgement(said.verdict, said.recovery, said.name, said.advice, by_driver=True)


def _of_trouble(trouble: HostTrouble) -> Finding:
    judged = trouble.judgement
    said = (trouble.text, judged.meaning, judged.advice)
    return bad(trouble.subject, trouble.check, judged.verdict, said, judged.recovery)


def _verdict_event(change: Change, now: float) -> HealthEvent:
    finding = change.finding
    before = change.before.value if change.before else "not looked at"
    words = "; ".join(word for word in (finding.evidence, finding.cause) if word)
    return HealthEvent(
        time=now,
        kind=EventKind.VERDICT,
        subject=finding.subject,
        text=f"{finding.check} {finding.verdict.value} (was {before})" + (f": {words}" if words else ""),
        check=finding.check,
        verdict=finding.verdict,
        recovery=finding.recovery,
    )


def _learned(texts: Mapping[str, str]) -> Learned:
    """From what the history keeps; anything that cannot be read there is learned anew."""
    try:
        links = json.loads(texts.get("nvlinks", "{}"))
        return Learned(
            gpus=frozenset(texts.get("gpus", "").split()),
            nvlinks={str(uuid): int(count) for uuid, count in links.items()},
            ports=frozenset(texts.get("ports", "").split()),
        )
    except (ValueError, AttributeError, TypeError):
        return Learned()


def _texts(learned: Learned) -> Mapping[str, str]:
    return {
        "gpus": " ".join(sorted(learned.gpus)),
        "nvlinks": json.dumps(dict(sorted(learned.nvlinks.items()))),
        "ports": " ".join(sorted(learned.ports)),
    }
