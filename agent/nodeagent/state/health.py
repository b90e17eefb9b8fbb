"""How healthy the node is: findings, what is done about them, and the events that history keeps.

A finding is what one check says of one subject; its identity is (subject, check) and stays the same while verdict and
evidence change. Findings that are published are already damped (see the node file's `health` section): a policy may
act on them at once and need not wait for a second opinion.

For a policy that repairs:
- act on `Verdict.FAILED` and `Verdict.WARNING` only: `UNKNOWN` means that nobody could look, no licence to act;
- `recovery` is what would heal it, and `by_driver` whether the driver itself says so (then no table is asked);
- `Recovery.NONE` and `Recovery.SUPPORT` and the like are for people: see `Recovery.is_for_people`;
- a GPU is `Subject(GPU, UUID, PCI address)`; a finding on a MIG instance names its GPU as `parent`, and only the
  whole GPU can be reset;
- afterwards the finding must become OK by itself: the check is the proof, `since` then begins anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Verdict(StrEnum):
    """What a check says. unknown: it could not look, from which nothing may be concluded."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"

    @property
    def rank(self) -> int:
        """How bad it is: ok, unknown, warning, failed."""
        return (Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.FAILED).index(self)


class SubjectKind(StrEnum):
    """What sort of thing a verdict is about."""

    NODE = "node"
    GPU = "gpu"
    MIG = "mig"
    NVSWITCH = "nvswitch"
    PORT = "port"


class Recovery(StrEnum):
    """What would heal it, from doing nothing to replacing the board."""

    NONE = "none"
    RESTART_JOB = "restart-job"
    RESET_GPU = "reset-gpu"
    DRAIN_P2P = "drain-p2p"
    DRAIN_AND_RESET = "drain-and-reset"
    RECOVER_IMEX = "recover-imex"
    RELOAD_DRIVER = "reload-driver"
    RESTART_FABRIC = "restart-fabric"  # fabric manager, which resets GPUs and switches of the partition
    REBIND_NIC = "rebind-nic"
    REBOOT = "reboot"
    POWER_CYCLE = "power-cycle"
    INSPECT = "inspect"  # cable, slot, power, board
    CONFIGURE = "configure"  # the node file or the machine's set-up
    SUPPORT = "support"

    @property
    def is_for_people(self) -> bool:
        """Whether no program can do it."""
        return self in (Recovery.POWER_CYCLE, Recovery.INSPECT, Recovery.CONFIGURE, Recovery.SUPPORT)


@dataclass(frozen=True, order=True)
class Subject:
    """What a verdict is about. `name` is a GPU's or MIG device's UUID, `mlx5_0/1` for a port, "" for the node.

    `pci_address` is as sysfs spells it, "" where there is none or it is not known. `parent` is the UUID of a MIG
    device's GPU. Two subjects are the same thing if `key` is: an address may become known later.
    """

    kind: SubjectKind
    name: str = ""
    pci_address: str = ""
    parent: str = ""

    @property
    def key(self) -> tuple[SubjectKind, str]:
        return (self.kind, self.name or self.pci_address)

    def __str__(self) -> str:
        words = (self.kind.value, self.name or self.pci_address)
        return " ".join(word for word in words if word)


NODE = Subject(SubjectKind.NODE)


@dataclass(frozen=True)
class Finding:
    """What one check says of one subject.

    `evidence` is what was seen, with figures and units; `cause` what it means, `advice` what a person should do.
    `since` is when this verdict began (Unix seconds). `codes` are the XIDs or SXIDs it rests on. `by_driver`:
    `recovery` is what the driver itself asks for.
    """

    subject: Subject
    check: str
    verdict: Verdict
    evidence: str = ""
    cause: str = ""
    advice: str = ""
    recovery: Recovery = Recovery.NONE
    by_driver: bool = False
    codes: tuple[int, ...] = ()
    since: float = 0.0

    @property
    def key(self) -> tuple[SubjectKind, str, str]:
        return (*self.subject.key, self.check)


@dataclass(frozen=True)
class Health:
    """Every finding of one cycle, the good ones too, so that "not checked" can be told from "fine".

    `generated` is Unix time; 0 until the first cycle has ended. `logged_xids` is how often the kernel's log told of an
    Xid of a whole GPU since the agent started, by UUID and number: a GPU that is lost tells NVML no more.
    """

    findings: tuple[Finding, ...] = ()
    generated: float = 0.0
    logged_xids: Mapping[str, Mapping[int, int]] = field(default_factory=lambda: MappingProxyType({}), compare=False)

    @property
    def verdict(self) -> Verdict:
        """The worst of all; unknown while nothing was checked."""
        return worst(finding.verdict for finding in self.findings)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What is not ok, the worst first."""
        bad = (finding for finding in self.findings if finding.verdict is not Verdict.OK)
        return tuple(sorted(bad, key=lambda one: (-one.verdict.rank, one.subject, one.check)))

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(dict.fromkeys(finding.subject for finding in self.findings))

    def verdict_of(self, subject: Subject) -> Verdict:
        return worst(finding.verdict for finding in self.findings if finding.subject.key == subject.key)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of them; unknown where there is none."""
    return max(verdicts, key=lambda one: one.rank, default=Verdict.UNKNOWN)


# Checks by which repair says that a device, or the node, gets no work for now.
KEPT_FROM_WORK = ("quarantine", "reboot-asked")


class EventKind(StrEnum):
    """What an event of the history is."""

    XID = "xid"
    SXID = "sxid"
    KERNEL = "kernel"  # another line of the kernel's log that means something
    NVML = "nvml"  # an event of the driver that has no number
    VERDICT = "verdict"  # a finding changed
    LOST = "lost"  # records of the kernel's log were overwritten before they were read
    BOOT = "boot"
    ACTION = "action"  # somebody did something about a finding
    AGENT = "agent"


@dataclass(frozen=True)
class HealthEvent:
    """Something that happened, as history keeps it. `time` is Unix seconds, `number` is given by the history.

    `identity` makes an event that is reported twice one: (boot id, sequence) of a kernel record, for example.
    """

    time: float
    kind: EventKind
    subject: Subject
    text: str
    check: str = ""
    verdict: Verdict | None = None
    code: int | None = None
    recovery: Recovery = Recovery.NONE
    data: tuple[tuple[str, str], ...] = field(default=())
    identity: str = ""
    number: int = 0
