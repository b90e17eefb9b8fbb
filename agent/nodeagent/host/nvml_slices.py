"""Memory of a GPU's instances, found through their MIG devices: one batch of calls for all of them.

Handles of MIG devices die with their instance and may be given to others, so they are looked up in each round, and the
calls that need them take them from the same batch. Sources: nvml.h (group nvmlMultiInstanceGPU), MIG User Guide.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host import nvml_errors
from nodeagent.host.nvml_batch import CHOSEN, Batch, Call, address, codes_mask, pointer
from nodeagent.host.nvml_read import optional
from nodeagent.host.nvml_readings import MEMORY, TOLERATED, VERSION_MISMATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.host.nvml_costs import Costs

_TOLERATED = TOLERATED | codes_mask((nvml_errors.NOT_FOUND,))  # holes are ordinary, a lost GPU is not
_HANDLE = Call("nvmlDeviceGetMigDeviceHandleByIndex", "Q", shape=CHOSEN, tolerated=_TOLERATED)
_ID = Call("nvmlDeviceGetGpuInstanceId", "I", tolerated=_TOLERATED)
_OTHER_WAY = (nvml_errors.NOT_SUPPORTED, nvml_errors.FUNCTION_NOT_FOUND, VERSION_MISMATCH)


class SliceReader:
    """For one GPU with MIG enabled, in one session; void once its layout has changed."""

    def __init__(self, handle: Any) -> None:
        """pynvml.NVMLError where the GPU cannot be asked how many MIG devices it may have."""
        known = address(_HANDLE.function) and address(_ID.function)
        self._count = int(optional(pynvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0) if known else 0
        self._ways = iter([call for call in MEMORY.ways if address(call.function)])
        self._batch = self._made()

    def read(self, handle: Any, costs: Costs) -> dict[int, dict[str, int]]:
        """Memory in bytes under the names of InstanceSample, by instance id; an instance without MIG devices has none.

        Where an instance has several, the first one speaks for it. pynvml.NVMLError: the GPU could not be read.
        """
        batch = self._batch
        ended = batch.run(pointer(handle))
        costs.add(batch.costs())
        if ended:
            raise pynvml.NVMLError(ended)
        failed = batch.failed()
        if self._memory and any(code in _OTHER_WAY and place % self._each == 2 for place, code in failed.items()):
            self._batch = self._made()
            return self.read(handle, costs)
        return self._by_instance(batch.values(failed))

    def _made(self) -> Batch:
        """With the best way to ask for memory that is not tried yet; without memory where there is none."""
        self._memory = next(self._ways, None)
        self._each = 3 if self._memory else 2
        return Batch([call for number in range(self._count) for call in self._of_device(number)])

    def _of_device(self, number: int) -> Iterator[Call]:
        place = number * self._each
        yield replace(_HANDLE, names=(f"{number}",), number=number)
        yield replace(_ID, names=(f"{number} id",), chain=place)
        if self._memory:
            names = tuple(f"{number} {name}" for name in self._memory.names)
            yield replace(self._memory, names=names, chain=place, tolerated=_TOLERATED)

    def _by_instance(self, values: dict[str, Any]) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}
        names = self._memory.names if self._memory else ()
        for number in range(self._count):
            gi_id = values.get(f"{number} id")
            if gi_id is not None and gi_id not in found:
                found[gi_id] = {name: values[full] for name in names if (full := f"{number} {name}") in values}
        return found
