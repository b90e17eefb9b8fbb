"""What SXids mean, the errors of NVSwitches up to the third generation; the fourth reports through NVLink 5's Xids.

The severity is the word in the line. The table adds what is hit and what to do, for the codes whose class is known; any
other code is a warning, or a failure where the line says Fatal. A switch is shared by all GPUs of the partition.

Sources: NVIDIA/open-gpu-kernel-modules:src/common/nvswitch/interface/ctrl_dev_nvswitch.h (units by their thousands);
leptonai/gpud:components/accelerator/nvidia/sxid and NVIDIA's Fabric Manager User Guide, appendix D (classes).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from nodeagent.state.health import Recovery, Verdict

UNITS: Mapping[int, str] = MappingProxyType(
    {
        10: "host interface or management",
        11: "ingress",
        12: "egress",
        13: "fabric state",
        14: "tag state",
        15: "route",
        16: "NPORT",
        17: "NVLink controller",
        18: "NVLIPT",
        19: "transaction layer",
        20: "physical layer",
        21: "AFS",
        22: "link processor (MINION)",
        23: "crossbar",
        24: "source track",
        25: "link NVLIPT",
        26: "security processor (SOE)",
        27: "CCI",
        28: "transceiver heat",
        29: "multicast",
        30: "reduction",
    }
)
HOST_NOTES: Mapping[int, str] = MappingProxyType(
    {
        10003: "unhandled interrupt",
        10004: "overheating began",
        10005: "overheating ended",
        10006: "shut down because of heat",
        10007: "input/output failed",
        10008: "firmware error",
        10009: "firmware error",
    }
)


class SxidClass(StrEnum):
    """How far the damage goes."""

    CORRECTED = "corrected"
    JOBS = "jobs see it"
    PARTITION = "fatal for the link's partition"
    FABRIC = "fatal for the whole fabric"
    UNKNOWN = "unknown"


_CODES: Mapping[SxidClass, tuple[int, ...]] = MappingProxyType(
    {
        SxidClass.CORRECTED: (
            11012, 11021, 11022, 11023, 12021, 12023, 15008, 15011, 19049, *range(19055, 19072, 2),
            24001, 24002, 24003, 22013, 20001, 20009, 10005,
        ),
        SxidClass.JOBS: (11004, 12028, 19084, 20012),
        SxidClass.PARTITION: (
            11001, 11009, 11013, 11018, 11019, 11020, 12001, 12002, 12022, 12024, 12025, 12026, 12027, 12030, 12031,
            12032, 14017, 15001, 15006, 15009, 15010, 15012, 15013, 19047, 19048, *range(19054, 19071, 2), 20034,
            24004, 24005, 24006, 24007,
        ),
        SxidClass.FABRIC: (12020, 22003, 22011, *range(23001, 23018), 10003),
    }
)  # fmt: skip
_RECOVERY: Mapping[SxidClass, tuple[Verdict, Recovery, str]] = MappingProxyType(
    {
        SxidClass.CORRECTED: (Verdict.OK, Recovery.NONE, "watch whether it grows"),
        SxidClass.JOBS: (
            Verdict.WARNING,
            Recovery.RESTART_JOB,
            "restart the jobs; if it comes back, the fabric",
        ),
        SxidClass.PARTITION: (
            Verdict.FAILED,
            Recovery.RESTART_FABRIC,
            "end the jobs of the partition, then reset GPUs and switches by way of the fabric manager",
        ),
        SxidClass.FABRIC: (Verdict.FAILED, Recovery.REBOOT, "reboot the node"),
        SxidClass.UNKNOWN: (Verdict.WARNING, Recovery.SUPPORT, "collect a bug report and call support"),
    }
)
SXIDS: Mapping[int, SxidClass] = MappingProxyType({code: kind for kind, codes in _CODES.items() for code in codes})


@dataclass(frozen=True)
class SxidEntry:
    """One number: the unit it comes from, how far the damage goes and what to do."""

    code: int
    unit: str
    kind: SxidClass
    verdict: Verdict
    recovery: Recovery
    advice: str

    @property
    def meaning(self) -> str:
        note = HOST_NOTES.get(self.code)
        return f"NVSwitch {self.unit}: {note or self.kind.value}"


def sxid_entry(code: int, fatal: bool | None = None) -> SxidEntry:
    """What the number means; `fatal` is the word of the line and goes before the table."""
    kind = SXIDS.get(code, SxidClass.UNKNOWN)
    if fatal and kind not in (SxidClass.PARTITION, SxidClass.FABRIC):
        kind = SxidClass.PARTITION
    verdict, recovery, advice = _RECOVERY[kind]
    if fatal is False and verdict is Verdict.FAILED:
        verdict = Verdict.WARNING
    return SxidEntry(code, UNITS.get(code // 1000, "unknown unit"), kind, verdict, recovery, advice)
