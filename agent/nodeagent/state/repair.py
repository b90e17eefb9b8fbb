"""What repair has done and what it keeps: attempts, quarantines, approvals; no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from nodeagent.state.health import Finding, Subject, SubjectKind

QUARANTINE = "nodeagent.io/quarantine"  # label and taint: something is kept from work, or the node waits for a reboot
OUR_DRAIN = "nodeagent:"  # how every reason begins that we give to Slurm, and by which we know our own drain


class RepairAction(StrEnum):
    """What may be done about a finding."""

    RESET_GPU = "reset-gpu"
    REBIND_NIC = "rebind-nic"
    RELOAD_MODULES = "reload-modules"
    ASK_REBOOT = "ask-reboot"

    @property
    def is_of_node(self) -> bool:
        """Whether it is done to the node as a whole, whatever the finding is about."""
        return self in (RepairAction.RELOAD_MODULES, RepairAction.ASK_REBOOT)


class AttemptOutcome(StrEnum):
    """begun: it may or may not have happened. done: it happened and its effect is not known yet. failed: the host
    refused. healed, unhealed: what came of it.
    """

    BEGUN = "begun"
    DONE = "done"
    FAILED = "failed"
    HEALED = "healed"
    UNHEALED = "unhealed"

    @property
    def is_open(self) -> bool:
        return self in (AttemptOutcome.BEGUN, AttemptOutcome.DONE)


@dataclass(frozen=True)
class Attempt:
    """One action on one subject for the findings of these checks; times in Unix seconds.

    `causes` are the findings that it must heal, as (kind, name, check).
    """

    subject: Subject
    action: RepairAction
    causes: tuple[tuple[SubjectKind, str, str], ...]
    began: float
    outcome: AttemptOutcome = AttemptOutcome.BEGUN
    ended: float = 0.0
    text: str = ""


@dataclass(frozen=True)
class Quarantine:
    """A subject that shall get no work. `clean_since`: nothing speaks for it since then, 0 if something does."""

    subject: Subject
    reason: str
    since: float
    clean_since: float = 0.0


@dataclass(frozen=True)
class Answer:
    """What a person said to a decision: `by` is the user id that asked."""

    approved: bool
    by: int
    time: float


@dataclass(frozen=True)
class RepairMemory:
    """All that must survive a restart.

    `answers` by the id of the decision. `paused` says who paused repair, "" if nobody did. `reboot_asked` is why a
    reboot is asked for, "" if it is not. `drained` is the reason of our own drain of the Slurm node, "" without one.
    """

    attempts: tuple[Attempt, ...] = ()
    quarantines: tuple[Quarantine, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=lambda: MappingProxyType({}))
    paused: str = ""
    reboot_asked: str = ""
    drained: str = ""


class Standing(StrEnum):
    """Where a decision stands.

    settling: the finding is too young. dry-run: it would be done. asks: it waits for an approval. denied: a person said
    no. ready: it is done as soon as nobody is in the way. waiting: a limit or another repair is in the way. verifying:
    it was done and the finding may still go. storm: too much at once to be the fault of single devices. paused: a
    person stopped repair. asked: a reboot is asked for. given-up: all that is declared was tried. reported: nothing is
    declared.
    """

    SETTLING = "settling"
    DRY_RUN = "dry-run"
    ASKS = "asks"
    DENIED = "denied"
    READY = "ready"
    WAITING = "waiting"
    VERIFYING = "verifying"
    STORM = "storm"
    PAUSED = "paused"
    ASKED = "asked"
    GIVEN_UP = "given-up"
    REPORTED = "reported"


@dataclass(frozen=True)
class Decision:
    """What is to be done about some findings, and why it is or is not done now. `action` is None where nothing is.

    `identity` is short, and the same while the same is decided about the same subject.
    """

    identity: str
    subject: Subject
    action: RepairAction | None
    standing: Standing
    reason: str
    findings: tuple[Finding, ...]
