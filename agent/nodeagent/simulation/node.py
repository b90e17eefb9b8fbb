"""A simulated node: a directory that stands for `/`, a kernel that reacts and refuses, and GPUs behind NVML.

Everything works without privileges. Several processes may have the same node open.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import dataclass, replace
from ipaddress import ip_interface
from typing import TYPE_CHECKING, Literal

from nodeagent.errors import UsageError
from nodeagent.host import paths
from nodeagent.host.clock import RealClock
from nodeagent.host.cuda import CudaProcesses
from nodeagent.host.files import host_errors
from nodeagent.host.ports import Host, Nvml
from nodeagent.simulation.container_runtimes import SimulatedRuntimes
from nodeagent.simulation.cuda import cuda_launch
from nodeagent.simulation.installation import claim, first_state, install
from nodeagent.simulation.kernel import PRIVATE, SimKernel
from nodeagent.simulation.kernel_state import FakeProcess, KernelState, StateFile, edited
from nodeagent.simulation.machine import BoardAt, Machine
from nodeagent.simulation.machine_library import library_path
from nodeagent.simulation.mirror import MachineMirror, MachineResets
from nodeagent.simulation.ports import SimulatedFiles, SimulatedLinks, SimulatedProcesses, SimulatedServices, with_pid
from nodeagent.simulation.profiles import RELEASE, Profile, profile
from nodeagent.simulation.vitals import SimulatedVitals

if TYPE_CHECKING:
    from nodeagent.simulation.machine import SimulatedGpu


@dataclass(frozen=True)
class Job:
    """A process that computes on a GPU, or on a MIG device of it where `mig_uuid` names one."""

    name: str
    memory_bytes: int
    mig_uuid: str = ""
    container: str = ""
    pod: str = ""


class SimulatedNode:
    """One open node. `kernel` sets faults and tells the state, `machine` does the same for the GPUs."""

    def __init__(self, directory: str, kernel: SimKernel, machine: Machine) -> None:
        self.directory, self.kernel, self.machine = directory, kernel, machine

    @property
    def profile(self) -> Profile:
        return self.kernel.profile

    @property
    def nvml_environment(self) -> dict[str, str]:
        """What a program needs in its environment to see this node's GPUs through NVML."""
        return self.machine.environment

    def host(self, nvml: Literal["worker", "in-process"] = "worker", deadline_seconds: float = 10.0) -> Host:
        """The ports of this node. NVML runs in a worker process, or for one-shot commands in this one."""
        from nodeagent.host.kernel_log import KmsgLog
        from nodeagent.host.kmod import LibKmod
        from nodeagent.host.slurm import Scontrol

        return Host(
            files=SimulatedFiles(self.kernel),
            kmod=LibKmod(self.directory, RELEASE, self.kernel),
            nvml=self._nvml(nvml, deadline_seconds),
            links=SimulatedLinks(self.kernel),
            processes=SimulatedProcesses(self.kernel),
            services=SimulatedServices(self.kernel),
            kernel_log=KmsgLog(self.directory),
            clock=RealClock(),
            runtimes=SimulatedRuntimes(self.directory),
            vitals=SimulatedVitals(self.kernel),
            cuda=CudaProcesses(lambda: cuda_launch(self.directory, self.kernel.state, self.machine)),
            slurm=Scontrol(f"{self.directory}/usr/bin/scontrol"),
        )

    def _nvml(self, kind: str, deadline_seconds: float) -> Nvml:
        from nodeagent.host.nvml import InProcessNvml
        from nodeagent.host.nvml_process import Launch
        from nodeagent.host.nvml_worker import WorkerNvml

        if kind == "in-process":
            return InProcessNvml(str(library_path()), self.nvml_environment, MachineResets(self.machine))
        launch = Launch(str(library_path()), self.nvml_environment)
        return WorkerNvml(launch, deadline_seconds, resets=MachineResets(self.machine))

    def reboot(self) -> None:
        """Start the node anew: no driver, no process, no device node, nothing at run time; what is on disk stays."""
        for folder in (paths.DEV, paths.RUN_DIRECTORY):
            shutil.rmtree(self.directory + folder)
            os.makedirs(self.directory + folder)
        self.machine.reboot()
        anew = first_state(self.profile)
        self.kernel.change(lambda state: replace(anew, generation=state.generation))

    # Jobs: processes that exist only in the simulation.

    def start_job(self, gpu_index: int, name: str, memory_bytes: int, container: str = "", pod: str = "") -> int:
        """Start a fake process that computes on one GPU; its PID. `pod` is a UID, or NAMESPACE/NAME.

        UsageError while it could not open the GPU. BusyError when memory is short, or MIG mode is on.
        """
        return self.start(gpu_index, Job(name, memory_bytes, "", container, pod))

    def start_mig_job(self, gpu_index: int, mig_uuid: str, name: str, memory_bytes: int) -> int:
        """The same on a MIG device of the GPU. GoneError for one it has not."""
        return self.start(gpu_index, Job(name, memory_bytes, mig_uuid))

    def start(self, gpu_index: int, wanted: Job) -> int:
        """Start such a process on the GPU; its PID. Errors as of `start_job` and `start_mig_job`."""
        gpu = self._gpu(gpu_index)
        job = FakeProcess(
            0,
            wanted.name,
            wanted.name,
            container=wanted.container,
            pod_uid=wanted.pod,
            mig_uuid=wanted.mig_uuid,
            memory_bytes=wanted.memory_bytes,
        )
        if "/" in wanted.pod:  # a name: UID and container follow from it, as a kubelet would have given it some
            uid = uuid.uuid5(uuid.NAMESPACE_DNS, wanted.pod)
            job = replace(job, pod=wanted.pod, pod_uid=str(uid), container=wanted.container or uid.hex * 2)
        with self.kernel.transaction() as draft:
            (state, pid), opens = with_pid(draft.state), _opens(draft.state, gpu, job.name)
            job = replace(job, pid=pid, command=f"{job.name} --gpu {gpu_index}", opens=opens, gpu_uuid=gpu.uuid)
            MachineMirror(self.machine).start(job)  # asked first: when it does not fit, nothing has changed
            draft.state = replace(state, processes=edited(state.processes, **{str(pid): job}))
        return pid

    def end_job(self, pid: int) -> None:
        """End a fake process; everything it held is free. UsageError if there is none."""
        with self.kernel.transaction() as draft:
            _job(draft.state, pid)
            draft.state = replace(draft.state, processes=edited(draft.state.processes, **{str(pid): None}))

    def register_memory(self, pid: int, regions: int = 1) -> None:
        """Let a job register GPU memory with a NIC through the loaded peer memory module, or unregister if negative.

        Each region is a reference on that module (nvidia-peermem.c, nv_mem_acquire). UsageError without the module.
        """
        with self.kernel.transaction() as draft:
            job = _job(draft.state, pid)
            if regions > 0 and not {"nvidia_peermem", "nv_peer_mem"} & set(draft.state.modules):
                raise UsageError(f"register memory of job {pid}: no peer memory module is loaded; load nvidia_peermem")
            changed = replace(job, memory_regions=max(0, job.memory_regions + regions))
            draft.state = replace(draft.state, processes=edited(draft.state.processes, **{str(pid): changed}))

    def use_interface(self, name: str, address: str = "", *, default_route: bool = False, route: str = "") -> None:
        """Give an interface an address such as 10.1.0.1/24, a route such as 10.9.0.0/16 via 10.1.0.254, or the default.

        UsageError if the interface is not there.
        """
        with self.kernel.transaction() as draft:
            found = draft.state.interfaces.get(name)
            if found is None:
                there = ", ".join(draft.state.interfaces)
                raise UsageError(f"use interface {name}: there is none; there are {there}")
            changed = replace(
                found,
                addresses=(*found.addresses, address) if address else found.addresses,
                routes=(*found.routes, route) if route else found.routes,
                default_route=default_route or found.default_route,
            )
            if default_route and changed.addresses:
                changed = replace(changed, gateway=str(ip_interface(changed.addresses[-1]).network[-2]))
            draft.state = replace(draft.state, interfaces=edited(draft.state.interfaces, **{name: changed}))

    def _gpu(self, index: int) -> SimulatedGpu:
        gpus = self.machine.gpus
        if not 0 <= index < len(gpus):
            raise UsageError(f"start job: there is no GPU {index}; there are 0 to {len(gpus) - 1}")
        return gpus[index]


def _opens(state: KernelState, gpu: SimulatedGpu, name: str) -> tuple[tuple[int, int], ...]:
    """Device numbers that a CUDA program on this GPU has open."""
    uvm = next((region for region in state.regions if region.name == "nvidia-uvm"), None)
    if state.drivers.get(gpu.pci_address) != "nvidia" or uvm is None:
        reason = f"GPU {gpu.pci_address} has no driver; load nvidia and nvidia_uvm first"
        raise UsageError(f"start job {name}: {reason}")
    return ((195, 255), (195, gpu.minor), (uvm.major, 0))


def _job(state: KernelState, pid: int) -> FakeProcess:
    found = state.processes.get(str(pid))
    if found is None:
        known = ", ".join(state.processes) or "none"
        raise UsageError(f"simulated process {pid}: there is none; there are {known}")
    return found


def open_node(profile_name: str, directory: str) -> SimulatedNode:
    """The simulated node in this directory: made on first use, adopted as it is later.

    UsageError for an unknown profile. HostError where the directory holds something else, another profile or another
    format of the simulation, or cannot be written.
    """
    found = profile(profile_name)
    place = os.path.realpath(directory)
    with host_errors("open simulated node", place):
        claim(found, place)
        states = StateFile(os.path.join(place, PRIVATE))
        with states.locked():
            if not states.exists():
                _make(found, place)
        machine = Machine.open(_machine_path(place))
        uuids = {gpu.pci_address: gpu.uuid for gpu in machine.gpus}
        kernel = SimKernel(place, found, uuids, MachineMirror(machine))
        kernel.boot(first_state(found))
    return SimulatedNode(place, kernel, machine)


def _make(wanted: Profile, place: str) -> None:
    """Everything that does not change while the node lives: module files, configuration, machine. Under the lock."""
    install(wanted, place)
    boards = [
        BoardAt(
            board=slot.card,
            pci_address=slot.pci_address,
            minor=minor,
            seed=f"{place}:{slot.pci_address}",
            numa_node=slot.numa_node,
            root_bus=slot.root_bus,
            pci_switch=slot.bridges[1] if len(slot.bridges) > 1 else "",
        )
        for minor, slot in enumerate(wanted.gpus)
    ]
    Machine.create(_machine_path(place), boards, place + paths.DEV, wanted.driver_version)


def _machine_path(place: str) -> str:
    return os.path.join(place, PRIVATE, "machine")
