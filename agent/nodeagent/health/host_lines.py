"""Lines of the kernel that are not Xids and yet say that something on the node is wrong: one table.

`fatal` is None for what is only worth knowing, False for what makes a verdict a warning and True for a failure. Sources
stand beside the entries as paths in torvalds/linux unless another repository is named.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PCI = r"(?P<pci>[0-9a-fA-F]{4}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7])"


@dataclass(frozen=True)
class HostLine:
    """A pattern for the whole line, the check it belongs to, and what it means."""

    check: str
    pattern: re.Pattern[str]
    fatal: bool | None
    meaning: str
    advice: str


def _line(check: str, pattern: str, fatal: bool | None, meaning: str, advice: str) -> HostLine:
    return HostLine(check, re.compile(pattern), fatal, meaning, advice)


HOST_LINES = (
    # NVIDIA/open-gpu-kernel-modules kernel-open/nvidia-peermem/nvidia-peermem.c
    _line(
        "peermem",
        r"nvidia-peermem \w+:[0-9]+ ERROR detected invalid context, skipping further processing",
        None,
        "a process ended while its memory was registered with a NIC",
        "nothing to do unless jobs fail with it",
    ),
    _line(
        "peermem",
        r"nvidia-peermem \w+:[0-9]+ ERROR .*",
        False,
        "nvidia_peermem could not register GPU memory with the NIC",
        "see that the peer memory module fits the RDMA stack, or use dma-buf",
    ),
    # NVIDIA/open-gpu-kernel-modules src/nvidia/src/kernel/gpu/nvlink/kernel_nvlinkcorelibtrain.c
    _line(
        "nvlink",
        r"NVRM: (?:GPU[0-9]+ )?knvlink\w*: .*(?:[Rr]x ?[Dd]et|postRxDet).*(?:failed|Failed).*",
        False,
        "NVLink training: a link's receiver was not detected",
        "see which links are down; reseat or service the baseboard",
    ),
    # drivers/net/ethernet/mellanox/mlx5/core/events.c
    _line(
        "nic-power",
        rf"mlx5_core {_PCI}(?: \S+)?: mlx5_pcie_event:[0-9]+:\(pid [0-9]+\): "
        r"Detected insufficient power on the PCIe slot.*",
        False,
        "the NIC gets less power from its slot than it asks for",
        "check the slot's power limit and the card's auxiliary power",
    ),
    _line(
        "nic-module",
        rf"mlx5_core {_PCI}(?: \S+)?: Port module event(?:\[error\])?: module [0-9]+, "
        r"Cable error, (?:High Temperature|Power budget exceeded|Bus stuck.*|Unsupported cable.*)",
        False,
        "the transceiver or cable reports an error",
        "reseat or replace the module; check its temperature",
    ),
    # drivers/net/ethernet/mellanox/mlx5/core/cmd.c; NVIDIA leptonai/gpud#1164: reading counters causes them
    _line(
        "nic-access",
        rf"mlx5_core {_PCI}(?: \S+)?: mlx5_cmd_out_err:[0-9]+:\(pid [0-9]+\): ACCESS_REG\(0x[0-9a-f]+\).* failed, .*",
        None,
        "the NIC's firmware refused a register read, as on restricted functions",
        "whoever reads diagnostic counters of this function should stop",
    ),
    _line(
        "nic-firmware",
        rf"mlx5_core {_PCI}(?: \S+)?: (?:mlx5_)?(?:health|poll_health|print_health_info)\S*.*"
        r"(?:[Hh]ealth compromised|[Ff]atal error|device's health).*",
        True,
        "the NIC's firmware reports a fatal error",
        "see `devlink health`; reset the NIC, update its firmware",
    ),
    # drivers/pci/pcie/aer.c
    _line(
        "pcie-errors",
        rf"(?:pcieport|nvidia|mlx5_core) {_PCI}: AER: (?:Multiple )?Uncorrect(?:ed|able) \(Fatal\) error"
        r"(?: message)? received.*",
        True,
        "a PCIe link had a fatal error",
        "reseat the card; look at the slot, riser and retimer",
    ),
    # kernel/hung_task.c, kernel/watchdog.c, mm/oom_kill.c
    _line(
        "kernel-hang",
        r"INFO: task (?P<name>.{1,20}):[0-9]+ blocked for more than [0-9]+ seconds\.",
        False,
        "a process has been waiting in the kernel for minutes",
        "see what it waits for; a name with nvidia points at the driver",
    ),
    _line(
        "kernel-hang",
        r"watchdog: BUG: soft lockup - CPU#[0-9]+ stuck for [0-9]+s! \[(?P<name>.{1,20}):[0-9]+\]",
        True,
        "a processor was stuck in the kernel",
        "reboot the node; report the trace that follows",
    ),
    _line(
        "memory",
        r"(?:Memory cgroup out of memory|Out of memory): Killed process [0-9]+ \((?P<name>.{1,20})\).*",
        None,
        "a process was killed for want of memory",
        "nothing to do for the node unless it was a service",
    ),
    # drivers/edac/edac_mc.c
    _line(
        "memory",
        r"EDAC MC[0-9]+: [0-9]+ CE .*",
        None,
        "main memory corrected an error",
        "watch the DIMM; replace it if it goes on",
    ),
    _line(
        "memory",
        r"EDAC MC[0-9]+: [0-9]+ UE .*",
        True,
        "main memory had an error that could not be corrected",
        "replace the DIMM",
    ),
    # fs/ext4/super.c, fs/xfs/xfs_fsops.c, drivers/nvme/host/pci.c, block/blk-core.c
    _line(
        "storage",
        r"EXT4-fs \(\S+\): Remounting filesystem read-only",
        True,
        "a file system became read-only",
        "check the disk and the file system",
    ),
    _line(
        "storage",
        r"XFS \(\S+\): .*(?:Shutting down filesystem|Filesystem has been shut down).*",
        True,
        "a file system was shut down",
        "check the disk and the file system",
    ),
    _line(
        "storage",
        r"nvme nvme[0-9]+: (?:Disabling device after reset failure|Device not ready; aborting reset).*",
        True,
        "an NVMe disk does not answer any more",
        "replace the disk",
    ),
    _line(
        "storage",
        r"nvme nvme[0-9]+: I/O .*timeout, .*",
        None,
        "an NVMe disk was slow to answer",
        "watch the disk",
    ),
)
