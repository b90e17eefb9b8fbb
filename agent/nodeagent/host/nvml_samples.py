"""Telemetry of GPUs through NVML: what one session keeps so that a sample costs few calls of ours.

All that is asked of a GPU is one batch of calls (nvml_batch), what is asked of its instances another one. What a GPU
answers NOT_SUPPORTED to is not asked again in this session. All functions raise pynvml.NVMLError.

Sources: nvml.h (groups nvmlFieldValueQueries, nvmlDeviceQueries, nvmlMultiInstanceGPU).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.host.nvml_batch import Batch, address, pointer
from nodeagent.host.nvml_costs import Costs
from nodeagent.host.nvml_events import GpuEvents
from nodeagent.host.nvml_fields import FIELDS, FieldArray
from nodeagent.host.nvml_gpm import WHOLE_GPU, GpmReader
from nodeagent.host.nvml_readings import LASTING, READINGS
from nodeagent.host.nvml_slices import SliceReader
from nodeagent.state.gpu import Fabric, GpuSample, InstanceSample

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nodeagent.host.nvml_batch import Call


class Telemetry:
    """What one NVML session keeps for sampling; void after nvmlShutdown, and `close` before it frees what NVML lent."""

    def __init__(self) -> None:
        self._readers: dict[int, GpuReader] = {}
        self._driver = 0
        self._events = GpuEvents()
        self._gpm = GpmReader()
        self._slices: dict[int, SliceReader] = {}

    def close(self) -> None:
        self._events.close()
        self._gpm.close()
        self._slices.clear()
        self._readers.clear()

    def sample(self, handle: Any, index: int) -> GpuSample:
        """Telemetry of one GPU; utilisation is absent on a GPU with MIG enabled, as NVML defines it."""
        started = time.monotonic()
        costs = Costs()
        values, fields = self._reader(index).read(handle, costs)
        uuid = values.pop("uuid")
        told = self._events.since_last(handle, uuid, costs)
        if told.mig_changed:
            # what a divided GPU lacks, utilisation for one, it may have again, and the other way round
            self._forget(index)
            values, fields = self._reader(index).read(handle, costs)
            del values["uuid"]
        memory = self._memory_of_instances(handle, index, costs) if values.pop("mig_mode", 0) else {}
        gpm = self._gpm.read(handle, index, tuple(memory), costs)
        return GpuSample(
            uuid=uuid,
            **values,
            fields=fields,
            gpm=gpm.get(WHOLE_GPU, {}),
            instances=tuple(InstanceSample(gi_id, **found, gpm=gpm.get(gi_id, {})) for gi_id, found in memory.items()),
            xids=told.xids,
            notices=told.notices,
            mig_changed=told.mig_changed,
            read_seconds=time.monotonic() - started,
            calls=costs.found,
        )

    def _reader(self, index: int) -> GpuReader:
        if not self._driver:
            self._driver = int(str(pynvml.nvmlSystemGetDriverVersion()).split(".", 1)[0])
        if index not in self._readers:
            self._readers[index] = GpuReader(self._driver)
        return self._readers[index]

    def _memory_of_instances(self, handle: Any, index: int, costs: Costs) -> dict[int, dict[str, int]]:
        if index not in self._slices:
            self._slices[index] = SliceReader(handle)
        return self._slices[index].read(handle, costs)

    def _forget(self, index: int) -> None:
        """What was learned about a GPU before its MIG mode or layout changed."""
        del self._readers[index]
        self._slices.pop(index, None)
        self._gpm.forget_instances(index)


class GpuReader:
    """The batch of calls that answer on one GPU, found by asking: what it lacks is asked another way, then no more."""

    def __init__(self, driver: int) -> None:
        self._ways = [
            iter(reading.ways if driver >= reading.since_driver else ()) for reading in READINGS
        ]  # those not tried yet
        self._now: list[Call | None] = [None] * len(READINGS)
        self._fields = FieldArray(FIELDS)
        self._rows: tuple[int, ...] = ()
        self._batch: Batch | None = None
        self._advance(range(len(READINGS)))

    def read(self, handle: Any, costs: Costs) -> tuple[dict[str, Any], dict[int, float]]:
        """Values by the names of GpuSample, with `uuid` and `mig_mode`; and field values."""
        where = pointer(handle)
        if self._batch is None:
            self._rows, self._batch = self._made(range(len(READINGS)), self._fields.call())
        batch = self._batch
        values, failed = self._run(where, batch, self._rows, costs)
        fields: dict[int, float] = {}
        if len(self._rows) < len(batch.calls) and len(self._rows) not in failed:
            fields, less = self._fields.read()
            if less:
                self._fields, self._batch = less, None
        return _named(values), fields

    def _made(self, rows: Iterable[int], fields: Call | None = None) -> tuple[tuple[int, ...], Batch]:
        """A batch of what is asked now, and the row of each of its calls; the field values come last."""
        calls = {row: call for row in rows if (call := self._now[row])}
        if fields and not address(fields.function):
            fields = None
        return tuple(calls), Batch((*calls.values(), *((fields,) if fields else ())))

    def _run(
        self, where: Any, batch: Batch, rows: tuple[int, ...], costs: Costs
    ) -> tuple[dict[str, Any], dict[int, int]]:
        """Values, and the codes of what failed; what turns out to be absent is asked in the next way at once."""
        ended = batch.run(where)
        costs.add(batch.costs())
        if ended:
            raise pynvml.NVMLError(ended)
        failed = batch.failed()
        values = batch.values(failed)
        absent = [rows[place] for place, code in failed.items() if place < len(rows) and code in LASTING]
        if absent:
            self._batch = None
            self._advance(absent)
            others, again = self._made(absent)
            if others:
                values |= self._run(where, again, others, costs)[0]
        return values, failed

    def _advance(self, rows: Iterable[int]) -> None:
        """From now on ask the next way that the library has."""
        for row in rows:
            self._now[row] = next((call for call in self._ways[row] if address(call.function)), None)


def _named(values: dict[str, Any]) -> dict[str, Any]:
    """NVML's numbers as GpuSample has them."""
    values["uuid"] = values["uuid"].partition(b"\0")[0].decode()
    for name in ("persistence", "sram_threshold_exceeded"):
        if name in values:
            values[name] = bool(values[name])
    if "link_count" in values:
        count = values.pop("link_count")
        values["nvlinks"] = tuple(map(bool, memoryview(values.pop("link_states")).cast("I")[:count]))
    if "fabric_state" in values:
        status, state, health = (values.pop(f"fabric_{name}") for name in ("status", "state", "health"))
        values["fabric"] = Fabric(state, status, health, values.pop("fabric_summary", 0))
    return values
