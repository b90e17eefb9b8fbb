"""Tables of real boards for the NVML simulator: identity, limits, and MIG profiles with their placements.

Sources: MIG User Guide (profiles, usable memory, engines, placements; r580), data sheets and nvidia-smi listings of
the boards (clocks, power, PCI ids). Part numbers and VBIOS versions have the form of real ones. Field names are those
of values.c in native/nvml, which the controller sets by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nodeagent.errors import GoneError

AMPERE, HOPPER = 7, 9  # NVML_DEVICE_ARCH_*
BRAND_NVIDIA = 14  # NVML_BRAND_NVIDIA


@dataclass(frozen=True)
class GpuInstanceProfile:
    """One NVML_GPU_INSTANCE_PROFILE_* of a board.

    `enumerator` is what ProfileInfo takes, `profile_id` what Create takes. `slices` are compute slices, `size` and
    `starts` are memory slices; `preference` is the order in which the driver tries the starts when the caller names
    none (its choice of the high end first for one slice is documented by the failing sequence 19,19,14,9 of the MIG
    User Guide). `wide` marks the double-memory profile, whose one compute instance with all multiprocessors is REV1.
    """

    name: str
    enumerator: int
    profile_id: int
    slices: int
    size: int
    instances: int
    multiprocessors: int
    copy_engines: int
    decoders: int
    jpegs: int
    ofas: int
    memory_mib: int
    starts: tuple[int, ...]
    preference: tuple[int, ...]
    wide: bool = False

    @property
    def numbers(self) -> tuple[int, ...]:
        """In the order of nvmlsim_add_profile: counts (data-centre boards have no encoders), wide, memory in MiB."""
        counts = (self.enumerator, self.profile_id, self.slices, self.size, self.instances, self.multiprocessors)
        engines = (self.copy_engines, self.decoders, 0, self.jpegs, self.ofas)
        return (*counts, *engines, int(self.wide), self.memory_mib)


@dataclass(frozen=True)
class Board:
    """One board; units stand in the names."""

    name: str
    part_number: str
    vbios: str
    pci_device_id: int
    pci_subsystem_id: int
    architecture: int
    compute_major: int
    compute_minor: int
    memory_mib: int
    reserved_mib: int
    bar1_mib: int
    cores: int
    bus_width_bits: int
    pcie_generation: int
    nvlinks: int
    power_idle_mw: int
    power_min_mw: int
    power_max_mw: int
    temperature_full_c: int
    temperature_shutdown_c: int
    temperature_slowdown_c: int
    temperature_memory_max_c: int
    temperature_gpu_max_c: int
    sm_clock_idle_mhz: int
    sm_clock_max_mhz: int
    memory_clock_mhz: int
    video_clock_max_mhz: int
    mig_resetless: int
    sm_per_slice: int
    profiles: tuple[GpuInstanceProfile, ...]
    brand: int = BRAND_NVIDIA
    pcie_width: int = 16
    fans: int = 0
    temperature_idle_c: int = 30
    mig_capable: int = 1
    mig_query_when_off: int = 1

    @property
    def power_default_mw(self) -> int:
        return self.power_max_mw


_EIGHTHS, _EIGHTHS_TRIED = (0, 1, 2, 3, 4, 5, 6), (6, 4, 5, 0, 1, 2, 3)
_PAIRS, _PAIRS_TRIED = (0, 2, 4, 6), (6, 4, 2, 0)
_TWO, _THREE, _WHOLE = (0, 2, 4), (0, 4), (0,)

A100_40_PROFILES = (
    GpuInstanceProfile("MIG 1g.5gb", 0, 19, 1, 1, 7, 14, 1, 0, 0, 0, 4864, _EIGHTHS, _EIGHTHS_TRIED),
    GpuInstanceProfile("MIG 2g.10gb", 1, 14, 2, 2, 3, 28, 2, 1, 0, 0, 9856, _TWO, _TWO),
    GpuInstanceProfile("MIG 3g.20gb", 2, 9, 3, 4, 2, 42, 3, 2, 0, 0, 19968, _THREE, (4, 0)),
    GpuInstanceProfile("MIG 4g.20gb", 3, 5, 4, 4, 1, 56, 4, 2, 0, 0, 19968, _WHOLE, _WHOLE),
    GpuInstanceProfile("MIG 7g.40gb", 4, 0, 7, 8, 1, 98, 7, 5, 1, 1, 40192, _WHOLE, _WHOLE),
    GpuInstanceProfile("MIG 1g.5gb+me", 7, 20, 1, 1, 1, 14, 1, 1, 1, 1, 4864, _EIGHTHS, _EIGHTHS_TRIED),
    GpuInstanceProfile("MIG 1g.10gb", 9, 15, 1, 2, 4, 14, 1, 1, 0, 0, 9856, _PAIRS, _PAIRS_TRIED, wide=True),
)

H100_80_PROFILES = (
    GpuInstanceProfile("MIG 1g.10gb", 0, 19, 1, 1, 7, 16, 1, 1, 1, 0, 9984, _EIGHTHS, _EIGHTHS_TRIED),
    GpuInstanceProfile("MIG 2g.20gb", 1, 14, 2, 2, 3, 32, 2, 2, 2, 0, 20096, _TWO, _TWO),
    GpuInstanceProfile("MIG 3g.40gb", 2, 9, 3, 4, 2, 60, 3, 3, 3, 0, 40448, _THREE, (4, 0)),
    GpuInstanceProfile("MIG 4g.40gb", 3, 5, 4, 4, 1, 64, 4, 4, 4, 0, 40448, _WHOLE, _WHOLE),
    GpuInstanceProfile("MIG 7g.80gb", 4, 0, 7, 8, 1, 132, 8, 7, 7, 1, 81152, _WHOLE, _WHOLE),
    GpuInstanceProfile("MIG 1g.10gb+me", 7, 20, 1, 1, 1, 16, 1, 1, 1, 1, 9984, _EIGHTHS, _EIGHTHS_TRIED),
    GpuInstanceProfile("MIG 1g.20gb", 9, 15, 1, 2, 4, 26, 1, 1, 1, 0, 20096, _PAIRS, _PAIRS_TRIED, wide=True),
)

A100_SXM4_40GB = Board(
    name="NVIDIA A100-SXM4-40GB",
    part_number="692-2G506-0200-002",
    vbios="92.00.45.00.03",
    pci_device_id=0x20B010DE,
    pci_subsystem_id=0x144E10DE,
    architecture=AMPERE,
    compute_major=8,
    compute_minor=0,
    memory_mib=40960,
    reserved_mib=614,
    bar1_mib=65536,
    cores=6912,
    bus_width_bits=5120,
    pcie_generation=4,
    nvlinks=12,
    power_idle_mw=55000,
    power_min_mw=100000,
    power_max_mw=400000,
    temperature_full_c=66,
    temperature_shutdown_c=92,
    temperature_slowdown_c=89,
    temperature_memory_max_c=95,
    temperature_gpu_max_c=85,
    sm_clock_idle_mhz=210,
    sm_clock_max_mhz=1410,
    memory_clock_mhz=1215,
    video_clock_max_mhz=1290,
    mig_resetless=0,
    sm_per_slice=14,
    profiles=A100_40_PROFILES,
)

A100_PCIE_40GB = replace(
    A100_SXM4_40GB,
    name="NVIDIA A100-PCIE-40GB",
    part_number="900-21001-0000-000",
    vbios="92.00.25.00.08",
    pci_device_id=0x20F110DE,
    pci_subsystem_id=0x145F10DE,
    nvlinks=0,
    power_idle_mw=35000,
    power_min_mw=150000,
    power_max_mw=250000,
)

H100_80GB_HBM3 = Board(
    name="NVIDIA H100 80GB HBM3",
    part_number="692-2G520-0200-000",
    vbios="96.00.68.00.01",
    pci_device_id=0x233010DE,
    pci_subsystem_id=0x16C110DE,
    architecture=HOPPER,
    compute_major=9,
    compute_minor=0,
    memory_mib=81559,
    reserved_mib=400,
    bar1_mib=131072,
    cores=16896,
    bus_width_bits=5120,
    pcie_generation=5,
    nvlinks=18,
    power_idle_mw=70000,
    power_min_mw=200000,
    power_max_mw=700000,
    temperature_full_c=68,
    temperature_shutdown_c=92,
    temperature_slowdown_c=89,
    temperature_memory_max_c=95,
    temperature_gpu_max_c=87,
    sm_clock_idle_mhz=345,
    sm_clock_max_mhz=1980,
    memory_clock_mhz=2619,
    video_clock_max_mhz=1545,
    mig_resetless=1,
    sm_per_slice=16,
    profiles=H100_80_PROFILES,
)

BOARDS = {
    "A100-SXM4-40GB": A100_SXM4_40GB,
    "A100-PCIE-40GB": A100_PCIE_40GB,
    "H100-80GB-HBM3": H100_80GB_HBM3,
}


def board_named(name: str) -> Board:
    """The board of this name, with hyphens or spaces. GoneError for one that has no table."""
    found = BOARDS.get(name.replace(" ", "-"))
    if found is None:
        raise GoneError("find", f"board {name}", f"there are tables for {', '.join(BOARDS)}")
    return found
