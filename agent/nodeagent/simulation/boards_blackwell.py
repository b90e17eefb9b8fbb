"""Tables of the Blackwell boards: B200, GB200, B300, GB300 and RTX PRO 6000. They change MIG mode without a reset.

Sources: as in boards_ampere.py; for RTX PRO 6000 its own chapter in the MIG User Guide. The listings of the largest
profiles of the data-centre boards leave gaps: what fills them stands in `unsourced`.
"""

from __future__ import annotations

from dataclasses import replace

from nodeagent.simulation.board import (
    ALL_KINDS,
    BLACKWELL,
    BRAND_NVIDIA_RTX,
    FABRIC_COMPLETED,
    FABRIC_HEALTHY,
    FOUR_SLICES,
    NVLINK_5,
    Board,
    Engines,
    GpuInstanceProfile,
    SevenSlices,
)

_COPY = (2, 2, 4, 6, 8, 16)
_MEDIA = (
    Engines(1, 0, 1),
    Engines(1, 0, 1),
    Engines(2, 0, 2),
    Engines(3, 0, 3),
    Engines(4, 0, 4),
    Engines(7, 0, 7, 1),
    Engines(1, 0, 1, 1),
)
_LARGE = frozenset({"3g", "4g", "7g"})

B200_PROFILES = SevenSlices(
    gib=(23, 45, 45, 90, 90, 180),
    memory_mib=(22528, 45312, 45312, 90880, 90880, 181760),
    multiprocessors=(18, 30, 36, 70, 72, 148),
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=_LARGE,
    unsourced_multiprocessors=_LARGE,
).profiles

GB200_PROFILES = SevenSlices(
    gib=(23, 47, 47, 93, 93, 186),
    memory_mib=(22528, 46592, 46592, 93696, 93696, 187392),
    multiprocessors=(18, 32, 38, 74, 76, 152),
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=_LARGE,
    unsourced_multiprocessors=_LARGE,
).profiles

B300_PROFILES = SevenSlices(
    gib=(34, 67, 67, 135, 135, 269),
    memory_mib=(34560, 68608, 68608, 137216, 137216, 274432),
    multiprocessors=(18, 30, 36, 70, 72, 148),
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=ALL_KINDS - {"1g"},
    unsourced_multiprocessors=ALL_KINDS,
).profiles

GB300_PROFILES = SevenSlices(
    gib=(35, 70, 70, 139, 139, 278),
    memory_mib=(35072, 70656, 70656, 141824, 141824, 283648),
    multiprocessors=(18, 32, 38, 74, 76, 152),
    copy_engines=_COPY,
    engines=_MEDIA,
    unsourced_memory=ALL_KINDS,
    unsourced_multiprocessors=ALL_KINDS,
).profiles


def _rtx(kind: str, engines: Engines) -> GpuInstanceProfile:
    """A profile of RTX PRO 6000; its variants differ in their media engines and in graphics."""
    memory_mib, multiprocessors, copy_engines = {"1": (24192, 46, 1), "2": (48512, 94, 2), "4": (97280, 188, 4)}[
        kind[0]
    ]
    name = f"MIG {kind[:2]}.{24 * int(kind[0])}gb{kind[2:]}"
    return GpuInstanceProfile(name, FOUR_SLICES[kind], memory_mib, multiprocessors, copy_engines, engines)


RTX_PRO_6000_PROFILES = (
    _rtx("1g", Engines(1, 1, 1)),
    _rtx("2g", Engines(2, 2, 2)),
    _rtx("4g", Engines(4, 4, 4, 1)),
    _rtx("1g+me", Engines(1, 1, 1, 1)),
    _rtx("1g+gfx", Engines(1, 1, 1)),
    _rtx("2g+gfx", Engines(2, 2, 2)),
    _rtx("4g+gfx", Engines(4, 4, 4, 1)),
    _rtx("1g-me", Engines()),
    _rtx("2g-me", Engines()),
    _rtx("1g+me.all", Engines(4, 4, 4, 1)),
    _rtx("2g+me.all", Engines(4, 4, 4, 1)),
)

B200_180GB = Board(
    name="NVIDIA B200",
    part_number="692-2G525-0200-000",
    vbios="97.00.82.00.1f",
    pci_device_id=0x290110DE,
    pci_subsystem_id=0x199910DE,
    architecture=BLACKWELL,
    compute_major=10,
    compute_minor=0,
    memory_mib=183359,
    reserved_mib=729,
    bar1_mib=262144,
    cores=18944,
    bus_width_bits=7680,
    pcie_generation=5,
    nvlinks=18,
    power_idle_mw=140000,
    power_min_mw=200000,
    power_max_mw=1000000,
    temperature_full_c=68,
    temperature_shutdown_c=92,
    temperature_slowdown_c=89,
    temperature_memory_max_c=95,
    temperature_gpu_max_c=87,
    sm_clock_idle_mhz=120,
    sm_clock_max_mhz=1965,
    memory_clock_mhz=3996,
    video_clock_max_mhz=1860,
    mig_resetless=1,
    sm_per_slice=18,
    profiles=B200_PROFILES,
    nvlink_version=NVLINK_5,
    nvlink_mbps=53125,
    nvlink_to_switch=1,
    fabric_state=FABRIC_COMPLETED,
    fabric_health=FABRIC_HEALTHY,
    unsourced=("part_number", "pci_subsystem_id", "reserved_mib", "temperature_slowdown_c", "temperature_gpu_max_c"),
)

GB200_186GB = replace(
    B200_180GB,
    name="NVIDIA GB200",
    pci_device_id=0x294110DE,
    pci_subsystem_id=0x204610DE,
    memory_mib=189471,
    cores=19456,
    bus_width_bits=8192,
    power_max_mw=1200000,
    c2c_mbps=45000,
    sm_clock_max_mhz=2062,
    profiles=GB200_PROFILES,
    unsourced=(*B200_180GB.unsourced, "c2c_mbps"),
)

B300_269GB = replace(
    B200_180GB,
    name="NVIDIA B300 SXM6 AC",
    pci_device_id=0x318210DE,
    compute_minor=3,
    memory_mib=275040,
    bus_width_bits=8192,
    power_max_mw=1100000,
    profiles=B300_PROFILES,
    unsourced=(*B200_180GB.unsourced, "cores", "sm_clock_max_mhz"),
)

GB300_278GB = replace(
    GB200_186GB,
    name="NVIDIA GB300",
    pci_device_id=0x31C210DE,
    compute_minor=3,
    memory_mib=284208,
    power_max_mw=1400000,
    profiles=GB300_PROFILES,
    unsourced=(*GB200_186GB.unsourced, "memory_mib", "cores"),
)

RTX_PRO_6000 = replace(
    B200_180GB,
    name="NVIDIA RTX PRO 6000 Blackwell Server Edition",
    part_number="900-2G153-0000-000",
    vbios="98.02.6c.00.03",
    brand=BRAND_NVIDIA_RTX,
    pci_device_id=0x2BB510DE,
    pci_subsystem_id=0x204E10DE,
    compute_major=12,
    memory_mib=97887,
    reserved_mib=636,
    bar1_mib=131072,
    cores=24064,
    bus_width_bits=512,
    nvlinks=0,
    nvlink_to_switch=0,
    fabric_state=0,
    fabric_health=0,
    power_idle_mw=33000,
    power_min_mw=300000,
    power_max_mw=600000,
    sm_clock_idle_mhz=180,
    sm_clock_max_mhz=2430,
    memory_clock_mhz=12481,
    video_clock_max_mhz=2370,
    sm_per_slice=46,
    profiles=RTX_PRO_6000_PROFILES,
    unsourced=("part_number", "pci_subsystem_id", "reserved_mib", "power_idle_mw"),
)
