"""What a check is given, and how it says what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nodeagent.health.observation import Identities, Observation
from nodeagent.health.windows import Windows
from nodeagent.spec.health import Health as HealthSpec
from nodeagent.state.health import Finding, Recovery, Subject, SubjectKind, Verdict

OK, WARNING, FAILED, UNKNOWN = Verdict.OK, Verdict.WARNING, Verdict.FAILED, Verdict.UNKNOWN


@dataclass(frozen=True)
class Learned:
    """What the node has had: addresses of GPUs, active NVLinks by UUID, ports that ever were active."""

    gpus: frozenset[str] = frozenset()
    nvlinks: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    ports: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Look:
    """One cycle as a check sees it. `downs` are the times at which ports went down, `down_since` since when they are.

    `joining_since` says since when a GPU has been joining the fabric.
    """

    seen: Observation
    spec: HealthSpec
    windows: Windows
    who: Identities = field(default_factory=Identities)
    learned: Learned = field(default_factory=Learned)
    downs: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: MappingProxyType({}))
    down_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    joining_since: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))


Check = Callable[[Look], Iterable[Finding]]


def ok(subject: Subject, check: str, evidence: str = "") -> Finding:
    return Finding(subject, check, OK, evidence)


def bad(subject: Subject, check: str, verdict: Verdict, said: tuple[str, str, str], recovery: Recovery) -> Finding:
    """Something that is wrong; `said` are evidence, cause and advice."""
    evidence, cause, advice = said
    return Finding(subject, check, verdict, evidence, cause, advice, recovery)


def unknown(subject: Subject, check: str, why: str, advice: str = "") -> Finding:
    return Finding(subject, check, UNKNOWN, why, "it could not be looked at", advice)


def port_subject(name: str, address: str) -> Subject:
    """An RDMA port by `mlx5_0/1`."""
    return Subject(SubjectKind.PORT, name, address)
