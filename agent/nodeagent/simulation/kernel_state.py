"""The simulated kernel's memory as immutable values, and the one JSON file that keeps it.

Every change is a new `KernelState` that replaces the file by rename under a lock, so that a reader or a kill at any
moment meets either the old state or the new one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nodeagent.errors import HostError
from nodeagent.state.modules import Liveness
from nodeagent.state.processes import DeviceNumber

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FORMAT = 3
"""Version of the state file and of the tree rendered from it; another version is never adopted."""

_LOG_LINES = 1000


@dataclass(frozen=True)
class LoadedModule:
    """A module in the simulated kernel.

    `uses` are modules whose symbols it holds, `gets` those it took by symbol_get, `pinned` references no scan sees.
    `serial` grows with every load: it stands in for the load address and orders /proc/modules.
    """

    name: str
    serial: int
    liveness: Liveness = Liveness.LIVE
    uses: tuple[str, ...] = ()
    gets: tuple[str, ...] = ()
    exports: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    version: str = ""
    srcversion: str = ""
    license: str = ""
    taint: str = ""
    pinned: int = 0


@dataclass(frozen=True)
class Region:
    """Registered character device numbers and the module that an open file of them holds; major 10 is misc."""

    name: str
    module: str
    major: int
    first: int = 0
    count: int = 256

    def covers(self, number: DeviceNumber) -> bool:
        return self.major == number.major and self.first <= number.minor < self.first + self.count


@dataclass(frozen=True)
class Interface:
    """A network interface; `addresses` are texts such as 10.0.0.1/24, `routes` such as 10.9.0.0/16 via 10.0.0.254.

    From `dcbx` on it is what mlx5 starts with: firmware decides, nothing is paused, every class by the vendor's rule.
    """

    name: str
    driver: str
    pci_address: str = ""
    mac: str = ""
    mtu: int = 1500
    min_mtu: int = 68
    max_mtu: int = 9978
    up: bool = False
    carrier: bool = True
    addresses: tuple[str, ...] = ()
    default_route: bool = False
    routes: tuple[str, ...] = ()
    is_vf: bool = False
    dcbx: int = 0x0C
    pfc: tuple[int, ...] = ()
    bandwidth: tuple[int, ...] = (0,) * 8
    algorithms: tuple[int, ...] = (255,) * 8
    class_of: tuple[int, ...] = (1, 0, 2, 3, 4, 5, 6, 7)
    dscp: tuple[tuple[int, int], ...] = ()
    max_rate: tuple[int, ...] = (0,) * 8
    buffer_of: tuple[int, ...] = (0,) * 8
    buffer_bytes: tuple[int, ...] = (262_016, *(0,) * 7)
    settings: Mapping[str, int] = field(default_factory=dict)  # "rings.rx" and the like that somebody set
    gateway: str = ""  # of the default route
    default_ours: bool = False  # whether the agent made the default route
    neighbours: tuple[str, ...] = ()  # permanent ones, such as 10.0.0.9 at 02:00:00:00:00:09
    carrier_up_to_mtu: int = 0  # with a larger one the link is lost; 0: never


@dataclass(frozen=True)
class FakeProcess:
    """A process that exists only in the simulation: what it holds, and where it runs."""

    pid: int
    name: str
    command: str
    unit: str = ""
    container: str = ""
    pod_uid: str = ""
    opens: tuple[tuple[int, int], ...] = ()
    gpu_uuid: str = ""
    mig_uuid: str = ""
    memory_bytes: int = 0
    memory_regions: int = 0
    pod: str = ""

    @property
    def numbers(self) -> tuple[DeviceNumber, ...]:
        return tuple(DeviceNumber(major, minor) for major, minor in self.opens)


@dataclass(frozen=True)
class Fault:
    """The next `count` calls of `operation` on `module` fail with `errno` and log `lines`.

    insert and remove take a module's name, write the path of a file of the kernel, devlink a PCI address.
    """

    operation: str
    module: str
    errno: int
    count: int = 1
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What the kernel permits, by command line and sysctl; `command_line` as in /proc/cmdline."""

    command_line: str = ""
    lockdown: str = "none"
    signature_enforced: bool = False
    modules_disabled: bool = False

    @property
    def blacklist(self) -> tuple[str, ...]:
        prefix = "module_blacklist="
        words = [word.removeprefix(prefix) for word in self.command_line.split() if word.startswith(prefix)]
        return tuple(name.replace("-", "_") for word in words for name in word.split(","))


@dataclass(frozen=True)
class LogLine:
    """One record of the kernel log: level as in syslog(2), microseconds since boot."""

    sequence: int
    microseconds: int
    level: int
    text: str


@dataclass(frozen=True)
class SubFunction:
    """A part of the function at this address with the administrator's number (sfnum) and its interface."""

    parent: str
    number: int
    netdev: str


@dataclass(frozen=True)
class KernelState:
    """The whole simulated kernel. `generation` counts changes, `drivers` maps PCI address to bound driver."""

    profile: str
    boot_id: str
    booted_at: float
    format: int = FORMAT
    generation: int = 1
    policy: Policy = field(default_factory=Policy)
    modules: Mapping[str, LoadedModule] = field(default_factory=dict)
    regions: tuple[Region, ...] = ()
    majors_given: int = 0
    drivers: Mapping[str, str] = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    vfs: Mapping[str, int] = field(default_factory=dict)
    vf_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by address of the virtual function
    congestion: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # written settings by PCI address
    pci_words: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # written registers by address and offset
    companions: tuple[str, ...] = ()  # addresses of sound and USB functions beside GPUs
    no_vf_probe: tuple[str, ...] = ()  # physical functions with sriov_drivers_autoprobe 0
    acpi_indexes: Mapping[str, int] = field(default_factory=dict)  # of onboard devices by PCI address
    parts: Mapping[str, SubFunction] = field(default_factory=dict)  # by name of the auxiliary device
    vdpa: Mapping[str, tuple[str, str]] = field(default_factory=dict)  # PCI address and driver, by name
    accelerators: Mapping[str, str] = field(default_factory=dict)  # driver by PCI address
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    processes: Mapping[str, FakeProcess] = field(default_factory=dict)
    last_pid: int = 4_200_000  # above the kernel's PID_MAX_LIMIT of 2^22, so that no real process can have such a PID
    services: Mapping[str, int] = field(default_factory=dict)  # units that run, with their PID
    faults: tuple[Fault, ...] = ()
    unbind_locks: tuple[str, ...] = ()
    markings: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)  # RoCE mode, ToS, class by RDMA device
    rdma_names: Mapping[str, str] = field(default_factory=dict)  # by PCI address where a device was renamed
    eswitch: Mapping[str, str] = field(default_factory=dict)  # mode by PCI address where it is not legacy
    devlink: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # parameters that were written, by address
    rules: tuple[str, ...] = ()  # routing rules by source
    other_namespaces: int = 0  # network namespaces besides the first
    firmware_path: str = ""
    pci_widths: Mapping[str, int] = field(default_factory=dict)  # lanes in use, where fewer than the card has
    partition_keys: Mapping[str, int] = field(default_factory=dict)  # at index 0 by RDMA device, where not the default
    port_rates: Mapping[str, int] = field(default_factory=dict)  # megabits per second, where not the card's own
    port_errors: Mapping[str, int] = field(default_factory=dict)  # by "mlx5_0/symbol_error", on top of the usual
    lost_gids: tuple[str, ...] = ()  # RDMA devices whose GIDs of addresses are gone
    clock_synchronized: bool = True
    clock_offset_seconds: float = 0.0
    disks_free: Mapping[str, float] = field(default_factory=dict)  # free part, by path
    log: tuple[LogLine, ...] = ()
    next_serial: int = 1

    def with_log(self, lines: tuple[tuple[int, str], ...], microseconds: int) -> KernelState:
        """The same state after printing (level, text) lines; the oldest fall out as from the kernel's ring buffer."""
        first = self.log[-1].sequence + 1 if self.log else 0
        fresh = tuple(LogLine(first + step, microseconds, level, text) for step, (level, text) in enumerate(lines))
        return replace(self, log=(*self.log, *fresh)[-_LOG_LINES:])

    def region_of(self, number: DeviceNumber) -> Region | None:
        return next((region for region in self.regions if region.covers(number)), None)

    def holders(self, name: str) -> tuple[str, ...]:
        """Modules that use a symbol of this one."""
        return tuple(sorted(module.name for module in self.modules.values() if name in module.uses))

    def references(self, name: str, opened: Mapping[str, int]) -> int:
        """Reference count; `opened` counts open files of real processes by the module that they hold."""
        module = self.modules[name]
        taken = sum(1 for other in self.modules.values() if other.name != name and name in other.gets)
        held = sum(1 for fake in self.processes.values() for number in fake.numbers if self._holds(number, name))
        regions = sum(fake.memory_regions for fake in self.processes.values()) if name == self._peer_client() else 0
        return len(self.holders(name)) + module.pinned + taken + held + regions + opened.get(name, 0)

    def _holds(self, number: DeviceNumber, name: str) -> bool:
        region = self.region_of(number)
        return region is not None and region.module == name

    def _peer_client(self) -> str:
        return "nv_peer_mem" if "nv_peer_mem" in self.modules else "nvidia_peermem"


def edited(mapping: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy with changes; the value None removes the key."""
    merged = {**mapping, **changes}
    return {key: value for key, value in merged.items() if value is not None}


def encode(state: KernelState) -> str:
    return json.dumps(state, default=vars, separators=(",", ":"))


def decode(text: str) -> KernelState:
    """The state from its JSON text. ValueError, KeyError or TypeError where it is not one of ours."""
    raw: dict[str, Any] = _frozen(json.loads(text))
    raw["policy"] = Policy(**raw["policy"])
    raw["modules"] = {name: _module(item) for name, item in raw["modules"].items()}
    raw["regions"] = tuple(Region(**item) for item in raw["regions"])
    raw["interfaces"] = {name: Interface(**item) for name, item in raw["interfaces"].items()}
    raw["processes"] = {name: FakeProcess(**item) for name, item in raw["processes"].items()}
    raw["parts"] = {name: SubFunction(**item) for name, item in raw.get("parts", {}).items()}
    raw["faults"] = tuple(Fault(**item) for item in raw["faults"])
    raw["log"] = tuple(LogLine(**item) for item in raw["log"])
    return KernelState(**raw)


def _module(item: dict[str, Any]) -> LoadedModule:
    return LoadedModule(**{**item, "liveness": Liveness(item["liveness"])})


def _frozen(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, dict):
        return {key: _frozen(item) for key, item in value.items()}
    return value


class StateFile:
    """The state file of one node directory; `locked` serialises all processes that change it."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "kernel.json")
        self._lock_path = os.path.join(directory, "lock")
        self._seen: tuple[tuple[int, int, int], KernelState] | None = None

    def exists(self) -> bool:
        return os.path.exists(self._path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the node's lock; the kernel drops it when the holder dies."""
        descriptor = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def read(self) -> KernelState:
        """The state as it is now. HostError where the file is gone or was written by another version."""
        try:
            if self._seen is None or self._seen[0] != _mark(os.stat(self._path)):
                with open(self._path, encoding="utf-8") as file:
                    self._seen = (_mark(os.fstat(file.fileno())), self._decode(file.read()))
        except OSError as error:
            raise HostError("read simulated node", self._path, error.strerror or str(error)) from error
        return self._seen[1]

    def _decode(self, text: str) -> KernelState:
        advice = "remove the directory to start over"
        try:
            found = json.loads(text).get("format")
            if found != FORMAT:
                reason = f"made by format {found} of the simulation, this is format {FORMAT}"
                raise HostError("open simulated node", self._path, reason, advice)
            return decode(text)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise HostError("open simulated node", self._path, "not a state of the simulated kernel", advice) from error

    def write(self, state: KernelState) -> None:
        """Replace the file in one rename, under the lock.

        No fsync: a kill loses nothing, and a power cut ends a simulation anyway.
        """
        temporary = f"{self._path}.new"
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(encode(state))
        os.rename(temporary, self._path)


def _mark(status: os.stat_result) -> tuple[int, int, int]:
    """What changes when the file is replaced."""
    return status.st_ino, status.st_mtime_ns, status.st_size
