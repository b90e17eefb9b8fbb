"""Telemetry of GPUs through NVML: what one session keeps so that a sample costs few calls.

Field values come in one call per GPU into an array that is used again; what a GPU answers NOT_SUPPORTED to is not asked
again in this session. Instances are found through their MIG devices. All functions raise pynvml.NVMLError.

Sources: nvml.h (groups nvmlFieldValueQueries, nvmlDeviceQueries, nvmlMultiInstanceGPU).
"""

from __future__ import annotations

import time
from ctypes import byref, c_int32
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_events import GpuEvents
from nodeagent.host.nvml_gpm import GPM_OF_GPU, GPM_OF_INSTANCE, GpmReader
from nodeagent.host.nvml_read import optional
from nodeagent.state.gpu import GpuSample, InstanceSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_ALL_LINKS = 0xFFFFFFFF  # scopeId UINT_MAX: the sum over all NVLinks
_ECC_TOTALS = (3, 4, 5, 6)  # volatile and aggregate, single and double bit
_SUMMED_OVER_LINKS = (138, 139, 140, 141)  # NVLink data and raw bytes, sent and received, in KiB
FIELDS = (
    *_ECC_TOTALS,
    *(29, 30, 31),  # retired pages: single bit, double bit, pending
    *(38, 45, 52, 59),  # NVLink totals before Hopper: CRC flit, CRC data, replay, recovery
    *(74, 75, 76, 77, 78, 79, 80, 81),  # clocks held down, in ns, by what
    *(82, 94),  # memory temperature, PCIe replays
    *_SUMMED_OVER_LINKS,
    *(142, 143, 144, 145),  # remapped rows: correctable, uncorrectable, pending, failure
    *(161, 162, 163),  # NVLink of Hopper: replay, recovery, CRC
    *(169, 173, 174, 175, 176, 177, 178, 179, 180, 181, 182, 183),  # PCIe errors by kind
    *(185, 186, 187, 188, 189),  # power: 1 s mean, instant, limits
    *(193, 194, 195, 196),  # temperature thresholds
    *(197, 198),  # PCIe bytes sent and received
    230,  # what the driver wants done to recover the GPU
    *(269, 270, 271),  # clocks held down, in ns: software thermal, hardware thermal, power brake
)
_MEMBER = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
_LASTING = (nvml_errors.NOT_SUPPORTED, nvml_errors.INVALID_ARGUMENT, nvml_errors.FUNCTION_NOT_FOUND)

_CLOCKS = (
    ("sm_clock_mhz", pynvml.NVML_CLOCK_SM),
    ("memory_clock_mhz", pynvml.NVML_CLOCK_MEM),
    ("video_clock_mhz", pynvml.NVML_CLOCK_VIDEO),
)
_ENGINES = (
    ("encoder_percent", "nvmlDeviceGetEncoderUtilization"),
    ("decoder_percent", "nvmlDeviceGetDecoderUtilization"),
    ("jpeg_percent", "nvmlDeviceGetJpgUtilization"),
    ("optical_flow_percent", "nvmlDeviceGetOfaUtilization"),
)
_PLAIN = (
    ("power_milliwatts", "nvmlDeviceGetPowerUsage"),
    ("energy_millijoules", "nvmlDeviceGetTotalEnergyConsumption"),
    ("performance_state", "nvmlDeviceGetPerformanceState"),
    ("fan_percent", "nvmlDeviceGetFanSpeed"),
    ("power_limit_milliwatts", "nvmlDeviceGetPowerManagementLimit"),
    ("enforced_power_limit_milliwatts", "nvmlDeviceGetEnforcedPowerLimit"),
    ("clocks_event_reasons", "nvmlDeviceGetCurrentClocksEventReasons"),
    ("pcie_generation", "nvmlDeviceGetCurrPcieLinkGeneration"),
    ("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration"),
    ("pcie_width", "nvmlDeviceGetCurrPcieLinkWidth"),
    ("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth"),
)


class Telemetry:
    """What one NVML session keeps for sampling; void after nvmlShutdown, and `close` before it frees what NVML lent."""

    def __init__(self) -> None:
        self._fields: dict[int, FieldArray] = {}
        self._absent: dict[int, set[str]] = {}
        self._events = GpuEvents()
        self._gpm = GpmReader()

    def close(self) -> None:
        self._events.close()
        self._gpm.close()
        self._fields.clear()
        self._absent.clear()

    def sample(self, handle: Any, index: int) -> GpuSample:
        """Telemetry of one GPU; utilisation is absent on a GPU with MIG enabled, as NVML defines it."""
        started = time.monotonic()
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        values = dict(self._getters(handle, index))
        devices = tuple(_mig_devices(handle))
        xids, mig_changed = self._events.since_last(handle, uuid)
        return GpuSample(
            uuid=uuid,
            **values,
            fields=self._fields.setdefault(index, FieldArray(FIELDS)).read(handle),
            gpm=self._gpm.of_gpu(handle, index, GPM_OF_GPU),
            instances=tuple(self._instances(handle, index, devices)),
            xids=xids,
            mig_changed=mig_changed,
            read_seconds=time.monotonic() - started,
        )

    def _getters(self, handle: Any, index: int) -> Iterator[tuple[str, Any]]:
        """The values that NVML has functions for, each asked only as long as the GPU may have it."""
        absent = self._absent.setdefault(index, set())
        yield from _memory(handle).items()
        yield from _utilization(handle)
        yield "temperature_celsius", _temperature(handle)
        for name, read, arguments in _CALLS:
            if name in absent:
                continue
            try:
                value = read(handle, *arguments)
            except pynvml.NVMLError as error:
                _note_absence(absent, name, error)
            else:
                yield name, value[0] if isinstance(value, list | tuple) else value

    def _instances(self, handle: Any, index: int, devices: Sequence[tuple[int, Any]]) -> Iterator[InstanceSample]:
        self._gpm.forget_others(index, [gi_id for gi_id, _ in devices])
        for gi_id, device in devices:
            gpm = self._gpm.of_instance(handle, index, gi_id, GPM_OF_INSTANCE)
            yield InstanceSample(gi_id=gi_id, **_memory(device), gpm=gpm)


class FieldArray:
    """Field ids and the array that NVML fills with their values."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._renew(tuple(wanted))

    def _renew(self, wanted: tuple[int, ...]) -> None:
        self._wanted = wanted
        self._values = (pynvml.c_nvmlFieldValue_t * len(wanted))()
        for value, number in zip(self._values, wanted, strict=True):
            value.fieldId = number
            value.scopeId = _ALL_LINKS if number in _SUMMED_OVER_LINKS else 0

    def read(self, handle: Any) -> dict[int, float]:
        """The values the GPU has, by field id; those it never has are not asked for again."""
        if not self._wanted or optional(_get_fields, handle, self._values) is None:
            return {}
        found = {
            value.fieldId: getattr(value.value, _MEMBER[value.valueType]) for value in self._values if _good(value)
        }
        lacking = {value.fieldId for value in self._values if value.nvmlReturn in _LASTING}
        if lacking:
            self._renew(tuple(number for number in self._wanted if number not in lacking))
        return found


def _good(value: Any) -> bool:
    """Whether NVML filled this value in; with ECC off the totals look read, but are not (no time, or a double)."""
    if value.nvmlReturn != pynvml.NVML_SUCCESS or value.valueType >= len(_MEMBER):
        return False
    return value.fieldId not in _ECC_TOTALS or (value.timestamp != 0 and value.valueType != 0)


def _get_fields(handle: Any, values: Any) -> bool:
    """Call nvmlDeviceGetFieldValues on an array of ours; pynvml's own makes a new one for each call."""
    read = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")  # noqa: SLF001
    pynvml._nvmlCheckReturn(read(handle, c_int32(len(values)), byref(values)))  # noqa: SLF001
    return True


def _calls() -> Iterator[tuple[str, Callable[..., Any], tuple[Any, ...]]]:
    for name, clock in _CLOCKS:
        yield name, pynvml.nvmlDeviceGetClockInfo, (clock,)
    for name, function in (*_ENGINES, *_PLAIN):
        yield name, getattr(pynvml, function), ()


_CALLS = tuple(_calls())


def _note_absence(absent: set[str], name: str, error: Any) -> None:
    """A value that is missing for good is not asked for again; one that is missing now may come back."""
    if error.value in _LASTING:
        absent.add(name)
    elif not nvml_errors.is_absence(error.value):
        raise error


def _memory(handle: Any) -> dict[str, int]:
    """Bytes used, free, reserved and in total; before driver 510 reserved memory is counted as used."""
    memory = optional(pynvml.nvmlDeviceGetMemoryInfo, handle, pynvml.nvmlMemory_v2)
    kinds: tuple[str, ...] = ("used", "free", "reserved", "total")
    if memory is None:
        memory, kinds = optional(pynvml.nvmlDeviceGetMemoryInfo, handle), ("used", "free", "total")
    return {} if memory is None else {f"memory_{kind}_bytes": getattr(memory, kind) for kind in kinds}


def _utilization(handle: Any) -> Iterator[tuple[str, int]]:
    found = optional(pynvml.nvmlDeviceGetUtilizationRates, handle)
    if found is not None:
        yield "utilization_gpu_percent", found.gpu
        yield "utilization_memory_percent", found.memory


def _temperature(handle: Any) -> int | None:
    """GPU temperature in degrees Celsius; the second call is for drivers that lack the first."""
    value = optional(pynvml.nvmlDeviceGetTemperatureV, handle, pynvml.NVML_TEMPERATURE_GPU)
    if value is None:
        value = optional(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU)
    return None if value is None else int(value)


def _mig_devices(handle: Any) -> Iterator[tuple[int, Any]]:
    """(GPU instance id, a MIG device in it), each instance once; an instance without a MIG device shows no values."""
    seen = set()
    for number in range(_mig_device_count(handle)):
        try:
            device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            gi_id = pynvml.nvmlDeviceGetGpuInstanceId(device)
        except pynvml.NVMLError as error:
            if error.value != nvml_errors.NOT_FOUND and not nvml_errors.is_absence(error.value):
                raise  # holes are ordinary, a lost GPU is not
            continue
        if gi_id not in seen:
            seen.add(gi_id)
            yield gi_id, device


def _mig_device_count(handle: Any) -> int:
    modes = optional(pynvml.nvmlDeviceGetMigMode, handle)
    if modes is None or not modes[0]:
        return 0
    return int(optional(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0)
