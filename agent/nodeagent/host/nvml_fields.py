"""NVML field values of a GPU: all in one call, into an array that is used again.

The array is read in C as plain memory: pynvml's structures pass each attribute through Python code, which would cost
several times what the call does. Source: nvml.h, group nvmlFieldValueQueries.
"""

from __future__ import annotations

from struct import Struct, unpack
from sys import byteorder
from typing import TYPE_CHECKING

from nodeagent._calls import ffi, lib
from nodeagent.host import nvml_errors
from nodeagent.host.nvml_batch import CHOSEN, Call, codes_mask
from nodeagent.host.nvml_readings import TOLERATED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
_LASTING = codes_mask((nvml_errors.NOT_SUPPORTED, nvml_errors.INVALID_ARGUMENT, nvml_errors.FUNCTION_NOT_FOUND))


class FieldArray:
    """Field ids and the memory that NVML fills with their values; the GPU is asked for what it may have only."""

    def __init__(self, wanted: Iterable[int]) -> None:
        self._wanted = tuple(wanted)
        number = len(self._wanted)
        self._values = ffi.new("char[]", max(1, number * _FIELD_VALUE.size))
        self._buffer = ffi.buffer(self._values)
        for place, field in enumerate(self._wanted):
            scope = _ALL_LINKS if field in _SUMMED_OVER_LINKS else 0
            _FIELD_VALUE.pack_into(self._buffer, place * _FIELD_VALUE.size, field, scope, 0, 0, 0, 0, 0)
        self._ids, self._numbers = ffi.new("uint32_t[]", number), ffi.new("uint64_t[]", number)
        self._odd, self._lasting = ffi.new("uint32_t[]", number), ffi.new("uint32_t[]", number)
        self._others = ffi.new("uint32_t[2]")

    def call(self) -> Call | None:
        """The call that fills it; None where there is nothing left to ask for."""
        number = len(self._wanted)
        out = self._values
        made = Call("nvmlDeviceGetFieldValues", shape=CHOSEN, number=number, tolerated=TOLERATED, out=out)
        return made if number else None

    def read(self) -> tuple[dict[int, float], FieldArray | None]:
        """What the call has filled in, by field id; and what to ask with from now on, where the GPU lacks some."""
        number, others = len(self._wanted), self._others
        arguments = (self._ids, self._numbers, self._odd, self._lasting, others)
        plain = lib.nodeagent_fields(self._values, number, _LASTING, *arguments)
        found = dict(zip(ffi.unpack(self._ids, plain), ffi.unpack(self._numbers, plain), strict=True))
        found |= self._special(self._odd[0 : others[0]])
        lacking = {self._wanted[place] for place in self._lasting[0 : others[1]]}
        less = FieldArray(field for field in self._wanted if field not in lacking) if lacking else None
        return found, less

    def _special(self, places: Iterable[int]) -> dict[int, float]:
        """Values that are not whole numbers from 0 on."""
        found = {}
        for place in places:
            field, _, _, _, kind, _, raw = _FIELD_VALUE.unpack_from(self._buffer, place * _FIELD_VALUE.size)
            if kind < len(_VALUE):
                found[field] = _VALUE[kind](raw)
        return found
