"""Keeps the machine behind NVML in step with the simulated kernel: its driver, the jobs and the holders of its GPUs."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from nodeagent.errors import BusyError, GoneError, UnsupportedError
from nodeagent.simulation import tree_capabilities

if TYPE_CHECKING:
    from nodeagent.simulation.kernel_state import FakeProcess, KernelState
    from nodeagent.simulation.machine import Machine, SimulatedGpu
    from nodeagent.simulation.tree_entry import Tree

_GPU_MAJOR = 195
# These open every GPU and still let one be reset: fabricmanager is meant to run when it is (Fabric Manager guide).
_NO_HOLDERS = frozenset({"nvidia-fabricmanager.service"})


class MachineResets:
    """`host.nvml_resets.Resets` on the machine behind NVML: what nvidia-smi --gpu-reset does to it."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def reset(self, pci_address: str) -> None:
        found = next((gpu for gpu in self._machine.gpus if gpu.pci_address == pci_address), None)
        if found is None:
            raise GoneError("reset", f"gpu {pci_address}", "there is no such gpu")
        try:
            self._machine.reset(found.uuid)
        except UnsupportedError as error:
            reason = "the platform offers no reset of its pci function"
            raise UnsupportedError("reset", f"gpu {pci_address}", reason, "reboot") from error


class MachineMirror:
    """Follows the kernel's state with one machine; called under the node's lock."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def follow(self, old: KernelState | None, new: KernelState) -> None:
        loaded = "nvidia" in new.modules
        if self._machine.driver_loaded != loaded:
            self._machine.set_driver_loaded(loaded)
        for gpu in self._machine.gpus:
            held = _held(new, gpu)
            if old is None or _held(old, gpu) != held:
                self._machine.set_held(gpu.uuid, held)
        before = _jobs(old) if old is not None else {}
        now = _jobs(new)
        for pid in set(before) - set(now):
            self._end(pid)
        for pid, job in now.items():
            if before.get(pid) != job:
                with suppress(BusyError, GoneError):  # it no longer fits: the job is there, without GPU memory
                    self.start(job)

    def marks(self, state: KernelState) -> tuple[object, ...]:
        """Equal for two states between which no capability came or went."""
        return (self._machine.changes, self._driven(state))

    def capabilities(self, state: KernelState) -> Tree:
        """The driver's capability files, as the instances are at this moment."""
        if "nvidia" not in state.modules:
            return {}
        driven = self._driven(state)
        layouts = {gpu.minor: self._machine.mig_layout(gpu.uuid) for gpu in self._machine.gpus if gpu.uuid in driven}
        return tree_capabilities.render(layouts)

    def start(self, job: FakeProcess) -> None:
        """Put the job on its GPU, anew if it is there. BusyError when memory is short, GoneError for a MIG device."""
        self._end(job.pid)
        self._machine.start_process(job.gpu_uuid, job.pid, job.name, job.memory_bytes, job.mig_uuid or None)

    def _end(self, pid: int) -> None:
        with suppress(GoneError):
            self._machine.end_process(pid)

    def _driven(self, state: KernelState) -> tuple[str, ...]:
        if "nvidia" not in state.modules:
            return ()
        return tuple(gpu.uuid for gpu in self._machine.gpus if state.drivers.get(gpu.pci_address) == "nvidia")


def _jobs(state: KernelState) -> dict[int, FakeProcess]:
    return {fake.pid: fake for fake in state.processes.values() if fake.gpu_uuid}


def _held(state: KernelState, gpu: SimulatedGpu) -> int:
    """How many of the kernel and its daemons keep this GPU from a reset; jobs are the machine's own processes.

    A loaded nvidia_drm is a client of every GPU that nvidia drives; nvidia_peermem is one for each registered region.
    """
    if state.drivers.get(gpu.pci_address) != "nvidia":
        return 0
    others = (fake for fake in state.processes.values() if not fake.gpu_uuid and fake.unit not in _NO_HOLDERS)
    daemons = sum((_GPU_MAJOR, gpu.minor) in fake.opens for fake in others)
    regions = sum(fake.memory_regions for fake in state.processes.values() if fake.gpu_uuid == gpu.uuid)
    return daemons + regions + int("nvidia_drm" in state.modules)
