"""Telemetry of GPUs through NVML: what one session keeps so that a sample costs few calls.

Field values come in one call per GPU into an array that is used again; what a GPU answers NOT_SUPPORTED to is not asked
again in this session. Instances are found through their MIG devices. All functions raise pynvml.NVMLError.

Sources: nvml.h (groups nvmlFieldValueQueries, nvmlDeviceQueries, nvmlMultiInstanceGPU).
"""

from __future__ import annotations

import time
from ctypes import byref, c_int32
from struct import Struct, unpack
from sys import byteorder
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_events import GpuEvents
from nodeagent.host.nvml_gpm import GPM_OF_GPU, GPM_OF_INSTANCE, GpmReader
from nodeagent.host.nvml_health import HEALTH_READINGS
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
_FIELD_VALUE = Struct(
    "=IIqqIIQ"
)  # nvmlFieldValue_t: fieldId, scopeId, timestamp, latencyUsec, valueType, status, value


def _double(raw: int) -> float:
    (value,) = unpack("=d", raw.to_bytes(8, byteorder))
    return float(value)


def _signed(bits: int) -> Callable[[int], int]:
    half, mask = 1 << (bits - 1), (1 << bits) - 1
    return lambda raw: ((raw & mask) ^ half) - half


# From the union's 8 bytes, by nvmlValueType_t: double, unsigned int, long, long long, signed long long, int, short.
_VALUE: tuple[Callable[[int], float], ...] = (
    _double,
    lambda raw: raw & 0xFFFFFFFF,
    lambda raw: raw,
    lambda raw: raw,
    _signed(64),
    _signed(32),
    lambda raw: raw & 0xFFFF,
)
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
        costs = Costs()
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        values = dict(self._getters(handle, index, costs))
        devices = tuple(_mig_devices(handle))
        costs.restart()
        told = self._events.since_last(handle, uuid)
        if (
            told.mig_changed
        ):  # what a divided GPU lacks, utilisation for one, it may have again, and the other way round
            self._absent.pop(index, None)
            self._fields.pop(index, None)
        costs.add("nvmlEventSetWait_v2")
        fields = self._field_array(index).read(handle)
        costs.add("nvmlDeviceGetFieldValues")
        gpm = self._gpm.of_gpu(handle, index, GPM_OF_GPU)
        if gpm:
            costs.add("nvmlGpmMetricsGet")
        return GpuSample(
            uuid=uuid,
            **values,
            fields=fields,
            gpm=gpm,
            instances=tuple(self._instances(handle, index, devices)),
            xids=told.xids,
            notices=told.notices,
            mig_changed=told.mig_changed,
            **self._health(handle, index),
            read_seconds=time.monotonic() - started,
            calls=costs.found,
        )

    def _field_array(self, index: int) -> FieldArray:
        found = self._fields.get(index)
        if found is None:
            found = self._fields[index] = FieldArray(FIELDS)
        return found

    def _getters(self, handle: Any, index: int, costs: Costs) -> Iterator[tuple[str, Any]]:
        """The values that NVML has functions for, each asked only as long as the GPU may have it."""
        absent = self._absent.setdefault(index, set())
        costs.restart()
        memory = _memory(handle)
        costs.add("nvmlDeviceGetMemoryInfo")
        yield from memory.items()
        for name, function, read, arguments in _CALLS:
            if name in absent:
                continue
            costs.restart()
            try:
                value = read(handle, *arguments)
            except pynvml.NVMLError as error:
                _note_absence(absent, name, error)
            else:
                yield from _named(name, value)
            costs.add(function)

    def _health(self, handle: Any, index: int) -> dict[str, Any]:
        """What only health asks about; a GPU with MIG enabled shows its links as down, which says nothing."""
        absent = self._absent.setdefault(index, set())
        found = {}
        for name, read in HEALTH_READINGS:
            if name not in absent:
                try:
                    found[name] = read(handle)
                except pynvml.NVMLError as error:
                    _note_absence(absent, name, error)
        return found

    def _instances(self, handle: Any, index: int, devices: Sequence[tuple[int, Any]]) -> Iterator[InstanceSample]:
        self._gpm.forget_others(index, [gi_id for gi_id, _ in devices])
        for gi_id, device in devices:
            gpm = self._gpm.of_instance(handle, index, gi_id, GPM_OF_INSTANCE)
            yield InstanceSample(gi_id=gi_id, **_memory(device), gpm=gpm)


class Costs:
    """How often each NVML function was called in one reading, and how long that took."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, float]] = {}
        self._started = 0.0

    def restart(self) -> None:
        self._started = time.perf_counter()

    def add(self, function: str) -> None:
        """The time since the last `restart` or `add` was this function's."""
        now = time.perf_counter()
        calls, seconds = self.found.get(function, (0, 0.0))
        self.found[function] = calls + 1, seconds + now - self._started
        self._started = now


class FieldArray:
    """Field ids and the array that NVML fills with their values.

    The array is read as plain memory: pynvml's structures pass each attribute through Python code, which would cost
    several times what the call does. The layout is nvmlFieldValue_t's, with all alternatives of its union in 8 bytes.
    """

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
        found, lacking = {}, set()
        for field, _, stamp, _, kind, status, raw in _FIELD_VALUE.iter_unpack(memoryview(self._values).cast("B")):
            if status == pynvml.NVML_SUCCESS:
                # with ECC off the totals look read, but are not (no time, or a double)
                if kind < len(_VALUE) and (field not in _ECC_TOTALS or (stamp and kind)):
                    found[field] = _VALUE[kind](raw)
            elif status in _LASTING:
                lacking.add(field)
        if lacking:
            self._renew(tuple(number for number in self._wanted if number not in lacking))
        return found


def _get_fields(handle: Any, values: Any) -> bool:
    """Call nvmlDeviceGetFieldValues on an array of ours; pynvml's own makes a new one for each call."""
    read = pynvml._nvmlGetFunctionPointer("nvmlDeviceGetFieldValues")  # noqa: SLF001
    pynvml._nvmlCheckReturn(read(handle, c_int32(len(values)), byref(values)))  # noqa: SLF001
    return True


def _calls() -> Iterator[tuple[str, str, Callable[..., Any], tuple[Any, ...]]]:
    """(name, NVML function, how to call it, with what); utilisation stands for both of its values."""
    yield "utilization", "nvmlDeviceGetUtilizationRates", pynvml.nvmlDeviceGetUtilizationRates, ()
    yield "temperature_celsius", "nvmlDeviceGetTemperatureV", _temperature, ()
    for name, clock in _CLOCKS:
        yield name, "nvmlDeviceGetClockInfo", pynvml.nvmlDeviceGetClockInfo, (clock,)
    for name, function in (*_ENGINES, *_PLAIN):
        yield name, function, getattr(pynvml, function), ()


def _named(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of one call by the names of GpuSample."""
    if name == "utilization":
        yield "utilization_gpu_percent", value.gpu
        yield "utilization_memory_percent", value.memory
    else:
        yield name, value[0] if isinstance(value, list | tuple) else value


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


_CALLS = tuple(_calls())
