"""Every check by name: what it looks at, and when it is well again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class CheckEntry:
    """`of` is what has this check; `well` says when a bad verdict goes."""

    name: str
    of: str
    looks_at: str
    well: str


_NOW = "when the next look finds it well, and `damping.hold_seconds` have passed"
_RESET = "after a reset of the GPU"

_ENTRIES = (
    CheckEntry("gpu-on-bus", "gpu", "whether the GPU is on the PCI bus and answers there", _NOW),
    CheckEntry("gpu-answers", "gpu", "whether driver calls about the GPU come back", _NOW),
    CheckEntry(
        "recovery-action", "gpu", "what the driver itself wants done (NVML field 230)", "when the driver says none"
    ),
    CheckEntry(
        "xid",
        "gpu, mig, nvswitch",
        "Xids and SXids of the kernel's log and NVML, as incidents",
        "after `damping.quiet_seconds` without another; what needs a reset also needs the driver to say that nothing "
        "is to be done, or a reload of the driver, a reboot, or `nodeagent health --acknowledge`",
    ),
    CheckEntry("ecc", "gpu", "uncorrectable memory errors since the driver was loaded; rate of corrected ones", _RESET),
    CheckEntry(
        "sram",
        "gpu",
        "whether uncorrectable errors of the memory on the chip exceed the driver's threshold",
        "never: the count is for good",
    ),
    CheckEntry(
        "gpu-notice",
        "gpu",
        "what NVML told of the GPU without a number: unavailable, or an error of two bits",
        "after `damping.quiet_seconds`",
    ),
    CheckEntry("row-remap", "gpu", "remapped rows: failed, waiting for a reset, used up", _RESET),
    CheckEntry("retired-pages", "gpu", "retired memory pages (before Ampere)", _RESET),
    CheckEntry("temperature", "gpu", "how far the GPU is from slowing down", _NOW),
    CheckEntry("clocks", "gpu", "part of the time in which heat or power brake held the clocks down", _NOW),
    CheckEntry("nvlink", "gpu", "active NVLinks against what is expected, or was seen before", _NOW),
    CheckEntry("nvlink-errors", "gpu", "rate of replays and recoveries on NVLinks", _NOW),
    CheckEntry("fabric", "gpu", "registration with the NVLink fabric, its status and health", _NOW),
    CheckEntry("pcie-link", "gpu, port", "lanes and speed of the PCIe link against what card and slot can", _NOW),
    CheckEntry("pcie-errors", "gpu, node", "rate of PCIe replays; fatal errors", _NOW),
    CheckEntry("persistence", "gpu", "persistence mode, where the node file expects one", _NOW),
    CheckEntry("mig-device", "mig", "whether NVML still shows the MIG device", _NOW),
    CheckEntry("driver", "node", "whether NVML works at all", _NOW),
    CheckEntry("gpu-count", "node", "GPUs that answer against those expected, seen before, and on the bus", _NOW),
    CheckEntry("port-state", "port", "whether a port that is expected, or ever was active, is active", _NOW),
    CheckEntry("port-flaps", "port", "how often the port went down", "when it was quiet for `limits.window_seconds`"),
    CheckEntry("port-rate", "port", "rate against what is expected, or what ports of the same card have", _NOW),
    CheckEntry("port-errors", "port", "rates of error counters", _NOW),
    CheckEntry("gid", "port", "whether a RoCE port with an address has a RoCE v2 GID for it", _NOW),
    CheckEntry("nic-power", "port", "the NIC's driver reports too little power", "after `damping.quiet_seconds`"),
    CheckEntry("nic-module", "port", "the NIC's driver reports a bad transceiver", "after `damping.quiet_seconds`"),
    CheckEntry("nic-access", "port", "refused register reads of the NIC (kept in the history only)", "at once"),
    CheckEntry("nic-firmware", "port", "the NIC's firmware reports a fatal error", "after `damping.quiet_seconds`"),
    CheckEntry(
        "kernel-log", "node", "whether the kernel's log can be read, and without a gap", "after `damping.quiet_seconds`"
    ),
    CheckEntry("kernel-hang", "node", "tasks and processors that hang in the kernel", "after `damping.quiet_seconds`"),
    CheckEntry("memory", "node", "errors of main memory", "after `damping.quiet_seconds`"),
    CheckEntry("storage", "node", "file systems and disks that fail", "after `damping.quiet_seconds`"),
    CheckEntry("clock", "node", "whether somebody keeps the clock, and how far it is off", _NOW),
    CheckEntry("disk", "node", "room on the disks of `health.disks`", _NOW),
    CheckEntry("acs", "node", "bridges that send traffic between GPU and NIC up to the processor", _NOW),
    CheckEntry("numa", "node", "devices whose NUMA node is not known", _NOW),
    CheckEntry("peermem", "node", "whether the peer memory module found somebody to register with", _NOW),
    CheckEntry("drift-modules", "node", "kernel modules that are not as the node file says", "when the plan is empty"),
    CheckEntry(
        "drift-qos", "port, node", "quality of service that is not as the node file says", "when the plan is empty"
    ),
    CheckEntry(
        "drift-roce", "port, node", "RoCE settings that are not as the node file says", "when the plan is empty"
    ),
    CheckEntry("drift-links", "port, node", "links that are not as the node file says", "when the plan is empty"),
    CheckEntry("drift-mig", "gpu, node", "MIG layouts that are not as the node file says", "when the plan is empty"),
    CheckEntry(
        "drift-sriov", "port, node", "virtual functions that are not as the node file says", "when the plan is empty"
    ),
)
CHECKS: Mapping[str, CheckEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
