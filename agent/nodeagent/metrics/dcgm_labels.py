"""Rows of dcgm-exporter's lists that are no families: what they name stands as a label on every line of the GPU.

The label has the name that the list gives the field, the older or the newer one; where the GPU does not have it there
is no label. They stand behind the host's name, by name. Sources: NVIDIA/dcgm-exporter etc/default-counters.csv (rows of
type label), internal/pkg/collector/gpu_collector.go (toMetric) and internal/pkg/rendermetrics/render_metrics.go;
NVIDIA/DCGM dcgm_fields.h (ids, newer names since 4.6) and DcgmCacheManager.cpp (which NVML call, words of the brand).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodeagent.state.gpu import Gpu

DRIVER_LABEL = "DCGM_FI_DRIVER_VERSION"
NEW_DRIVER_LABEL = "DCGM_FI_SYSTEM_DRIVER_VERSION"
"""The one row that is in force by default; the version is the loaded driver's."""


@dataclass(frozen=True)
class LabelRow:
    """A field that becomes a label: its names, DCGM's id, the NVML call that gives it, and where it stands."""

    name: str
    new_name: str
    field_id: int
    source: str
    read: Callable[[Gpu], str]


_BRANDS = MappingProxyType(
    {
        1: "Quadro",
        2: "Tesla",
        3: "NVS",
        4: "Grid",
        5: "GeForce",
        6: "Titan",
        7: "NVIDIA Virtual Applications",
        8: "NVIDIA Virtual PC",
        9: "NVIDIA Virtual Compute Server",
        10: "NVIDIA RTX Virtual Workstation",
        11: "NVIDIA vGaming",
        12: "Quadro RTX",
        13: "NVIDIA RTX",
        14: "NVIDIA",
        15: "GeForce RTX",
        16: "Titan RTX",
    }
)
"""DCGM's words for NVML_BRAND_*; any other number is Unknown there."""


def _brand(gpu: Gpu) -> str:
    return "" if gpu.brand is None else _BRANDS.get(gpu.brand, "Unknown")


LABEL_ROWS: tuple[LabelRow, ...] = tuple(
    LabelRow(f"DCGM_FI_{name}", f"DCGM_FI_{new_name}", field_id, f"nvml{function}", read)
    for name, new_name, field_id, function, read in (
        ("NVML_VERSION", "SYSTEM_NVML_VERSION", 2, "SystemGetNVMLVersion", lambda gpu: gpu.nvml_version),
        ("DEV_BRAND", "DEV_GPU_BRAND", 51, "DeviceGetBrand", _brand),
        ("DEV_SERIAL", "DEV_BOARD_SERIAL", 53, "DeviceGetSerial", lambda gpu: gpu.serial),
        (
            "DEV_OEM_INFOROM_VER",
            "DEV_INFOROM_OEM_VERSION",
            56,
            "DeviceGetInforomVersion(OEM)",
            lambda gpu: gpu.inforom_oem,
        ),
        (
            "DEV_ECC_INFOROM_VER",
            "DEV_INFOROM_ECC_VERSION",
            80,
            "DeviceGetInforomVersion(ECC)",
            lambda gpu: gpu.inforom_ecc,
        ),
        (
            "DEV_POWER_INFOROM_VER",
            "DEV_INFOROM_POWER_VERSION",
            81,
            "DeviceGetInforomVersion(POWER)",
            lambda gpu: gpu.inforom_power,
        ),
        (
            "DEV_INFOROM_IMAGE_VER",
            "DEV_INFOROM_IMAGE_VERSION",
            82,
            "DeviceGetInforomImageVersion",
            lambda gpu: gpu.inforom,
        ),
        ("DEV_VBIOS_VERSION", "DEV_VBIOS_VERSION", 85, "DeviceGetVbiosVersion", lambda gpu: gpu.vbios),
    )
)
"""The rows that are commented out in dcgm-exporter's list, by id."""

_READ: Mapping[str, Callable[[Gpu], str]] = MappingProxyType(
    {name: row.read for row in LABEL_ROWS for name in (row.name, row.new_name)}
)
LABEL_NAMES = frozenset({DRIVER_LABEL, NEW_DRIVER_LABEL, *_READ})
"""Every name that a list may have in a row of type label."""


def version_labels(gpu: Gpu, driver_version: str, wanted: frozenset[str]) -> dict[str, str]:
    """The labels of these names, in dcgm-exporter's order; "" for what the GPU does not have."""
    drivers = {DRIVER_LABEL: driver_version, NEW_DRIVER_LABEL: driver_version}
    return {name: drivers[name] if name in drivers else _READ[name](gpu) for name in sorted(wanted & LABEL_NAMES)}
