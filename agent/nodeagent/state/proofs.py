"""What a proof that the hardware works is about, and what it showed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Work(StrEnum):
    """What a process of its own tries on GPUs, or with a library beside the driver."""

    VECTOR = "vector"  # memory and arithmetic of one device
    PEER = "peer"  # a copy from the first device to the second
    RDMA = "rdma"  # RDMA traffic between memory of the device and of the host
    GDRCOPY = "gdrcopy"
    GDS = "gds"


@dataclass(frozen=True)
class Trial:
    """One piece of work. `uuids` are those of GPUs or MIG devices; the process sees no others.

    `device`, `port`, `gid_index` and `traffic_class` say where RDMA goes through; `gid_index` is -1 on InfiniBand.
    """

    work: Work
    uuids: tuple[str, ...] = ()
    device: str = ""
    port: int = 0
    gid_index: int = -1
    traffic_class: int = 0


@dataclass(frozen=True)
class TrialResult:
    """What worked. `figures` are numbers with their unit in the name, `facts` are texts such as the route taken.

    `simulated`: it was the stub that answered and not a GPU.
    """

    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    facts: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    simulated: bool = False


class Outcome(StrEnum):
    """passed. failed: it does not work. skipped: it could not be tried, and nothing is proved. absent: the node has
    nothing of the kind, and nobody asked for it.
    """

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    ABSENT = "absent"


class Proof(StrEnum):
    """What can be proved, in the order in which one thing rests on the other."""

    DRIVER = "driver"
    CUDA = "cuda"
    P2P = "p2p"
    PEERMEM = "peermem"
    GDRCOPY = "gdrcopy"
    GDS = "gds"
    OFED = "ofed"
    RDMA = "rdma"
    GPUDIRECT = "gpudirect"
    TOOLKIT = "toolkit"
    PLUGIN = "plugin"


@dataclass(frozen=True)
class Finding:
    """The outcome of one proof for one subject; `text` is the reason, or what was shown."""

    proof: Proof
    subject: str
    outcome: Outcome
    text: str = ""
    figures: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    simulated: bool = False


@dataclass(frozen=True)
class Validation:
    """The findings of one round; `at` is Unix time."""

    findings: tuple[Finding, ...] = ()
    at: float = 0.0

    def of(self, proof: Proof) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.proof is proof)
