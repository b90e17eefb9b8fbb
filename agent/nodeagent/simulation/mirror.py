"""Keeps the machine behind NVML in step with the simulated kernel: driver loaded or not, and the jobs on its GPUs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from nodeagent.errors import BusyError, GoneError

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import FakeProcess, KernelState
    from nodeagent.simulation.machine import Machine


class MachineMirror:
    """Follows the kernel's state with one machine; called under the node's lock."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def follow(self, old: KernelState | None, new: KernelState) -> None:
        loaded = "nvidia" in new.modules
        if self._machine.driver_loaded != loaded:
            self._machine.set_driver_loaded(loaded)
        before = _jobs(old) if old is not None else {}
        now = _jobs(new)
        for pid in set(before) - set(now):
            self._end(pid)
        for pid, job in now.items():
            if before.get(pid) != job:
                with suppress(BusyError, GoneError):  # it no longer fits: the job is there, without GPU memory
                    self.start(job)

    def start(self, job: FakeProcess) -> None:
        """Put the job on its GPU, anew if it is there. BusyError when memory is short, GoneError for a MIG device."""
        self._end(job.pid)
        self._machine.start_process(job.gpu_uuid, job.pid, job.name, job.memory_bytes, job.mig_uuid or None)

    def _end(self, pid: int) -> None:
        with suppress(GoneError):
            self._machine.end_process(pid)


def _jobs(state: KernelState) -> dict[int, FakeProcess]:
    return {fake.pid: fake for fake in state.processes.values() if fake.gpu_uuid}
