"""Section `remediation` of the node file: what is done about findings, how often at most, and who is asked first."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec import names
from nodeagent.spec.health import CHECK_NAMES
from nodeagent.spec.keys import key
from nodeagent.state.health import Recovery
from nodeagent.state.repair import RepairAction


class RemediationMode(StrEnum):
    """off: nothing is decided. dry-run: what would be done is only shown. on: it is done, by the rules."""

    OFF = "off"
    DRY_RUN = "dry-run"
    ON = "on"


class LeastVerdict(StrEnum):
    """How bad a finding must be for a rule."""

    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class RepairRule:
    """What is done about findings of some checks or recoveries; the first rule that fits a finding is its rule."""

    checks: tuple[str, ...] = key(
        "Checks whose findings it is for; empty: all.",
        default=(),
        example="[xid, recovery-action]",
        choices=CHECK_NAMES,
        expected="the name of a check such as recovery-action",
    )
    recoveries: tuple[Recovery, ...] = key(
        "What must be said to heal the finding; empty: anything.", default=(), example="[reset-gpu]"
    )
    at_least: LeastVerdict = key("How bad the finding must be.", default=LeastVerdict.FAILED)
    quarantine: bool = key("Keep work away from the device while the finding is there.", default=False)
    actions: tuple[RepairAction, ...] = key(
        "What is tried, one after the other, until the finding goes; empty: it is only reported.",
        default=(),
        example="[reset-gpu, ask-reboot]",
    )
    approval: bool = key("Whether a person must approve each action (`nodeagent repair approve`).", default=True)


@dataclass(frozen=True)
class RepairLimits:
    """How often at most. All of it is remembered over restarts and reboots."""

    window_seconds: float = key("Window in which actions are counted.", default=86400.0, minimum=60, maximum=31536000)
    attempts: int = key("How often one action is tried on one device.", default=1, minimum=1, maximum=10)
    per_device: int = key("Actions on one device, whichever they are.", default=2, minimum=1, maximum=100)
    per_node: int = key("Actions on the node altogether; no more after that.", default=4, minimum=1, maximum=1000)
    systemic_ratio: float = key(
        "When more than this part of the devices of a kind is bad, the fault is elsewhere and none is touched.",
        default=0.5,
        minimum=0.01,
        maximum=1,
    )
    settle_seconds: float = key(
        "How long a finding must be there before anything is done.", default=60.0, minimum=0, maximum=86400
    )
    verify_seconds: float = key(
        "How long after an action the finding may take to go, before the next is tried; longer than "
        "`health.damping.hold_seconds`.",
        default=300.0,
        minimum=1,
        maximum=86400,
    )
    cooldown_seconds: float = key(
        "Rest between two actions on the node; there is never more than one at a time.",
        default=60.0,
        minimum=0,
        maximum=86400,
    )


@dataclass(frozen=True)
class RepairQuarantine:
    """What keeping work away means."""

    lift_after_seconds: float = key(
        "How long a device must be well before it gets work again.", default=600.0, minimum=0, maximum=604800
    )
    slurm: bool = key("Also drain the node in Slurm; only a drain with our own reason is lifted by us.", default=False)
    slurm_node: str = key(
        "Name of the node in Slurm; empty: the host's name without its domain.",
        default="",
        example="gpu17",
        pattern=r"^$|^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        expected="the name of a node such as gpu17",
    )


@dataclass(frozen=True)
class Remediation:
    """What is done about findings. Without it, and by default, nothing is."""

    mode: RemediationMode = key("Whether anything is done.", default=RemediationMode.OFF)
    rules: tuple[RepairRule, ...] = key(
        "What is done about which findings; empty: the rules that docs/repair.md lists.", default=()
    )
    limits: RepairLimits = key("How often at most.", factory=RepairLimits)
    quarantine: RepairQuarantine = key("What keeping work away means.", factory=RepairQuarantine)
    reload: tuple[str, ...] = key(
        "What `reload-modules` reloads: modules or sets of modules, as for `nodeagent modules reload`.",
        default=("nvidia",),
        pattern=names.MODULE,
        expected="the name of a kernel module or of a set such as nvidia",
        least_items=1,
    )
