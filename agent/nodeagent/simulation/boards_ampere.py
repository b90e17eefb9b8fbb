"""Tables of the Ampere boards with MIG: A30 and A100. They need a reset to change the mode.

Sources: MIG User Guide (profiles, usable memory, engines; r580), data sheets and nvidia-smi listings of the boards
(clocks, power), pci.ids (device ids). Part numbers and VBIOS versions have the form of real ones.
"""

from __future__ import annotations

from dataclasses import replace

from nodeagent.simulation.board import (
    AMPERE,
    FOUR_SLICES,
    NVLINK_3,
    Board,
    Engines,
    GpuInstanceProfile,
    SevenSlices,
)

_SM, _COPY = (14, 14, 28, 42, 56, 98), (1, 1, 2, 3, 4, 7)
_MEDIA = (Engines(), Engines(1), Engines(1), Engines(2), Engines(2), Engines(5, 0, 1, 1), Engines(1, 0, 1, 1))

A100_40_PROFILES = SevenSlices(
    gib=(5, 10, 10, 20, 20, 40),
    memory_mib=(4864, 9856, 9856, 19968, 19968, 40192),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
).profiles

A100_80_PROFILES = SevenSlices(
    gib=(10, 20, 20, 40, 40, 80),
    memory_mib=(9728, 19968, 19968, 40192, 40192, 81152),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=frozenset({"1g double", "4g", "7g"}),
).profiles

A30_PROFILES = (
    GpuInstanceProfile("MIG 1g.6gb", FOUR_SLICES["1g"], 5952, 14, 1, Engines()),
    GpuInstanceProfile("MIG 2g.12gb", FOUR_SLICES["2g"], 11968, 28, 2, Engines(2)),
    GpuInstanceProfile("MIG 4g.24gb", FOUR_SLICES["4g"], 24000, 56, 4, Engines(4, 0, 1, 1)),
    GpuInstanceProfile("MIG 1g.6gb+me", FOUR_SLICES["1g+me"], 5952, 14, 1, Engines(1, 0, 1, 1)),
    GpuInstanceProfile("MIG 2g.12gb+me", FOUR_SLICES["2g+me"], 11968, 28, 2, Engines(2, 0, 1, 1)),
)

A100_SXM4_40GB = Board(
    name="NVIDIA A100-SXM4-40GB",
    part_number="692-2G506-0200-002",
    vbios="92.00.45.00.03",
    inforom_oem="2.0",
    inforom_ecc="6.16",
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
    nvlink_version=NVLINK_3,
    nvlink_mbps=25000,
    nvlink_to_switch=1,
)

A100_PCIE_40GB = replace(
    A100_SXM4_40GB,
    name="NVIDIA A100-PCIE-40GB",
    part_number="900-21001-0000-000",
    vbios="92.00.25.00.08",
    pci_device_id=0x20F110DE,
    pci_subsystem_id=0x145F10DE,
    nvlinks=0,
    nvlink_to_switch=0,
    power_idle_mw=35000,
    power_min_mw=150000,
    power_max_mw=250000,
)

A100_SXM4_80GB = replace(
    A100_SXM4_40GB,
    name="NVIDIA A100-SXM4-80GB",
    part_number="692-2G506-0210-002",
    pci_device_id=0x20B210DE,
    pci_subsystem_id=0x147F10DE,
    memory_mib=81920,
    reserved_mib=668,
    bar1_mib=131072,
    memory_clock_mhz=1593,
    profiles=A100_80_PROFILES,
)

A100_PCIE_80GB = replace(
    A100_SXM4_80GB,
    name="NVIDIA A100 80GB PCIe",
    part_number="900-21001-0020-000",
    vbios="92.00.68.00.01",
    pci_device_id=0x20B510DE,
    pci_subsystem_id=0x153310DE,
    nvlinks=0,
    nvlink_to_switch=0,
    power_idle_mw=45000,
    power_min_mw=150000,
    power_max_mw=300000,
    memory_clock_mhz=1512,
)

A30 = replace(
    A100_SXM4_40GB,
    name="NVIDIA A30",
    part_number="900-21001-0040-000",
    vbios="92.00.66.00.02",
    pci_device_id=0x20B710DE,
    pci_subsystem_id=0x153210DE,
    memory_mib=24576,
    reserved_mib=512,
    bar1_mib=32768,
    cores=3584,
    bus_width_bits=3072,
    nvlinks=4,
    nvlink_to_switch=0,
    power_idle_mw=28000,
    power_min_mw=100000,
    power_max_mw=165000,
    sm_clock_max_mhz=1440,
    video_clock_max_mhz=1305,
    profiles=A30_PROFILES,
    unsourced=("power_idle_mw", "reserved_mib", "bar1_mib", "video_clock_max_mhz"),
)
