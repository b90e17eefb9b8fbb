"""DCGM's names since 4.6 and 4.7, which dcgm-exporter shows from 4.9 on: base units, and the unit in the name.

Built from the older table: what a family is called there, its id, unit and conversion from NVML's value. Families that
are not named here kept their names. Sources: NVIDIA/go-dcgm base unit field tests (ids 1600 to 1612), NVIDIA/DCGM
dcgmlib/dcgm_fields.h (names of the older ids) and dcgmlib/dcgm_field_naming.py (grammar). The names of the
throttle counters follow that grammar; their ids are as a third party read them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from nodeagent.metrics.dcgm import DCGM_METRICS
from nodeagent.metrics.gpu_family import GpuMetric
from nodeagent.metrics.sources import Conversion


class _Unit(NamedTuple):
    unit: str
    conversion: Conversion


_HERTZ, _RATIO = _Unit("Hz", Conversion.MEGA), _Unit("0..1", Conversion.PERCENT)
_BYTES, _SECONDS, _JOULES = _Unit("B", Conversion.NONE), _Unit("s", Conversion.NANO), _Unit("J", Conversion.MILLI)

_IN_OTHER_UNITS = {
    "SM_CLOCK": ("SM_CLOCK_HERTZ", 1603, _HERTZ),
    "MEM_CLOCK": ("MEMORY_CLOCK_HERTZ", 1604, _HERTZ),
    "VIDEO_CLOCK": ("VIDEO_CLOCK_HERTZ", 1605, _HERTZ),
    "TOTAL_ENERGY_CONSUMPTION": ("GPU_ENERGY_JOULES_TOTAL", 1611, _JOULES),
    "FAN_SPEED": ("FAN_SPEED_RATIO", 1612, _RATIO),
    "GPU_UTIL": ("GPU_UTIL_RATIO", 1613, _RATIO),
    "MEM_COPY_UTIL": ("MEMORY_UTIL_RATIO", 1614, _RATIO),
    "ENC_UTIL": ("ENC_UTIL_RATIO", 1615, _RATIO),
    "DEC_UTIL": ("DEC_UTIL_RATIO", 1616, _RATIO),
    "POWER_VIOLATION": ("GPU_POWER_THROTTLE_SECONDS_TOTAL", 1617, _SECONDS),
    "THERMAL_VIOLATION": ("GPU_THERMAL_THROTTLE_SECONDS_TOTAL", 1618, _SECONDS),
    "SYNC_BOOST_VIOLATION": ("GPU_SYNC_BOOST_THROTTLE_SECONDS_TOTAL", 1619, _SECONDS),
    "BOARD_LIMIT_VIOLATION": ("GPU_LIMIT_THROTTLE_SECONDS_TOTAL", 1620, _SECONDS),
    "LOW_UTIL_VIOLATION": ("GPU_LOW_UTIL_THROTTLE_SECONDS_TOTAL", 1621, _SECONDS),
    "RELIABILITY_VIOLATION": ("GPU_RELIABILITY_THROTTLE_SECONDS_TOTAL", 1622, _SECONDS),
    "FB_TOTAL": ("FB_CAPACITY_BYTES", 1625, _BYTES),
    "FB_FREE": ("FB_FREE_BYTES", 1626, _BYTES),
    "FB_USED": ("FB_USED_BYTES", 1627, _BYTES),
    "FB_RESERVED": ("FB_RESERVED_BYTES", 1628, _BYTES),
}
_ONLY_RENAMED = {
    "DEV_GPU_TEMP": "DEV_GPU_TEMP_CELSIUS",
    "DEV_MEMORY_TEMP": "DEV_MEMORY_TEMP_CELSIUS",
    "DEV_POWER_USAGE": "DEV_BOARD_POWER_WATTS",
    "DEV_POWER_USAGE_INSTANT": "DEV_BOARD_POWER_RAW_WATTS",
    "DEV_POWER_MGMT_LIMIT": "DEV_BOARD_POWER_LIMIT_REQUESTED_WATTS",
    "DEV_ENFORCED_POWER_LIMIT": "DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS",
    "DEV_PSTATE": "DEV_GPU_PSTATE",
    "DEV_XID_ERRORS": "DEV_XID_ERROR",
    "DEV_PCIE_REPLAY_COUNTER": "DEV_PCIE_REPLAY_TOTAL",
    "DEV_RETIRED_SBE": "DEV_PAGE_RETIRED_SBE_TOTAL",
    "DEV_RETIRED_DBE": "DEV_PAGE_RETIRED_DBE_TOTAL",
    "DEV_RETIRED_PENDING": "DEV_PAGE_RETIRED_PENDING",
    "DEV_UNCORRECTABLE_REMAPPED_ROWS": "DEV_ROW_REMAP_UNCORRECTABLE_TOTAL",
    "DEV_CORRECTABLE_REMAPPED_ROWS": "DEV_ROW_REMAP_CORRECTABLE_TOTAL",
    "DEV_ROW_REMAP_FAILURE": "DEV_ROW_REMAP_FAILED",
    "DEV_FB_USED_PERCENT": "DEV_FB_USED_RATIO",
    "DEV_NVLINK_BANDWIDTH_TOTAL": "DEV_NVLINK_THROUGHPUT_TOTAL",
    "DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL": "DEV_NVLINK_CRC_FLIT_ERROR_TOTAL",
    "DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL": "DEV_NVLINK_CRC_DATA_ERROR_TOTAL",
    "DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL": "DEV_NVLINK_REPLAY_ERROR_TOTAL",
    "DEV_NVLINK_RECOVERY_ERROR_COUNT_TOTAL": "DEV_NVLINK_RECOVERY_ERROR_TOTAL",
    "PROF_GR_ENGINE_ACTIVE": "PROF_GR_ENGINE_UTIL_RATIO",
    "PROF_SM_ACTIVE": "PROF_SM_UTIL_RATIO",
    "PROF_SM_OCCUPANCY": "PROF_SM_OCCUPANCY_RATIO",
    "PROF_PIPE_TENSOR_ACTIVE": "PROF_TENSOR_UTIL_RATIO",
    "PROF_DRAM_ACTIVE": "PROF_DRAM_UTIL_RATIO",
    "PROF_PIPE_FP64_ACTIVE": "PROF_FP64_UTIL_RATIO",
    "PROF_PIPE_FP32_ACTIVE": "PROF_FP32_UTIL_RATIO",
    "PROF_PIPE_FP16_ACTIVE": "PROF_FP16_UTIL_RATIO",
    "PROF_PIPE_TENSOR_IMMA_ACTIVE": "PROF_IMMA_UTIL_RATIO",
    "PROF_PIPE_TENSOR_HMMA_ACTIVE": "PROF_HMMA_UTIL_RATIO",
    "PROF_PIPE_TENSOR_DFMA_ACTIVE": "PROF_DFMA_UTIL_RATIO",
    "PROF_PIPE_INT_ACTIVE": "PROF_INT_UTIL_RATIO",
    **{
        f"PROF_{engine}{unit}_ACTIVE": f"PROF_{engine}_UTIL_{unit}_RATIO"
        for engine, units in (("NVDEC", 8), ("NVJPG", 8), ("NVOFA", 2))
        for unit in range(units)
    },
}


def _renamed(metric: GpuMetric) -> GpuMetric:
    short = metric.name.removeprefix("DCGM_FI_")
    found = _IN_OTHER_UNITS.get(short.removeprefix("DEV_"))
    if found:
        name, field_id, (unit, conversion) = found
        text = f"{metric.help.partition(' (')[0].removesuffix('.')} (in {unit})."
        new = replace(metric, name=f"DCGM_FI_DEV_{name}", help=text, field_id=field_id, unit=unit)
        return replace(new, conversion=conversion)
    if short in _ONLY_RENAMED:
        return replace(metric, name=f"DCGM_FI_{_ONLY_RENAMED[short]}")
    return metric


RENAMED_METRICS: tuple[GpuMetric, ...] = tuple(_renamed(metric) for metric in DCGM_METRICS)
"""The whole table under the newer names, in the same order; families that kept their names are the same values."""
