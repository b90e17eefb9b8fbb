"""Tables of the Hopper boards: H100, H200, H20 and GH200. They change MIG mode without a reset.

Sources: as in boards_ampere.py. The listings of H100 NVL, H20 and GH200-144 leave gaps: what fills them stands in
`unsourced`.
"""

from __future__ import annotations

from dataclasses import replace

from nodeagent.simulation.board import (
    ALL_KINDS,
    FABRIC_COMPLETED,
    FABRIC_HEALTHY,
    HOPPER,
    NVLINK_4,
    Board,
    Engines,
    SevenSlices,
)

_SM, _COPY = (16, 26, 32, 60, 64, 132), (1, 1, 2, 3, 4, 8)
_MEDIA = (
    Engines(1, 0, 1),
    Engines(1, 0, 1),
    Engines(2, 0, 2),
    Engines(3, 0, 3),
    Engines(4, 0, 4),
    Engines(7, 0, 7, 1),
    Engines(1, 0, 1, 1),
)

H100_80_PROFILES = SevenSlices(
    gib=(10, 20, 20, 40, 40, 80),
    memory_mib=(9984, 20096, 20096, 40448, 40448, 81152),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=frozenset({"7g"}),
).profiles

H100_94_PROFILES = SevenSlices(
    gib=(12, 24, 24, 47, 47, 94),
    memory_mib=(11008, 22784, 22784, 46080, 46080, 94208),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=ALL_KINDS,
).profiles

H100_96_PROFILES = SevenSlices(
    gib=(12, 24, 24, 48, 48, 96),
    memory_mib=(11264, 23552, 23552, 47616, 47616, 95232),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
).profiles

GH200_144_PROFILES = SevenSlices(
    gib=(18, 36, 36, 72, 72, 144),
    memory_mib=(17920, 36096, 36096, 72704, 72704, 145408),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=frozenset({"3g", "4g", "7g"}),
).profiles

H200_PROFILES = SevenSlices(
    gib=(18, 35, 35, 71, 71, 141),
    memory_mib=(16384, 33024, 33024, 71168, 71168, 143104),
    multiprocessors=_SM,
    copy_engines=_COPY,
    engines=_MEDIA,
).profiles

H20_PROFILES = SevenSlices(
    gib=(12, 24, 24, 48, 48, 96),
    memory_mib=(11264, 23552, 23552, 47616, 47616, 95232),
    multiprocessors=(8, 14, 18, 34, 38, 78),
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=ALL_KINDS,
    unsourced_multiprocessors=ALL_KINDS - {"7g"},
).profiles

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
    nvlink_version=NVLINK_4,
    nvlink_mbps=26562,
    nvlink_to_switch=1,
    fabric_state=FABRIC_COMPLETED,
    fabric_health=FABRIC_HEALTHY,
)

H100_NVL = replace(
    H100_80GB_HBM3,
    name="NVIDIA H100 NVL",
    part_number="900-21010-0020-000",
    pci_device_id=0x232110DE,
    pci_subsystem_id=0x183910DE,
    memory_mib=95830,
    reserved_mib=474,
    bus_width_bits=6016,
    nvlinks=12,
    nvlink_to_switch=0,
    fabric_state=0,
    fabric_health=0,
    power_idle_mw=60000,
    power_max_mw=400000,
    sm_clock_max_mhz=1785,
    profiles=H100_94_PROFILES,
    unsourced=("part_number", "reserved_mib", "power_idle_mw"),
)

H100_96GB = replace(
    H100_80GB_HBM3,
    name="NVIDIA H100 96GB HBM3",
    pci_device_id=0x233D10DE,
    memory_mib=97871,
    reserved_mib=470,
    profiles=H100_96_PROFILES,
    unsourced=("name", "part_number", "pci_subsystem_id", "reserved_mib"),
)

GH200_96GB = replace(
    H100_96GB,
    name="NVIDIA GH200 480GB",
    part_number="900-2G530-0000-000",
    pci_device_id=0x234210DE,
    pci_subsystem_id=0x16EB10DE,
    power_max_mw=900000,
    c2c_mbps=45000,
    fabric_state=0,
    fabric_health=0,
    nvlink_to_switch=0,
    unsourced=("part_number", "reserved_mib", "power_idle_mw", "c2c_mbps"),
)

GH200_144GB = replace(
    GH200_96GB,
    name="NVIDIA GH200 144G HBM3e",
    pci_device_id=0x234810DE,
    memory_mib=147456,
    profiles=GH200_144_PROFILES,
    memory_clock_mhz=3201,
    unsourced=(*GH200_96GB.unsourced, "memory_mib", "pci_subsystem_id", "memory_clock_mhz"),
)

H200_141GB = replace(
    H100_80GB_HBM3,
    name="NVIDIA H200",
    part_number="692-2G520-0280-000",
    pci_device_id=0x233510DE,
    pci_subsystem_id=0x18BE10DE,
    memory_mib=143771,
    reserved_mib=618,
    bar1_mib=262144,
    bus_width_bits=6144,
    memory_clock_mhz=3201,
    profiles=H200_PROFILES,
    unsourced=("part_number", "reserved_mib"),
)

H20_96GB = replace(
    H100_80GB_HBM3,
    name="NVIDIA H20",
    part_number="692-2G520-0230-000",
    pci_device_id=0x232910DE,
    pci_subsystem_id=0x198B10DE,
    memory_mib=97871,
    reserved_mib=470,
    cores=9984,
    bus_width_bits=6144,
    power_max_mw=500000,
    sm_per_slice=8,
    profiles=H20_PROFILES,
    unsourced=("part_number", "reserved_mib", "pci_subsystem_id", "sm_per_slice"),
)
