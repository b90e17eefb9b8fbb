"""What follows from several samples: counters of what NVML only reports once, and rates of what it only counts.

A Tally belongs to whoever takes the samples; what it hands out is immutable.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nodeagent.state.gpu import GpuSample

NVLINK_DATA_FIELDS = (138, 139)  # KiB sent and received over all links, without protocol overhead
# Shown as 0 before the first of them: those that alerts are written for (NVIDIA, "Xid Errors").
KNOWN_XIDS = (13, 31, 43, 45, 48, 61, 62, 63, 64, 68, 74, 79, 92, 94, 95, 119, 120)
CLOCK_EVENTS: Mapping[str, int] = MappingProxyType(
    {
        "gpu_idle": 0x1,
        "clocks_setting": 0x2,
        "power_cap": 0x4,
        "hw_slowdown": 0x8,
        "sync_boost": 0x10,
        "sw_thermal": 0x20,
        "hw_thermal": 0x40,
        "hw_power_brake": 0x80,
        "display_clocks": 0x100,
    }
)
"""dcgm-exporter's names of the bits that nvmlDeviceGetCurrentClocksEventReasons answers with."""
WINDOW_SECONDS = 300
NO_XIDS: Mapping[tuple[int, int], int] = MappingProxyType({(code, -1): 0 for code in KNOWN_XIDS})


@dataclass(frozen=True)
class GpuTally:
    """One GPU's history: errors by (Xid, GPU instance or -1) since the agent started, and the last of them (0: none).

    `last_xid_seconds` is Unix time. `nvlink_megabytes_per_second` is DCGM's NVLINK_BANDWIDTH_TOTAL. `recent_xids` and
    `recent_reasons` are (Unix time, code or bit mask) of the last WINDOW_SECONDS; `clock_events` counts readings.
    `logged` are errors by Xid in the kernel's log, the only place for those of a GPU that is lost.
    """

    xids: Mapping[tuple[int, int], int] = field(default_factory=lambda: NO_XIDS)
    last_xid: int = 0
    last_xid_seconds: float | None = None
    nvlink_megabytes_per_second: float | None = None
    recent_xids: tuple[tuple[float, int], ...] = ()
    recent_reasons: tuple[tuple[float, int], ...] = ()
    clock_events: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    logged: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def counts(self) -> Mapping[tuple[int, int], int]:
        """Errors as `xids`, of each number by whoever saw more of them: NVML, or the kernel's log."""
        return {**self.xids, **{(code, -1): max(self._by_nvml(code), count) for code, count in self.logged.items()}}

    def _by_nvml(self, code: int) -> int:
        return self.xids.get((code, -1), 0)

    def with_logged(self, counts: Mapping[int, int], now: float) -> GpuTally:
        """With what the kernel's log has told so far; what NVML did not tell of is the last error."""
        fresh = [code for code, count in counts.items() if count > self.logged.get(code, 0)]
        untold = tuple((now, code) for code in fresh if counts[code] > self._by_nvml(code))
        if not untold:
            return replace(self, logged=counts)
        recent = (*_recent(self.recent_xids, now), *untold)
        return replace(self, logged=counts, last_xid=untold[-1][1], last_xid_seconds=now, recent_xids=recent)


NO_TALLY = GpuTally()


class Tally:
    """The history of all GPUs by UUID; `add` is called with every round of samples."""

    def __init__(self) -> None:
        self.gpus: Mapping[str, GpuTally] = MappingProxyType({})
        self._nvlink: dict[str, tuple[float, float]] = {}

    def add(self, samples: Iterable[GpuSample], now: float) -> Mapping[str, GpuTally]:
        """The history with these samples in it; `now` in Unix seconds."""
        gpus = dict(self.gpus)
        for sample in samples:
            before = gpus.get(sample.uuid, NO_TALLY)
            counted = _with_reasons(_with_xids(before, sample, now), sample, now)
            gpus[sample.uuid] = self._with_nvlink(counted, sample, now)
        self.gpus = MappingProxyType(gpus)
        return self.gpus

    def hear(self, logged: Mapping[str, Mapping[int, int]], now: float) -> Mapping[str, GpuTally]:
        """The history with what the kernel's log told of each GPU, by UUID."""
        heard = {uuid: self.gpus.get(uuid, NO_TALLY).with_logged(counts, now) for uuid, counts in logged.items()}
        self.gpus = MappingProxyType({**self.gpus, **heard})
        return self.gpus

    def _with_nvlink(self, tally: GpuTally, sample: GpuSample, now: float) -> GpuTally:
        """DCGM's rate: KiB a second, divided by 1000; none after a restart of the counters."""
        kib = [sample.fields[number] for number in NVLINK_DATA_FIELDS if number in sample.fields]
        if not kib:
            return tally
        total, before = sum(kib), self._nvlink.get(sample.uuid)
        self._nvlink[sample.uuid] = (total, now)
        if before is None or now <= before[1] or total < before[0]:
            return replace(tally, nvlink_megabytes_per_second=None)
        return replace(tally, nvlink_megabytes_per_second=(total - before[0]) / (now - before[1]) / 1000)


def _with_xids(tally: GpuTally, sample: GpuSample, now: float) -> GpuTally:
    if not sample.xids:
        return tally
    counts = dict(tally.xids)
    for xid in sample.xids:
        counts[xid.code, xid.gi_id] = counts.get((xid.code, xid.gi_id), 0) + 1
    recent = (*_recent(tally.recent_xids, now), *((now, xid.code) for xid in sample.xids))
    last = sample.xids[-1].code
    return replace(tally, xids=MappingProxyType(counts), last_xid=last, last_xid_seconds=now, recent_xids=recent)


def _with_reasons(tally: GpuTally, sample: GpuSample, now: float) -> GpuTally:
    mask = sample.clocks_event_reasons
    if mask is None:
        return tally
    counts = {name: tally.clock_events.get(name, 0) + bool(mask & bit) for name, bit in CLOCK_EVENTS.items()}
    recent = (*_recent(tally.recent_reasons, now), (now, mask))
    return replace(tally, recent_reasons=recent, clock_events=MappingProxyType(counts))


def _recent(entries: tuple[tuple[float, int], ...], now: float) -> tuple[tuple[float, int], ...]:
    return tuple(entry for entry in entries if now - entry[0] <= WINDOW_SECONDS)
