"""The driver's own word on what would heal a GPU: it goes before every table of ours.

Sources: nvml.h nvmlDeviceGpuRecoveryAction_t (0 to 5); 6 and 7 as newer Python bindings name them. Read through NVML
field 230, event 0x8000 and the kernel's line of Xid 154. After the action has succeeded the driver returns to 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.state.health import Recovery, Verdict


@dataclass(frozen=True)
class DriverAction:
    """One value: what it comes to, and what a person should do."""

    verdict: Verdict
    recovery: Recovery
    name: str
    advice: str


ACTIONS: Mapping[int, DriverAction] = MappingProxyType(
    {
        0: DriverAction(Verdict.OK, Recovery.NONE, "none", "nothing to do"),
        1: DriverAction(Verdict.FAILED, Recovery.RESET_GPU, "reset the GPU", "let its jobs end, then reset it"),
        2: DriverAction(Verdict.FAILED, Recovery.REBOOT, "reboot the node", "drain the node and reboot it"),
        3: DriverAction(
            Verdict.WARNING, Recovery.DRAIN_P2P, "drain peer-to-peer", "end peer-to-peer work; no reset yet"
        ),
        4: DriverAction(
            Verdict.FAILED,
            Recovery.DRAIN_AND_RESET,
            "drain and reset",
            "end all work on linked GPUs, then reset this one",
        ),
        5: DriverAction(
            Verdict.WARNING, Recovery.RECOVER_IMEX, "recover the IMEX domain", "restart the IMEX domain, not the GPU"
        ),
        6: DriverAction(Verdict.FAILED, Recovery.POWER_CYCLE, "reset the bus", "drain the node and power-cycle it"),
        7: DriverAction(Verdict.FAILED, Recovery.REBOOT, "reboot the system", "drain the node and reboot it"),
    }
)


def driver_action(value: int) -> DriverAction:
    """What the value means; one we do not know is unknown, never healthy."""
    other = DriverAction(Verdict.UNKNOWN, Recovery.SUPPORT, f"value {value}", "see the documentation of this driver")
    return ACTIONS.get(value, other)
