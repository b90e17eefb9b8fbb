"""The ports of the simulated node: what `host.ports` describes, over its directory and its kernel."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nodeagent.errors import GoneError, HostError, UnsupportedError
from nodeagent.host import paths
from nodeagent.host.clock import RealClock
from nodeagent.host.files import ABSENT, LocalFiles, host_error, host_errors, rooted
from nodeagent.host.link_ports import LinkAddressing, LinkSettings
from nodeagent.host.link_setup import not_restored
from nodeagent.host.netlink import NO_SUCH_INTERFACE
from nodeagent.host.ports import Dcb, Devlink, Functions, RdmaDevices
from nodeagent.host.processes import ProcProcesses
from nodeagent.host.sriov import SysfsFunctions
from nodeagent.simulation.addressing import SimulatedAddressing, renamed
from nodeagent.simulation.attributes import mtu_refusal
from nodeagent.simulation.dcb import SimulatedDcb
from nodeagent.simulation.devlink import SimulatedDevlink
from nodeagent.simulation.driver_statistics import busy_seconds
from nodeagent.simulation.holders import OpenDevice, device_behind, read_node, references
from nodeagent.simulation.kernel_state import FakeProcess, Interface, KernelState, edited
from nodeagent.simulation.link_settings import SimulatedLinkSettings
from nodeagent.simulation.link_setup import setup_of, uses_of, with_setup
from nodeagent.simulation.rdma_devices import SimulatedRdmaDevices
from nodeagent.simulation.reactions import rdma_slots
from nodeagent.simulation.refused import refused
from nodeagent.simulation.roce import ConfigfsView, SimulatedRoce
from nodeagent.simulation.tree_modules import proc_modules, shown_references
from nodeagent.simulation.tree_network import COUNTERS, port_is_active
from nodeagent.simulation.virtual_functions import shown_vf, with_setting
from nodeagent.state.network import VfSetting, VirtualFunction
from nodeagent.state.processes import DeviceNode, DeviceNumber, Process, Service

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel

# Units that the simulated node knows, with the program behind each.
SERVICES = {
    "nvidia-persistenced.service": "/usr/bin/nvidia-persistenced --user nvpd",
    "nvidia-fabricmanager.service": "/usr/bin/nv-fabricmanager -c fabricmanager.cfg",
    "nvidia-dcgm.service": "/usr/bin/nv-hostengine -n --service-account nvidia-dcgm",
}

_REFCOUNT = re.compile(rf"{paths.SYS_MODULE}/([^/]+)/refcnt")
_COUNTER = re.compile(rf"{paths.SYS_CLASS_INFINIBAND}/([^/]+)/ports/1/(?:hw_)?counters/([^/]+)")
# Attributes that answer EINVAL while they have no value; on disk they are empty files.
_MAY_HAVE_NO_VALUE = re.compile(r".*/(carrier|speed|gid_attrs/types/\d+|gid_attrs/ndevs/\d+)")
_OF_THE_KERNEL = (f"{paths.SYS}/", f"{paths.PROC}/")
_WRITE_ONLY = ("/bind", "/unbind", paths.SYS_PCI_DRIVERS_PROBE)
_LISTING_SECONDS = 0.05


class SimulatedFiles(LocalFiles):
    """The node's files. Reference counts and port counters are what they are at the moment of reading."""

    def __init__(self, kernel: SimKernel) -> None:
        super().__init__(kernel.directory)
        self._kernel = kernel
        self._listed: tuple[float, tuple[OpenDevice, ...]] = (-_LISTING_SECONDS, ())
        self._configfs = ConfigfsView()

    def names(self, path: str) -> tuple[str, ...]:
        """As the port says. Listing the modules looks once for open device files, for the counts that are read next."""
        if path == paths.SYS_MODULE:
            self._listed = (time.monotonic(), self._kernel.opened())
        return super().names(path)

    def exists(self, path: str) -> bool:
        return self._configfs.shows(path) if self._configfs.covers(path) else super().exists(path)

    def make_directory(self, path: str) -> None:
        with host_errors("make directory", path):
            if self._configfs.covers(path):
                self._configfs.make(path, self, self._kernel.state)
                return
            if path.startswith(_OF_THE_KERNEL) and not self.exists(path):
                raise refused(errno.EPERM)
        super().make_directory(path)

    def remove_directory(self, path: str) -> None:
        if self._configfs.covers(path):
            self._configfs.remove(path)
            return
        self._check_removal("remove directory", path)
        super().remove_directory(path)

    def remove(self, path: str) -> None:
        self._check_removal("remove", path)
        super().remove(path)

    def replace(self, path: str, text: str, mode: int = 0o600) -> None:
        """As the port says; nobody makes a file where the kernel shows its own."""
        if path.startswith(_OF_THE_KERNEL):
            raise host_error("replace", path, refused(errno.EACCES))
        super().replace(path, text, mode)

    def _check_removal(self, operation: str, path: str) -> None:
        """What is absent is nobody's; sysfs and procfs remove nothing of theirs (vfs_unlink, vfs_rmdir: EPERM)."""
        if path.startswith(_OF_THE_KERNEL) and self.exists(path):
            raise host_error(operation, path, refused(errno.EPERM))

    def write(self, path: str, text: str) -> None:
        """As the port says; files of the kernel are the simulated kernel's to take or refuse."""
        if not path.startswith(_OF_THE_KERNEL):
            super().write(path, text)
            return
        with host_errors("write", path):
            self._check_configfs(path)
            self._kernel.write(path, text)

    def write_bytes(self, path: str, data: bytes, offset: int) -> None:
        """As the port says; a configuration space takes what the function implements, and the rest vanishes."""
        with host_errors("write", path):
            self._kernel.write_config(path, data, offset)

    def _at(self, path: str) -> str:
        """As of LocalFiles; the driver's capabilities are first brought up to date with the instances behind NVML."""
        if path.startswith(paths.PROC_NVIDIA_CAPABILITIES):
            self._kernel.refresh_capabilities()
        return super()._at(path)

    def device_node(self, path: str) -> DeviceNode | None:
        try:
            return read_node(rooted(self.root, path), path)
        except OSError as error:
            if error.errno in ABSENT:
                return None
            raise host_error("look at", path, error) from error

    def make_device_node(self, node: DeviceNode) -> None:
        """A placeholder, which needs no privileges; an open one is never replaced by its equal."""
        with host_errors("make device node", node.path):
            self._kernel.make_node(node)
            self._link_by_number(node)

    def _check_configfs(self, path: str) -> None:
        if self._configfs.covers(path) and not self._configfs.shows(path):
            raise refused(errno.ENOENT)

    def _read(self, path: str) -> str:
        self._check_configfs(path)
        if path.endswith(_WRITE_ONLY):
            raise refused(errno.EACCES)  # to root as well (kernfs_fop_open)
        state = self._kernel.state
        if (module := _REFCOUNT.fullmatch(path)) and module[1] in state.modules:
            return str(shown_references(state, module[1], references(state, self._opened())))
        if path == paths.PROC_MODULES:
            return proc_modules(state, references(state, self._kernel.opened())).removesuffix("\n")
        text = super()._read(path)
        if counter := _COUNTER.fullmatch(path):
            return str(self._counted(state, counter[1], counter[2]))
        if not text and _MAY_HAVE_NO_VALUE.fullmatch(path):
            raise refused(errno.EINVAL)
        return text

    def _opened(self) -> tuple[OpenDevice, ...]:
        at, opened = self._listed
        return opened if time.monotonic() - at < _LISTING_SECONDS else self._kernel.opened()

    def _counted(self, state: KernelState, rdma: str, counter: str) -> int:
        """Traffic of an active port since boot, in waves; nothing is written for it to move."""
        slots = rdma_slots(state, self._kernel.profile)
        number, slot = next((number, slot) for number, slot in enumerate(slots) if slot.rdma == rdma)
        rate = next((rate for name, _, rate in COUNTERS if name == counter), 0)
        busy = busy_seconds(time.time() - state.booted_at, number)
        grown = int(rate * busy) if port_is_active(state, slot) else 0
        return grown + state.port_errors.get(f"{rdma}/{counter}", 0)


class SimulatedLinks(SimulatedRoce):
    """`ports.Links` on the simulated kernel's interfaces."""

    def __init__(self, kernel: SimKernel) -> None:
        super().__init__(kernel, SimulatedFiles(kernel))
        self._kernel = kernel
        self.dcb: Dcb = SimulatedDcb(kernel)
        self.functions: Functions = SysfsFunctions(SimulatedFiles(kernel), RealClock())
        self.devlink: Devlink = SimulatedDevlink(kernel, SimulatedFiles(kernel))
        self.settings: LinkSettings = SimulatedLinkSettings(kernel)
        self.addressing: LinkAddressing = SimulatedAddressing(kernel)
        self.rdma: RdmaDevices = SimulatedRdmaDevices(kernel)

    def uses(self) -> dict[str, tuple[str, ...]]:
        found = ((name, uses_of(interface)) for name, interface in self._kernel.state.interfaces.items())
        return {name: uses for name, uses in found if uses}

    def limits(self) -> dict[str, tuple[int, int]]:
        """(smallest, largest) MTU in bytes of each interface, as IFLA_MIN_MTU and IFLA_MAX_MTU give them."""
        items = self._kernel.state.interfaces.values()
        return {item.name: (item.min_mtu, item.max_mtu or 2**31 - 1) for item in items}

    def vfs(self, netdev: str) -> tuple[VirtualFunction, ...]:
        state = self._kernel.state
        interface = state.interfaces.get(netdev)
        if interface is None:
            raise GoneError("read virtual functions of", netdev, "no such device")
        count = state.vfs.get(interface.pci_address, 0)
        return tuple(shown_vf(state, interface.pci_address, index) for index in range(count))

    def set_vf(self, netdev: str, index: int, setting: VfSetting, value: tuple[int | str, ...]) -> None:
        with host_errors(f"set {setting} of virtual function {index} on", netdev):
            self._kernel.change(lambda state: with_setting(state, netdev, (index, setting), value))

    def setups(self) -> Mapping[str, tuple[tuple[str, str], ...]]:
        found = ((one.name, setup_of(one)) for one in self._kernel.state.interfaces.values())
        return {name: entries for name, entries in found if entries}

    def restore(self, netdev: str, entries: tuple[tuple[str, str], ...]) -> None:
        with host_errors("restore", netdev):
            self._kernel.strike("restore", netdev)
        with host_errors("restore", netdev), self._kernel.transaction() as draft:
            draft.state, refused = with_setup(draft.state, netdev, entries)
        if refused:
            raise not_restored(netdev, refused)

    def await_link(self, netdev: str, _pci_address: str) -> None:
        """It is there at once or never."""
        if netdev not in self._kernel.state.interfaces:
            raise GoneError("wait for", netdev, "not there after its driver")

    def rename(self, netdev: str, name: str) -> None:
        with host_errors(f"rename to {name}", netdev):
            self._kernel.change(lambda state: renamed(state, netdev, name))

    def set_up(self, netdev: str, up: bool) -> None:
        operation = f"set {'up' if up else 'down'}"
        self._interface(operation, netdev)
        with host_errors(operation, netdev):
            self._kernel.set_link(netdev, up=up)

    def set_mtu(self, netdev: str, mtu: int) -> None:
        operation = f"set mtu {mtu} on"
        if words := mtu_refusal(self._interface(operation, netdev), mtu):
            raise UnsupportedError(operation, netdev, words)
        with host_errors(operation, netdev):
            self._kernel.set_link(netdev, mtu=mtu)

    def _interface(self, operation: str, netdev: str) -> Interface:
        found = self._kernel.state.interfaces.get(netdev)
        if found is None:
            raise GoneError(operation, netdev, NO_SUCH_INTERFACE)
        return found


class SimulatedProcesses:
    """`ports.Processes`: real processes that opened a placeholder, found in the real /proc, and the fake ones."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel
        self._real = ProcProcesses(LocalFiles(), lambda path: device_behind(path, kernel.directory))
        self.unreadable: tuple[int, ...] = ()  # other users' processes cannot have a file of this directory open

    def holding(self, majors: Iterable[int]) -> tuple[Process, ...]:
        wanted = frozenset(majors)
        fakes = self._kernel.state.processes.values()
        held = ((fake, tuple(sorted(set(fake.numbers)))) for fake in fakes)
        found = (_process(fake, tuple(number for number in opens if number.major in wanted)) for fake, opens in held)
        return (*self._real.holding(wanted), *(process for process in found if process.opens))

    def describe(self, pids: Sequence[int]) -> tuple[Process, ...]:
        fakes = self._kernel.state.processes
        fake = tuple(_process(fakes[str(pid)], ()) for pid in pids if str(pid) in fakes)
        return (*self._real.describe([pid for pid in pids if pid < KernelState.last_pid]), *fake)


def _process(fake: FakeProcess, opens: tuple[DeviceNumber, ...]) -> Process:
    return Process(fake.pid, fake.name, fake.command, fake.unit, fake.container, fake.pod_uid, opens, fake.pod)


class SimulatedServices:
    """`ports.Services`: the units of `SERVICES`; an active one is a fake process that holds the GPUs open."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def show(self, units: Sequence[str]) -> tuple[Service, ...]:
        running = self._kernel.state.services
        known = (name for name in map(_full_name, units) if name in SERVICES)
        return tuple(Service(name, name in running, (running[name],) if name in running else ()) for name in known)

    def stop(self, unit: str) -> None:
        name = self._known("stop", unit)

        def edit(state: KernelState) -> KernelState:
            pid = str(state.services.get(name, ""))
            return replace(
                state,
                services=edited(state.services, **{name: None}),
                processes=edited(state.processes, **{pid: None}),
            )

        self._kernel.change(edit)

    def start(self, unit: str) -> None:
        """Start the unit. HostError while the driver is not loaded: its daemon would end at once."""
        name = self._known("start", unit)
        command = SERVICES[name]

        def edit(state: KernelState) -> KernelState:
            if name in state.services:
                return state
            if "nvidia" not in state.modules:
                reason = "the unit failed: the nvidia driver is not loaded"
                raise HostError("start", name, reason, "load module nvidia first")
            program = command.split()[0].rpartition("/")[2]
            state, pid = with_pid(state)
            fake = FakeProcess(pid, program, command, unit=name, opens=gpu_numbers(state, self._kernel))
            return replace(
                state,
                services=edited(state.services, **{name: pid}),
                processes=edited(state.processes, **{str(pid): fake}),
            )

        self._kernel.change(edit)

    def _known(self, verb: str, unit: str) -> str:
        name = _full_name(unit)
        if name not in SERVICES:
            raise GoneError(verb, unit, f"unit {name} not found", f"known are {', '.join(SERVICES)}")
        return name


def _full_name(unit: str) -> str:
    return unit if "." in unit else f"{unit}.service"


def with_pid(state: KernelState) -> tuple[KernelState, int]:
    """A PID that no fake process ever had on this node, and the state in which it is given."""
    return replace(state, last_pid=state.last_pid + 1), state.last_pid + 1


def gpu_numbers(state: KernelState, kernel: SimKernel) -> tuple[tuple[int, int], ...]:
    """The control device and every GPU that nvidia drives: what a management daemon keeps open."""
    gpus = enumerate(kernel.profile.gpus)
    driven = (minor for minor, slot in gpus if state.drivers.get(slot.pci_address) == "nvidia")
    return ((195, 255), *((195, minor) for minor in driven))
