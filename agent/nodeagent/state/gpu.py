"""GPUs, their MIG layout and the NVIDIA driver as the kernel shows it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MigMode(StrEnum):
    """MIG mode of a GPU; unsupported where the board has no MIG."""

    ENABLED = "enabled"
    DISABLED = "disabled"
    UNSUPPORTED = "unsupported"


@dataclass(frozen=True, order=True)
class Placement:
    """Span of memory slices on a GPU (nvmlGpuInstancePlacement_t), or of compute slices inside a GPU instance."""

    start: int
    size: int


@dataclass(frozen=True)
class MigProfile:
    """A GPU instance profile the board offers; `profile_id` is what NVML's create call wants, opaque per board."""

    name: str
    profile_id: int
    slice_count: int
    instance_count: int
    memory_mib: int
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class ComputeInstance:
    """A compute instance; `uuid` (MIG-…) is the device users schedule on, `pids` the processes that run on it."""

    profile: str
    ci_id: int
    uuid: str
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class GpuInstance:
    """A GPU instance, known by its parent and placement; `gi_id` is NVML's number, valid until it is destroyed."""

    profile: str
    profile_id: int
    placement: Placement
    gi_id: int
    compute_instances: tuple[ComputeInstance, ...] = ()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(pid for instance in self.compute_instances for pid in instance.pids)


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it, known by `uuid` and `pci_address`; `index` and `minor` are for display only.

    `resetless_mig`: the mode changes without a reset (NVML field 184). `profiles` is empty where the driver cannot list
    them while MIG is off (field 199). `pids` are compute and graphics processes on the whole GPU.
    """

    uuid: str
    index: int
    minor: int
    pci_address: str
    product: str
    memory_total_bytes: int
    mig_mode: MigMode = MigMode.UNSUPPORTED
    pending_mig_mode: MigMode = MigMode.UNSUPPORTED
    resetless_mig: bool = False
    profiles: tuple[MigProfile, ...] = ()
    instances: tuple[GpuInstance, ...] = ()
    pids: tuple[int, ...] = ()


@dataclass(frozen=True)
class NvidiaDriver:
    """The loaded NVIDIA driver by /proc/driver/nvidia; `gpu_information` maps PCI address to (key, value) pairs."""

    version: str
    is_open: bool
    parameters: tuple[tuple[str, str], ...] = ()
    gpu_information: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()


@dataclass(frozen=True)
class GpuSample:
    """Telemetry of one GPU at one moment; None where NVML does not support the value. Units stand in the names."""

    uuid: str
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    utilization_gpu_percent: int | None = None
    utilization_memory_percent: int | None = None
    temperature_celsius: int | None = None
    power_milliwatts: int | None = None
    energy_millijoules: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
