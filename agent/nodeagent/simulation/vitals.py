"""The simulated node's clock and disks: as its kernel state says, which is where faults are set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nodeagent.state.vitals import ClockFacts, DiskFacts

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel

_DISK_BYTES = 1 << 40
_USUAL_FREE = 0.6
_USUAL_ERROR_SECONDS = 0.002


class SimulatedVitals:
    """`ports.Vitals` of a simulated node."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def clock(self) -> ClockFacts:
        state = self._kernel.state
        return ClockFacts(state.clock_synchronized, state.clock_offset_seconds, _USUAL_ERROR_SECONDS)

    def disk(self, path: str) -> DiskFacts:
        free = self._kernel.state.disks_free.get(path, _USUAL_FREE)
        return DiskFacts(path, _DISK_BYTES, round(_DISK_BYTES * free))
