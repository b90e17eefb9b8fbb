"""The ports: what the agent may ask of a machine, real or simulated. Every method raises HostError kinds only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from nodeagent.host.link_ports import LinkAddressing, LinkSettings
from nodeagent.host.offering import LocalOffering
from nodeagent.host.slurm_port import Slurm
from nodeagent.state.devlink import Cmode, DevlinkDevice, EswitchMode
from nodeagent.state.gpu import Gpu, GpuSample, Placement
from nodeagent.state.modules import ModuleFile
from nodeagent.state.network import RdmaHolder, VfSetting, VirtualFunction
from nodeagent.state.processes import DeviceNode, DeviceNumber, Process, Service
from nodeagent.state.proofs import Trial, TrialResult
from nodeagent.state.qos import DcbState
from nodeagent.state.topology import NvLinks, PcieSetting
from nodeagent.state.vitals import ClockFacts, DiskFacts


class Files(Protocol):
    """The machine's file tree below a movable root; paths are absolute as the kernel documents them."""

    root: str

    def read(self, path: str) -> str:
        """Text of a file without the trailing newline. GoneError if absent, DeniedError, HostError otherwise."""

    def read_optional(self, path: str) -> str | None:
        """As `read`, None if absent or unreadable by design (EINVAL, EOPNOTSUPP of a sysfs attribute)."""

    def names(self, path: str) -> tuple[str, ...]:
        """Sorted names in a directory; empty if it is absent."""

    def target(self, path: str) -> str | None:
        """Last component of a symbolic link's target (`driver`, `subsystem`), None if it is not a link."""

    def link(self, path: str) -> str | None:
        """The whole target of a symbolic link as it is written, None if it is not a link."""

    def read_bytes(self, path: str, size: int, offset: int = 0) -> bytes:
        """At most `size` bytes from `offset` on, as of a PCI configuration space. Errors as of `read`."""

    def write_bytes(self, path: str, data: bytes, offset: int) -> None:
        """Write at `offset` in one system call, as into a PCI configuration space. Errors as of `write`."""

    def make_directory(self, path: str) -> None:
        """mkdir(2), which in configfs makes an object; nothing happens if it is there. Errors as of `write`."""

    def remove_directory(self, path: str) -> None:
        """rmdir(2); nothing happens if it is absent. Errors as of `write`."""

    def exists(self, path: str) -> bool: ...

    def write(self, path: str, text: str) -> None:
        """Write the whole text in one system call, so that a refusal by the kernel is seen (EBUSY is BusyError ...)."""

    def replace(self, path: str, text: str, mode: int = 0o600) -> None:
        """Durably replace a regular file: temporary file, fsync, rename, fsync of the directory."""

    def remove(self, path: str) -> None:
        """Remove a file or device node; nothing happens if it is absent."""

    def mode(self, path: str) -> int | None:
        """Permission bits of what the path leads to, None if there is nothing."""

    def device_node(self, path: str) -> DeviceNode | None:
        """The character device at this path, None if there is none."""

    def make_device_node(self, node: DeviceNode) -> None:
        """Create or correct the node and its mode and owner."""


class Kmod(Protocol):
    """Kernel modules through libkmod: look-up as modprobe does it, one module per load or unload."""

    def lookup(self, name: str) -> tuple[ModuleFile, ...]:
        """The modules `modprobe NAME` would insert, in order (dependencies, softdeps, the module); empty if unknown.

        The last entry that is not a post-softdep is the module itself. Aliases are resolved. Nothing is loaded.
        """

    def file(self, name: str) -> ModuleFile | None:
        """One module's file with modinfo and configuration, None if modprobe would not find it."""

    def load(self, name: str, options: str = "") -> None:
        """Insert exactly this one module (finit_module, or its install command) with these options.

        BusyError, DeniedError, UnsupportedError, GoneError or HostError with the cause and the kernel log line.
        Loading what is already live is an error.
        """

    def unload(self, name: str) -> None:
        """Remove exactly this one module (delete_module with O_NONBLOCK, or its remove command). BusyError if held."""


@dataclass(frozen=True)
class GpuFault:
    """A GPU that could not be read, and why. `hangs`: the call did not come back, and the GPU is fenced off."""

    uuid: str
    reason: str
    hangs: bool = False


class Nvml(Protocol):
    """NVML behind deadlines. All methods open a session lazily; `release` closes it and lets go of every device."""

    def pid(self) -> int | None:
        """PID of the process that holds an NVML session for us, None while there is none."""

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]:
        """All GPUs that answer, and those that do not. GoneError: no driver loaded. DeadlineError: it hangs."""

    def samples(self) -> tuple[GpuSample, ...]: ...

    def nvlinks(self) -> tuple[NvLinks, ...]:
        """Active NVLinks of every GPU that answers."""

    def faults(self) -> tuple[GpuFault, ...]:
        """The GPUs that could not be read when samples were last taken."""

    def hangs(self) -> int:
        """How often a GPU has been fenced off because a call about it did not come back."""

    def set_mig_mode(self, uuid: str, enabled: bool) -> None:
        """Change the mode now. BusyError if a client holds the GPU, UnsupportedError if only a reboot would do it."""

    def create_gpu_instance(self, uuid: str, profile: str, placement: Placement, compute: tuple[int, ...] = ()) -> None:
        """Create the GPU instance there with compute instances of these widths in slices. BusyError: no room.

        Without `compute` it has one compute instance that fills it; a width of 0 means the same.
        """

    def destroy_gpu_instance(self, uuid: str, placement: Placement) -> None:
        """Destroy the instance at this placement with its compute instances. BusyError when in use, GoneError."""

    def create_compute_instance(self, uuid: str, placement: Placement, width: int, compute: Placement) -> None:
        """Create a compute instance at `compute` (in slices) in the GPU instance at `placement`.

        A `width` of 0 means the one with all multiprocessors. BusyError: no room, GoneError: no such GPU instance.
        """

    def destroy_compute_instance(self, uuid: str, placement: Placement, compute: Placement) -> None:
        """Destroy the compute instance at `compute` in the GPU instance at `placement`. BusyError in use, GoneError."""

    def reset_gpu(self, pci_address: str) -> None:
        """Reset this GPU alone; instances on it go. BusyError while anyone has it, UnsupportedError, HostError."""

    def release(self) -> None: ...

    def close(self) -> None:
        """End the worker."""


class Dcb(Protocol):
    """Quality of service of interfaces. Every write is read back: UnsupportedError where it did not come into force."""

    def read_all(self, netdevs: Iterable[str]) -> Mapping[str, DcbState]:
        """Those of the interfaces that have DCB, by name; one that is gone is left out."""

    def write_dcbx(self, netdev: str, mode: int) -> None:
        """Set the DCB_CAP_DCBX_ bits: 1 the host decides, 8 IEEE; 0 hands control to the firmware."""

    def write_pfc(self, netdev: str, priorities: tuple[int, ...]) -> None:
        """Flow control for exactly these priorities. mlx5 restarts the link."""

    def write_ets(
        self, netdev: str, bandwidth: tuple[int, ...], algorithms: tuple[int, ...], class_of: tuple[int, ...]
    ) -> None:
        """Percent and algorithm by traffic class, and the class of each priority; eight of each."""

    def write_dscp(self, netdev: str, entries: tuple[tuple[int, int], ...]) -> None:
        """Make the DSCP rows of the APP table these (DSCP, priority), sorted. Other rows stay."""

    def write_buffers(self, netdev: str, buffer_of: tuple[int, ...], sizes_bytes: tuple[int, ...]) -> None:
        """Receive buffer of each priority, and bytes of each buffer; mlx5 rounds down to its cells."""

    def write_max_rate(self, netdev: str, kbit: tuple[int, ...]) -> None:
        """Limits by traffic class in kilobits per second, 0 for none."""


class Functions(Protocol):
    """PCI functions: how many virtual ones there are, and who drives them."""

    def set_vf_count(self, address: str, count: int, *, bind: bool = True) -> None:
        """Make this many virtual functions and wait until they are there; from a number other than 0 only to 0.

        Without `bind` they get no driver. BusyError from a number to another, UnsupportedError above the card's limit.
        """

    def set_driver(self, address: str, driver: str) -> None:
        """Give the function to this driver, "" to the one the kernel chooses; also anew to the one it has.

        For vfio-pci: BusyError where another driver has a function of the same IOMMU group, UnsupportedError without.
        """

    def release(self, address: str, driver: str) -> None:
        """Take the function from the driver it has and mark it for `driver`, which does not get it yet."""

    def set_congestion(self, address: str, setting: str, value: int) -> None:
        """Write one setting of RoCE's congestion control (see state.congestion) and read it back.

        UnsupportedError where the driver does not offer it, or refuses the value.
        """

    def set_pcie(self, address: str, setting: PcieSetting, value: int) -> None:
        """Write one setting of a configuration space (see `PcieConfig.value`) and read it back.

        UnsupportedError where it does not come into force, DeniedError under kernel lockdown.
        """


class Devlink(Protocol):
    """devlink of PCI functions. Every write is read back: UnsupportedError where it did not come into force."""

    def read_all(self, addresses: Iterable[str]) -> Mapping[str, DevlinkDevice]:
        """Those of the functions that devlink knows, by address."""

    def set_eswitch_mode(self, address: str, mode: EswitchMode) -> None:
        """Change the mode of the embedded switch. Drivers refuse while virtual functions are there or bound."""

    def set_parameter(self, address: str, name: str, cmode: Cmode, value: str) -> None:
        """Write one parameter; a driverinit value takes force with the next reload only."""

    def reinitialize(self, address: str, values: tuple[tuple[str, str], ...]) -> None:
        """Write these driverinit values and reload the device: its interfaces and virtual functions go, and the former
        come anew. Where it is refused, the values are put back.
        """


class RdmaDevices(Protocol):
    """RDMA devices through RDMA netlink."""

    def rename(self, device: str, name: str) -> None:
        """Give it another name. HostError where the name is taken; programs that have it open keep it."""

    def await_device(self, pci_address: str) -> str:
        """Wait until the function has an RDMA device and udev has named it; its name. GoneError after a minute."""

    def holders(self) -> Mapping[str, tuple[RdmaHolder, ...]]:
        """The programs with objects on each device, by its name; empty without an RDMA stack."""


class Links(Protocol):
    """Network interfaces through rtnetlink; `dcb` is their quality of service, `functions` are what they stand on,
    `settings` are rings, queues, offloads and the like, `addressing` addresses, routes and rules.
    """

    dcb: Dcb
    functions: Functions
    devlink: Devlink
    settings: LinkSettings
    addressing: LinkAddressing
    rdma: RdmaDevices

    def vfs(self, netdev: str) -> tuple[VirtualFunction, ...]:
        """What the driver of this physical function keeps for each of its virtual functions."""

    def set_vf(self, netdev: str, index: int, setting: VfSetting, value: tuple[int | str, ...]) -> None:
        """Write one setting of a virtual function (see `VfSetting`). UnsupportedError where the driver cannot."""

    def uses(self) -> dict[str, tuple[str, ...]]:
        """What stands on each interface: addresses ("address 10.0.0.1/24"), "default route", a bond it is part of."""

    def setups(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        """Bonds, VLANs, addresses and routes of each interface: a text, and what `restore` takes, in that order."""

    def restore(self, netdev: str, entries: tuple[tuple[str, str], ...]) -> None:
        """Bring back what `setups` told of an interface; what is there already stays. HostError after trying all."""

    def await_link(self, netdev: str, pci_address: str) -> None:
        """Wait until an interface is there under its name. GoneError after a minute."""

    def set_up(self, netdev: str, up: bool) -> None: ...

    def set_mtu(self, netdev: str, mtu: int) -> None: ...

    def rename(self, netdev: str, name: str) -> None:
        """Keep all that is on it, also where the kernel wants it down for that. HostError where the name is taken."""

    def set_roce_mode(self, device: str, port: int, mode: str) -> None:
        """Default mode of rdma_cm, in the kernel's spelling. GoneError without rdma_cm, UnsupportedError."""

    def set_roce_tos(self, device: str, port: int, tos: int) -> None:
        """Default type of service of rdma_cm, 0 to 255. GoneError without rdma_cm."""

    def set_traffic_class(self, device: str, port: int, traffic_class: int) -> None:
        """Force a traffic class on every queue pair, 0: none. GoneError where the driver does not offer it."""

    def set_rdma_netns_shared(self, shared: bool) -> None:
        """Share RDMA devices between network namespaces, or not. BusyError while another namespace exists."""


class Processes(Protocol):
    """Processes that have device files open."""

    @property
    def unreadable(self) -> Sequence[int]:
        """PIDs whose open files the last scan was not permitted to see; root sees all."""

    def holding(self, majors: Iterable[int]) -> tuple[Process, ...]:
        """Every process with an open character device of these majors, by device number and not by path."""

    def describe(self, pids: Sequence[int]) -> tuple[Process, ...]:
        """The named processes that still exist, whatever they hold open."""


class Services(Protocol):
    """systemd units around a step."""

    def show(self, units: Sequence[str]) -> tuple[Service, ...]:
        """Those of the units that are known to systemd; empty where systemd does not run."""

    def stop(self, unit: str) -> None: ...

    def start(self, unit: str) -> None: ...


class ContainerRuntimes(Protocol):
    """Container runtimes by name: containerd, crio, docker, podman."""

    def version(self, name: str) -> str:
        """What the runtime says of itself, "" where it is not installed or does not say."""

    def is_active(self, name: str) -> bool:
        """Whether its unit runs; False for podman, which has none."""

    def verify(self, name: str, path: str, text: str) -> None:
        """Have the runtime itself read a configuration, if it can. UnsupportedError with its reason if it refuses."""

    def restart(self, name: str) -> None:
        """Restart its unit and wait until it is active. HostError if it does not come up."""

    def reload(self, name: str) -> None:
        """Have it read its configuration again, by what its unit has for that. HostError if it is not active then."""


class KernelLog(Protocol):
    """The kernel's log."""

    def mark(self) -> int:
        """A position; lines after it are new."""

    def since(self, mark: int) -> tuple[str, ...]:
        """Kernel lines (facility 0) after the position, oldest first; empty where the log cannot be read."""


class Vitals(Protocol):
    """The system clock and the disks."""

    def clock(self) -> ClockFacts:
        """How well the clock is kept. HostError where the kernel does not say."""

    def disk(self, path: str) -> DiskFacts:
        """The file system that holds this path. GoneError, DeniedError."""


class Cuda(Protocol):
    """What can be tried on the node's GPUs, and with the libraries beside the driver."""

    def attempt(self, trial: Trial, deadline_seconds: float) -> TrialResult:
        """What the trial showed. DeadlineError where it hangs, else HostError kinds by what the driver says."""


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def monotonic(self) -> float:
        """Seconds."""

    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Host:
    """One machine: the ports together. What is offered to pods is the agent's own, and the same on every machine."""

    files: Files
    kmod: Kmod
    nvml: Nvml
    links: Links
    processes: Processes
    services: Services
    kernel_log: KernelLog
    clock: Clock
    runtimes: ContainerRuntimes
    vitals: Vitals
    slurm: Slurm
    cuda: Cuda
    offering: LocalOffering = field(default_factory=LocalOffering)


def number(node: DeviceNode) -> DeviceNumber:
    """The identity of a device node."""
    return DeviceNumber(node.major, node.minor)
