"""NVML values that only health asks about. All functions raise pynvml.NVMLError, NOT_SUPPORTED where there is no value.

Source: nvml.h, groups nvmlDeviceQueries and NvLink. nvmlDeviceGetGpuFabricInfoV crashes in drivers before 550.
"""

from __future__ import annotations

from ctypes import byref
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.state.gpu import Fabric

if TYPE_CHECKING:
    from collections.abc import Callable

_FABRIC_SINCE = 550
_LINKS_MAX = 18  # NVML_NVLINK_MAX_LINKS


def _persistence(handle: Any) -> bool:
    return bool(pynvml.nvmlDeviceGetPersistenceMode(handle))


def _margin(handle: Any) -> int:
    return int(pynvml.nvmlDeviceGetMarginTemperature(handle))


def _nvlinks(handle: Any) -> tuple[bool, ...]:
    """Whether each link is up; NOT_SUPPORTED on a GPU without any. Past the last link NVML refuses the argument."""
    found: list[bool] = []
    for link in range(_LINKS_MAX):
        try:
            found.append(bool(pynvml.nvmlDeviceGetNvLinkState(handle, link)))
        except pynvml.NVMLError as error:
            if found and error.value in (nvml_errors.INVALID_ARGUMENT, nvml_errors.NOT_SUPPORTED):
                break
            raise
    return tuple(found)


def _fabric(handle: Any) -> Fabric:
    if int(str(pynvml.nvmlSystemGetDriverVersion()).split(".", 1)[0]) < _FABRIC_SINCE:
        raise pynvml.NVMLError(nvml_errors.NOT_SUPPORTED)
    for kind in (pynvml.c_nvmlGpuFabricInfo_v3_t, pynvml.c_nvmlGpuFabricInfo_v2_t):
        info = kind()
        try:
            pynvml.nvmlDeviceGetGpuFabricInfoV(handle, byref(info))
        except pynvml.NVMLError as error:
            if error.value != pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
                raise
        else:
            return Fabric(info.state, info.status, info.healthMask, getattr(info, "healthSummary", 0))
    raise pynvml.NVMLError(nvml_errors.NOT_SUPPORTED)


def _sram_threshold(handle: Any) -> bool:
    """NOT_SUPPORTED before Ampere and where ECC is off (nvmlDeviceGetSramEccErrorStatus)."""
    status = pynvml.c_nvmlEccSramErrorStatus_v1_t()
    pynvml.nvmlDeviceGetSramEccErrorStatus(handle, byref(status))
    return bool(status.bThresholdExceeded)


HEALTH_READINGS: tuple[tuple[str, Callable[[Any], Any]], ...] = (
    ("persistence", _persistence),
    ("temperature_margin_celsius", _margin),
    ("nvlinks", _nvlinks),
    ("fabric", _fabric),
    ("sram_threshold_exceeded", _sram_threshold),
)
