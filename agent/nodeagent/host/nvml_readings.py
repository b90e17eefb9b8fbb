"""What is read of each GPU for telemetry, as a table: one row for a value or a few, with the NVML calls that give it.

Layouts are those of nvml.h (groups nvmlDeviceQueries, NvLink, nvmlMultiInstanceGPU), where a structure begins with its
version; `x` stands for what is not read. nvmlDeviceGetGpuFabricInfoV crashes in drivers before 550.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_batch import CHOSEN, COUNTED, SIZED, TWO_VALUES, Call, codes_mask

LINKS_MAX = 18  # NVML_NVLINK_MAX_LINKS
FABRIC_SINCE = 550
NO_DATA, VERSION_MISMATCH = 21, 25
LASTING = (nvml_errors.NOT_SUPPORTED, nvml_errors.INVALID_ARGUMENT, nvml_errors.FUNCTION_NOT_FOUND, VERSION_MISMATCH)
"""With these the GPU does not have the value in this session, or not in this way."""
TOLERATED = codes_mask((*LASTING, nvml_errors.NO_PERMISSION, NO_DATA))


@dataclass(frozen=True)
class Reading:
    """Values that come together, and the ways to get them, the best first; older drivers have the later ones."""

    ways: tuple[Call, ...]
    since_driver: int = 0


def _version(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _one(name: str, function: str, layout: str = "I") -> Reading:
    return Reading((Call(f"nvmlDeviceGet{function}", layout, (name,), tolerated=TOLERATED),))


def _engine(name: str, function: str) -> Reading:
    """NVML says besides over how many microseconds it looked."""
    return Reading((Call(f"nvmlDeviceGet{function}Utilization", "I4x", (name,), TWO_VALUES, tolerated=TOLERATED),))


def _clock(name: str, which: int) -> Reading:
    return Reading((Call("nvmlDeviceGetClockInfo", "I", (name,), CHOSEN, which, tolerated=TOLERATED),))


def _fabric(version: int, layout: str, *names: str) -> Call:
    given = _version(version)
    return Call("nvmlDeviceGetGpuFabricInfoV", layout, names, given=given, tolerated=TOLERATED)


MEMORY = Reading(
    (
        Call(
            "nvmlDeviceGetMemoryInfo_v2",
            "8xQQQQ",
            ("memory_total_bytes", "memory_reserved_bytes", "memory_free_bytes", "memory_used_bytes"),
            given=_version(pynvml.nvmlMemory_v2),
            tolerated=TOLERATED,
        ),
        Call(  # before driver 510 reserved memory is counted as used
            "nvmlDeviceGetMemoryInfo",
            "QQQ",
            ("memory_total_bytes", "memory_free_bytes", "memory_used_bytes"),
            tolerated=TOLERATED,
        ),
    )
)
_TEMPERATURE = Reading(
    (
        Call(
            "nvmlDeviceGetTemperatureV",
            "8xi",
            ("temperature_celsius",),
            given=_version(pynvml.nvmlTemperature_v1) + _version(pynvml.NVML_TEMPERATURE_GPU),
            tolerated=TOLERATED,
        ),
        Call(
            "nvmlDeviceGetTemperature",
            "I",
            ("temperature_celsius",),
            CHOSEN,
            pynvml.NVML_TEMPERATURE_GPU,
            tolerated=TOLERATED,
        ),
    )
)


def _rows() -> Iterator[Reading]:
    size = pynvml.NVML_DEVICE_UUID_V2_BUFFER_SIZE
    yield Reading((Call("nvmlDeviceGetUUID", f"{size}s", ("uuid",), SIZED, size),))
    yield MEMORY
    utilization = ("utilization_gpu_percent", "utilization_memory_percent")
    yield Reading((Call("nvmlDeviceGetUtilizationRates", "II", utilization, tolerated=TOLERATED),))
    yield _TEMPERATURE
    yield _clock("sm_clock_mhz", pynvml.NVML_CLOCK_SM)
    yield _clock("memory_clock_mhz", pynvml.NVML_CLOCK_MEM)
    yield _clock("video_clock_mhz", pynvml.NVML_CLOCK_VIDEO)
    yield _engine("encoder_percent", "Encoder")
    yield _engine("decoder_percent", "Decoder")
    yield _engine("jpeg_percent", "Jpg")
    yield _engine("optical_flow_percent", "Ofa")
    yield _one("power_milliwatts", "PowerUsage")
    yield _one("energy_millijoules", "TotalEnergyConsumption", "Q")
    yield _one("performance_state", "PerformanceState")
    yield _one("fan_percent", "FanSpeed")
    yield _one("power_limit_milliwatts", "PowerManagementLimit")
    yield _one("enforced_power_limit_milliwatts", "EnforcedPowerLimit")
    yield _one("clocks_event_reasons", "CurrentClocksEventReasons", "Q")
    yield _one("pcie_generation", "CurrPcieLinkGeneration")
    yield _one("pcie_generation_max", "MaxPcieLinkGeneration")
    yield _one("pcie_width", "CurrPcieLinkWidth")
    yield _one("pcie_width_max", "MaxPcieLinkWidth")
    yield Reading((Call("nvmlDeviceGetMigMode", "I4x", ("mig_mode",), TWO_VALUES, tolerated=TOLERATED),))
    yield from _for_health()


def _for_health() -> Iterator[Reading]:
    """What only health asks about; a GPU with MIG enabled shows its links as down, which says nothing.

    Too many errors of memory on the chip: NOT_SUPPORTED before Ampere and where ECC is off.
    """
    yield _one("persistence", "PersistenceMode", "I")
    margin = ("temperature_margin_celsius",)
    given = _version(pynvml.nvmlMarginTemperature_v1)
    yield Reading((Call("nvmlDeviceGetMarginTemperature", "4xi", margin, given=given, tolerated=TOLERATED),))
    links, names = f"I{4 * LINKS_MAX}s", ("link_count", "link_states")
    yield Reading((Call("nvmlDeviceGetNvLinkState", links, names, COUNTED, LINKS_MAX, tolerated=TOLERATED),))
    common = ("fabric_status", "fabric_state", "fabric_health")
    third = _fabric(pynvml.nvmlGpuFabricInfo_v3, "20xI4xB3xIB3x", *common, "fabric_summary")
    yield Reading((third, _fabric(pynvml.nvmlGpuFabricInfo_v2, "20xI4xB3xI", *common)), FABRIC_SINCE)
    given = _version(pynvml.nvmlEccSramErrorStatus_v1)
    exceeded = ("sram_threshold_exceeded",)
    yield Reading((Call("nvmlDeviceGetSramEccErrorStatus", "96xI4x", exceeded, given=given, tolerated=TOLERATED),))


READINGS = tuple(_rows())
