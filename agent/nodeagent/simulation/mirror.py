"""Keeps the machine behind NVML in step with the simulated kernel: driver loaded or not, and the jobs on its GPUs."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
            self._machine.end_process(pid)
        for pid, job in now.items():
            if before.get(pid) != job:
                self._machine.end_process(pid)  # a change that was cut short may have started it already
                self._machine.start_process(job.gpu_uuid, pid, job.name, job.memory_bytes)


def _jobs(state: KernelState) -> dict[int, FakeProcess]:
    return {fake.pid: fake for fake in state.processes.values() if fake.gpu_uuid}
