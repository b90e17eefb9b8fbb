"""Many NVML calls of one GPU made by a single call of ours: in C, over memory that is used again, without the GIL.

What is called is data: `Call` says how a function takes its arguments and what it fills in. Every answer keeps its own
return code. Functions are looked up in the libnvidia-ml.so.1 that pynvml has loaded; one that it lacks is no error.
A call into a dying GPU hangs here as it would in pynvml: whoever asked has a deadline (nvml_worker).
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from struct import Struct, calcsize
from typing import TYPE_CHECKING, Any

from nodeagent._calls import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

VALUE, TWO_VALUES, CHOSEN = lib.NODEAGENT_VALUE, lib.NODEAGENT_TWO_VALUES, lib.NODEAGENT_CHOSEN
SIZED, ALONE, COUNTED = lib.NODEAGENT_SIZED, lib.NODEAGENT_ALONE, lib.NODEAGENT_COUNTED
_ALIGNMENT = 8
_NANO = 1e-9


@dataclass(frozen=True)
class Call:
    """One NVML call on a GPU.

    `layout` is the struct format of what NVML fills in, with a name in `names` for each of its values, and `given` what
    stands there before. `out` is memory of the caller's instead, `first` the first argument where that is not the GPU;
    `number` the argument that `shape` has besides. A code in `tolerated` (codes_mask) does not end the batch. `chain`
    is the place of an earlier call whose answer, a handle, is the first argument: NOT_FOUND where there is none.
    """

    function: str
    layout: str = ""
    names: tuple[str, ...] = ()
    shape: int = VALUE
    number: int = 0
    given: bytes = b""
    tolerated: int = 0
    out: Any = ffi.NULL
    first: Any = ffi.NULL
    chain: int | None = None


def codes_mask(codes: Iterable[int]) -> int:
    """Return codes as bits; those from 64 on cannot be told."""
    return sum(1 << code for code in set(codes))


def address(function: str) -> Any:
    """Where the loaded library has the function, None where it has not."""
    found = lib.nodeagent_symbol(function.encode())
    return None if found == ffi.NULL else found


def pointer(value: Any) -> Any:
    """A ctypes pointer, or an address, as cffi's."""
    return ffi.cast("void *", value if isinstance(value, int) else ctypes.cast(value, ctypes.c_void_p).value or 0)


class Batch:
    """Calls that are made together, over and over. Every function must be there (`address`)."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = tuple(calls)
        self._functions = tuple(dict.fromkeys(call.function for call in calls))
        self._layout, offsets, self._template = _layout(calls)
        self._memory = ffi.new("char[]", max(1, len(self._template)))
        self._buffer = ffi.buffer(self._memory)
        self._names = tuple(name for call in calls for name in call.names)
        self._calls = ffi.new("struct nodeagent_call[]", len(calls))
        self._codes = ffi.new("uint32_t[]", len(calls))
        self._costs = ffi.new("struct nodeagent_cost[]", len(self._functions))
        self._spans = ffi.cast("uint64_t *", self._costs)
        for made, call, offset in zip(self._calls, calls, offsets, strict=True):
            made.function, made.first, made.tolerated = address(call.function), call.first, call.tolerated
            made.out = self._memory + offset if call.layout else call.out
            made.shape, made.number = call.shape, call.number
            made.cost = self._functions.index(call.function)
            if call.chain is not None:
                made.chain = ffi.cast("void **", self._memory + offsets[call.chain])
        self._batch = ffi.new("struct nodeagent_batch *")
        self._batch.calls, self._batch.codes, self._batch.costs = self._calls, self._codes, self._costs
        self._batch.number, self._batch.functions = len(calls), len(self._functions)

    def point(self, place: int, out: Any) -> None:
        """Have the call at this place fill other memory of the caller's from now on."""
        self._calls[place].out = out

    def run(self, handle: Any = ffi.NULL) -> int:
        """Make all calls. 0, or the return code that ended them."""
        self._buffer[: len(self._template)] = self._template
        last = lib.nodeagent_run(self._batch, handle)
        return 0 if last == len(self.calls) else int(self._codes[last])

    def failed(self) -> dict[int, int]:
        """The return codes other than 0 of a run that was not ended, by place."""
        codes = ffi.unpack(self._codes, len(self.calls))
        return {place: code for place, code in enumerate(codes) if code} if any(codes) else {}

    def values(self, failed: Mapping[int, int]) -> dict[str, Any]:
        """What the calls filled in, by name, without those that failed."""
        found = dict(zip(self._names, self._layout.unpack_from(self._buffer), strict=True))
        for place in failed:
            for name in self.calls[place].names:
                del found[name]
        return found

    def costs(self) -> dict[str, tuple[int, float]]:
        """How often each function was called by the last run, and the seconds that took."""
        spans = ffi.unpack(self._spans, 2 * len(self._functions))
        seconds = [span * _NANO for span in spans[::2]]
        return dict(zip(self._functions, zip(spans[1::2], seconds, strict=True), strict=True))


def _layout(calls: Sequence[Call]) -> tuple[Struct, list[int], bytes]:
    """All layouts one behind the other, each call's offset, and what stands in the memory before a run."""
    parts, offsets, template = ["="], [], b""
    for call in calls:
        size = calcsize(f"={call.layout}")
        padding = -size % _ALIGNMENT
        offsets.append(len(template))
        parts.append(f"{call.layout}{padding}x" if call.layout else "")
        template += call.given.ljust(size + padding, b"\0")
    return Struct("".join(parts)), offsets, template
