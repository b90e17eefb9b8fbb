"""GPUs, their MIG layout and the NVIDIA driver as the kernel shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
class MediaEngines:
    """Media engines of a profile (nvmlGpuInstanceProfileInfo_t); an instance has them to itself."""

    decoders: int = 0
    encoders: int = 0
    jpegs: int = 0
    ofas: int = 0


@dataclass(frozen=True)
class MigProfile:
    """A GPU instance profile the board offers; `profile_id` is what NVML's create call wants, opaque per board.

    `enumerator` is NVML_GPU_INSTANCE_PROFILE_*, the number that nvidia-mig-parted writes into checkpoints.
    """

    name: str
    profile_id: int
    slice_count: int
    instance_count: int
    memory_mib: int
    placements: tuple[Placement, ...]
    enumerator: int = -1
    media: MediaEngines = MediaEngines()
    multiprocessors: int = 0
    copy_engines: int = 0


@dataclass(frozen=True)
class ComputeProfile:
    """A compute instance profile that a GPU instance offers; `placements` are in compute slices of that instance.

    `fills`: it has all multiprocessors of the GPU instance.
    """

    name: str
    profile_id: int
    slice_count: int
    fills: bool
    placements: tuple[Placement, ...]


@dataclass(frozen=True)
class ComputeInstance:
    """A compute instance; `uuid` (MIG-…) is the device users schedule on, `pids` the processes that run on it.

    `placement` is in compute slices of the GPU instance; its size is 0 where it is not known. `index` is NVML's number
    of the MIG device on its GPU, the 1 in 0:1; -1 where it is not known. `pods` as in Gpu.
    """

    profile: str
    ci_id: int
    uuid: str
    pids: tuple[int, ...] = ()
    placement: Placement = Placement(0, 0)
    index: int = field(default=-1, compare=False)
    pods: tuple[str, ...] = ()

    @property
    def in_use(self) -> bool:
        """Whether a process runs on it, or a pod was given it."""
        return bool(self.pids or self.pods)


@dataclass(frozen=True)
class GpuInstance:
    """A GPU instance, known by its parent and placement; `gi_id` is NVML's number, valid until it is destroyed.

    `compute_profiles` is what the driver offers inside it; empty where that was not asked.
    """

    profile: str
    profile_id: int
    placement: Placement
    gi_id: int
    compute_instances: tuple[ComputeInstance, ...] = ()
    compute_profiles: tuple[ComputeProfile, ...] = ()

    @property
    def pids(self) -> tuple[int, ...]:
        return tuple(pid for instance in self.compute_instances for pid in instance.pids)

    @property
    def pods(self) -> tuple[str, ...]:
        return tuple(pod for instance in self.compute_instances for pod in instance.pods)

    @property
    def in_use(self) -> bool:
        return any(instance.in_use for instance in self.compute_instances)


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML reports it, known by `uuid` and `pci_address`; `index` and `minor` are for display only.

    `resetless_mig`: the mode changes without a reset (NVML field 184). `profiles` is empty where the driver cannot list
    them while MIG is off (field 199). `pids` are compute and graphics processes on the whole GPU. `needs_reboot`: the
    driver was asked for the pending MIG mode and said that it cannot reset this GPU (SetMigMode, RESET_REQUIRED).
    `pci_device_id` and `pci_subsystem_id` are as NVML packs them: device above vendor, 0x20b010de. `compute_capability`
    is (major, minor), `cuda_version` what the driver supports at most, as (major, minor). `fabric` names the NVLink
    fabric the GPU has joined, as CLUSTERUUID.CLIQUE. `pods` are those that the kubelet gave the whole GPU and that have
    no process on it yet, as texts; read only where a step may take it from them. `vbios` and `inforom` are firmware
    versions, "" for unknown; `inforom_oem`, `inforom_ecc` and `inforom_power` those of the InfoROM's objects,
    `nvml_version` the library's, and `serial` the number on the board, "" where it has none. `brand` is NVML_BRAND_*,
    None for unknown.
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
    pods: tuple[str, ...] = ()
    needs_reboot: bool = False
    pci_device_id: int = 0
    pci_subsystem_id: int = 0
    compute_capability: tuple[int, int] = (0, 0)
    cuda_version: tuple[int, int] = (0, 0)
    fabric: str = ""
    vbios: str = ""
    inforom: str = ""
    inforom_oem: str = ""
    inforom_ecc: str = ""
    inforom_power: str = ""
    nvml_version: str = ""
    serial: str = ""
    brand: int | None = None


@dataclass(frozen=True)
class Capability:
    """A MIG capability of the driver: the minor and mode of the node below /dev/nvidia-caps that stands for it."""

    minor: int
    mode: int


@dataclass(frozen=True)
class NvidiaDriver:
    """The loaded NVIDIA driver by /proc/driver/nvidia; `gpu_information` maps PCI address to (key, value) pairs."""

    version: str
    is_open: bool
    parameters: tuple[tuple[str, str], ...] = ()
    gpu_information: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = ()


@dataclass(frozen=True)
class InstanceSample:
    """Telemetry of one GPU instance at one moment; `gpm` as in GpuSample."""

    gi_id: int
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_total_bytes: int | None = None
    gpm: Mapping[int, float] = field(default_factory=dict)

    @property
    def memory_used_ratio(self) -> float | None:
        """Used memory over what is not reserved, 0 to 1."""
        return _used_ratio(self)


@dataclass(frozen=True)
class Xid:
    """An error the driver reported; `gi_id` is -1 where it concerns the whole GPU."""

    code: int
    gi_id: int = -1


class Notice(StrEnum):
    """Another event that NVML tells of a GPU (nvmlEventType*), in words."""

    DOUBLE_BIT = "a memory error of two bits"
    UNAVAILABLE = "the GPU became unavailable"
    RECOVERY = "what the driver wants done about the GPU changed"


@dataclass(frozen=True)
class Fabric:
    """The GPU's place in the NVLink fabric (nvmlGpuFabricInfoV_t): the numbers as nvml.h has them.

    `state`: 1 not started, 2 in progress, 3 completed. `status` is the nvmlReturn_t of joining it. `health_mask` has
    groups of bits, `summary` is 0 where the driver is too old to say, 1 healthy, 2 unhealthy, 3 limited.
    """

    state: int
    status: int = 0
    health_mask: int = 0
    summary: int = 0


@dataclass(frozen=True)
class GpuSample:
    """Telemetry of one GPU at one moment; None where NVML does not support the value. Units stand in the names.

    `fields` maps NVML field ids and `gpm` GPM metric ids to their values in NVML's units (nvml.h); what the GPU does
    not have is not in them. `nvlinks` says of each link whether it is up; `temperature_margin_celsius` is what is left
    until the GPU slows down; `sram_threshold_exceeded`: too many uncorrectable errors of memory on the chip.
    GPM values are means since the sample before. `xids`, `notices` and `mig_changed` are events since
    it. `read_seconds` is what this reading took, `calls` how often each NVML function was called, and seconds of it.
    """

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
    memory_total_bytes: int | None = None
    video_clock_mhz: int | None = None
    encoder_percent: int | None = None
    decoder_percent: int | None = None
    jpeg_percent: int | None = None
    optical_flow_percent: int | None = None
    performance_state: int | None = None
    fan_percent: int | None = None
    power_limit_milliwatts: int | None = None
    enforced_power_limit_milliwatts: int | None = None
    clocks_event_reasons: int | None = None
    pcie_generation: int | None = None
    pcie_generation_max: int | None = None
    pcie_width: int | None = None
    pcie_width_max: int | None = None
    fields: Mapping[int, float] = field(default_factory=dict)
    gpm: Mapping[int, float] = field(default_factory=dict)
    instances: tuple[InstanceSample, ...] = ()
    xids: tuple[Xid, ...] = ()
    notices: tuple[Notice, ...] = ()
    mig_changed: bool = False
    persistence: bool | None = None
    temperature_margin_celsius: int | None = None
    nvlinks: tuple[bool, ...] | None = None
    fabric: Fabric | None = None
    sram_threshold_exceeded: bool | None = None
    read_seconds: float = 0.0
    calls: Mapping[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def memory_used_ratio(self) -> float | None:
        """Used memory over what is not reserved, 0 to 1."""
        return _used_ratio(self)


def _used_ratio(sample: GpuSample | InstanceSample) -> float | None:
    total, used = sample.memory_total_bytes, sample.memory_used_bytes
    usable = None if total is None else total - (sample.memory_reserved_bytes or 0)
    return used / usable if used is not None and usable else None
