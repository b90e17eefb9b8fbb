"""The controller of a simulated GPU machine: makes its description file, runs workloads on it and breaks it on demand.

The file is what `libnvidia-ml.so.1` of this package implements NVML over; every process that has NVMLSIM_MACHINE set
to its path sees the same GPUs, and changes made here at once. Layout and rules: native/nvml/machine.h.
"""

from __future__ import annotations

import ctypes
import os
import uuid as uuids
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Self

from nodeagent.errors import GoneError
from nodeagent.simulation.boards import board_named
from nodeagent.simulation.cuda_version import cuda_of
from nodeagent.simulation.machine_library import library_error, library_path, load_library
from nodeagent.state.gpu import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from nodeagent.simulation.board import Board, GpuInstanceProfile

MACHINE_VARIABLE = "NVMLSIM_MACHINE"
XID_EVENT = 0x8  # nvmlEventTypeXidCriticalError
_MACHINE = -1  # the place of values that belong to no GPU, and of faults that meet calls on any
_FOR_EVER = 0xFFFFFFFF
_NO_INSTANCE = 0xFFFFFFFF
_TEXT = 96
_UNKNOWN = 2**64 - 1
_CPUS_PER_NODE = 16
_UUIDS = uuids.UUID("6e766d6c-0000-5000-8000-000000000000")


@dataclass(frozen=True)
class BoardAt:
    """A board (see `boards.board_named`) in a slot; the UUID follows from `seed` and the PCI address.

    GPUs below one `root_bus`, or one `pci_switch`, have it in common; "" is a bus of its own, NUMA node -1 is unknown.
    """

    board: str
    pci_address: str
    minor: int
    seed: str = ""
    numa_node: int = -1
    root_bus: str = ""
    pci_switch: str = ""

    @property
    def uuid(self) -> str:
        return f"GPU-{uuids.uuid5(_UUIDS, f'{self.seed}/{self.pci_address}')}"


@dataclass(frozen=True)
class SimulatedGpu:
    """A GPU of the machine, as NVML will name it."""

    uuid: str
    pci_address: str
    minor: int
    product: str


@dataclass(frozen=True)
class MigRow:
    """A compute instance with its GPU instance; for a GPU instance that has none, the last four are None and "".

    `placement` is in memory slices, `ci_placement` in compute slices of the instance.
    """

    profile: str
    profile_id: int
    gi_id: int
    placement: Placement
    ci_id: int | None
    ci_placement: Placement | None
    mig_index: int | None
    uuid: str


@dataclass(frozen=True)
class MigLayout:
    """MIG mode and instances of one GPU as they stand in the machine, ordered by GPU instance id."""

    enabled: bool
    pending: bool
    rows: tuple[MigRow, ...]


class ResetRoute(IntEnum):
    """What resets a GPU (machine.h, enum reset_route).

    DRIVER: SetMigMode does it. TOLD: only `nvidia-smi --gpu-reset` does. REBOOT: nothing else, as in a virtual machine
    with the GPU passed through. In the last two SetMigMode answers RESET_REQUIRED and the mode is pending.
    """

    DRIVER = 0
    TOLD = 1
    REBOOT = 2


class Machine:
    """A simulated machine; use `create` or `open`. GoneError: it has no such GPU or instance."""

    def __init__(self, library: ctypes.CDLL, handle: int, path: str) -> None:
        self._library, self._handle, self.path = library, handle, path

    @classmethod
    def create(cls, path: str, boards: Sequence[BoardAt], device_directory: str, driver_version: str) -> Self:
        """A new machine with the driver loaded, replacing what is at `path` in one step.

        NVML opens `device_directory`/nvidiactl and nvidia<minor> where these files exist. The order of the GPUs is that
        of their PCI addresses, as NVML has it. GoneError for an unknown board, HostError if the file cannot be made.
        """
        library, temporary = load_library(), f"{path}.{os.getpid()}.new"
        if library.nvmlsim_create(os.fsencode(temporary)):
            raise library_error("create", temporary)
        try:
            machine = cls._open(library, temporary)
            machine.describe(boards, device_directory, driver_version)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        machine.path = path
        return machine

    def describe(self, boards: Sequence[BoardAt], device_directory: str, driver_version: str) -> None:
        """Fill a machine that is still empty."""
        self._set_text(_MACHINE, "driver_version", driver_version)
        cuda = cuda_of(driver_version)
        self._set_text(_MACHINE, "nvml_version", f"{cuda[0]}.{driver_version}")
        self._set_text(_MACHINE, "device_directory", device_directory)
        self._set_number(_MACHINE, "cuda_version", cuda[0] * 1000 + cuda[1] * 10)
        nodes = max((at.numa_node for at in boards), default=-1) + 1
        self._set_number(_MACHINE, "numa_nodes", nodes)
        self._set_number(_MACHINE, "cpus", nodes * _CPUS_PER_NODE)
        for board_at in sorted(boards, key=lambda at: at.pci_address):
            self._add(board_at)

    @classmethod
    def open(cls, path: str) -> Self:
        """The machine at `path`. GoneError if there is none, HostError if it is of another version of the library."""
        return cls._open(load_library(), path)

    @classmethod
    def _open(cls, library: ctypes.CDLL, path: str) -> Self:
        handle = library.nvmlsim_open(os.fsencode(path))
        if not handle:
            advice = "no machine of this version: remove the simulated node's directory or give another"
            raise library_error("open", path, advice)
        return cls(library, handle, path)

    def close(self) -> None:
        """Unmap the file; the machine itself goes on."""
        if self._handle:
            self._library.nvmlsim_close(self._handle)
        self._handle = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to see this machine through NVML."""
        return {MACHINE_VARIABLE: self.path, "LD_LIBRARY_PATH": str(library_path().parent)}

    @property
    def gpus(self) -> tuple[SimulatedGpu, ...]:
        """The GPUs in NVML's order."""
        return tuple(self._gpu(index) for index in range(self._number(_MACHINE, "gpus")))

    @property
    def changes(self) -> int:
        """Grows with every event, and so with every change of an instance by any process."""
        return self._number(_MACHINE, "events")

    @property
    def driver_loaded(self) -> bool:
        return bool(self._number(_MACHINE, "driver_loaded"))

    def set_driver_loaded(self, loaded: bool) -> None:
        """Unloading ends all processes and drops all instances; MIG mode stays on boards that keep it, else is off."""
        self._library.nvmlsim_set_driver_loaded(self._handle, int(loaded))

    def set_unprivileged(self, unprivileged: bool) -> None:
        """Whether calls that need root are refused with NO_PERMISSION."""
        self._set_number(_MACHINE, "unprivileged", int(unprivileged))

    def start_process(self, uuid: str, pid: int, name: str, memory_bytes: int, mig_uuid: str | None = None) -> None:
        """A compute process on a GPU or MIG device; BusyError when memory is short.

        If `pid` is a live process of this PID namespace, the entry goes when that process dies.
        """
        mig = None if mig_uuid is None else mig_uuid.encode()
        at = self._index(uuid)
        if self._library.nvmlsim_start_process(self._handle, at, pid, name.encode(), memory_bytes, mig):
            advice = "`nodeagent mig show` names the MIG devices" if mig_uuid else ""
            raise library_error("start process", f"{name} on {mig_uuid or uuid}", advice)

    def end_process(self, pid: int) -> None:
        """The process is gone from every GPU; nothing happens if it was on none."""
        self._library.nvmlsim_end_process(self._handle, pid)

    def set_load(self, uuid: str, percent: int) -> None:
        """Load from 0 to 100; utilisation, temperature, power and energy follow it from now on."""
        self._check(self._library.nvmlsim_set_load(self._handle, self._index(uuid), percent), "set load", uuid)

    def set_counter(self, uuid: str, counter: str, value: int) -> None:
        """Set one of the numbers of a GPU that native/nvml/values.c lists.

        Errors: ecc_corrected, ecc_uncorrected, sram_corrected, sram_uncorrected (each also with _aggregate),
        remapped_correctable, remapped_uncorrectable, remap_pending, remap_failed, pcie_replays, pcie_errors.
        Lanes in use, 0 for all: pcie_width_now.
        Clocks: event_reasons (bits of nvml.h), sync_boost_ns, sw_thermal_ns, hw_thermal_ns, power_brake_ns,
        board_limit_ns, low_utilization_ns, reliability_ns. Links: nvlinks_down (a bit each), fabric_state,
        fabric_status, fabric_clique, fabric_health_mask, fabric_health.
        """
        self._set_number(self._index(uuid), counter, value)

    def reset(self, uuid: str) -> None:
        """What `nvidia-smi --gpu-reset` does; BusyError while it is held, UnsupportedError if only a reboot does."""
        self._check(self._library.nvmlsim_reset(self._handle, self._index(uuid)), "reset", uuid)

    def resets(self, uuid: str) -> int:
        """How often this GPU has been reset; reloads of the driver and reboots do not count."""
        return self._number(self._index(uuid), "resets")

    def set_reset_route(self, uuid: str, route: ResetRoute) -> None:
        """What can reset the GPU from now on, and with that what SetMigMode answers on boards that need a reset."""
        self._set_number(self._index(uuid), "reset_route", route)

    def reboot(self) -> None:
        """The machine starts anew, without a driver; a pending MIG mode is in force then. Its settings stay."""
        self._library.nvmlsim_reboot(self._handle)

    def fail(self, uuid: str | None, function: str, code: int, count: int | None = None) -> None:
        """Let the next `count` calls (None: all until cleared) of an NVML function return `code`.

        `function` is a name with or without version, or "*"; `uuid` None means whatever GPU, or none, the call is for.
        """
        self._fault(uuid, function, code, _FOR_EVER if count is None else count, 0)

    def hang(self, uuid: str | None, function: str, seconds: float) -> None:
        """Let every call of an NVML function sleep this long before it does its work."""
        self._fault(uuid, function, 0, _FOR_EVER, round(seconds * 1000))

    def lose(self, uuid: str, lost: bool = True) -> None:
        """Let a GPU fall off the bus (XID 79): every call on it, look-ups too, returns GPU_IS_LOST."""
        self._check(self._library.nvmlsim_lose(self._handle, self._index(uuid), int(lost)), "lose", uuid)

    def set_held(self, uuid: str, count: int) -> None:
        """How many of the kernel and its daemons hold the GPU: while any does, it cannot be reset."""
        self._set_number(self._index(uuid), "held", count)

    def xid(self, uuid: str, code: int, mig_uuid: str | None = None) -> None:
        """Send an XID event to whoever registered for them; it names the instance of a MIG device if one is given."""
        self.send_event(uuid, XID_EVENT, code, mig_uuid)

    def send_event(self, uuid: str, kind: int, data: int, mig_uuid: str | None = None) -> None:
        """Send an event of nvmlEventType* to whoever registered for it. GoneError for an unknown MIG device."""
        mig = None if mig_uuid is None else mig_uuid.encode()
        self._check(self._library.nvmlsim_event(self._handle, self._index(uuid), kind, data, mig), "send event", uuid)

    def add_ecc_errors(self, uuid: str, count: int, *, corrected: bool = False, sram: bool = False) -> None:
        """Count memory errors, since the driver was loaded and for good, and send their event."""
        at = self._index(uuid)
        result = self._library.nvmlsim_ecc(self._handle, at, int(sram), int(corrected), count)
        self._check(result, "add memory errors", uuid)

    def set_recovery_action(self, uuid: str, action: int) -> None:
        """What must be done to heal the GPU, NVML_GPU_RECOVERY_ACTION_*, with its event; a reset clears it."""
        self._check(
            self._library.nvmlsim_recovery(self._handle, self._index(uuid), action), "set recovery action", uuid
        )

    def set_link_errors(self, uuid: str, link: int, counter: int, value: int) -> None:
        """Set an error counter of one NVLink, NVML_NVLINK_ERROR_DL_*."""
        at = self._index(uuid)
        self._check(self._library.nvmlsim_link_errors(self._handle, at, link, counter, value), "set link errors", uuid)

    def clear_faults(self) -> None:
        """End all `fail` and `hang`; lost GPUs stay lost. Calls that hang already finish their sleep."""
        self._library.nvmlsim_clear_faults(self._handle)

    def mig_layout(self, uuid: str) -> MigLayout:
        at = self._index(uuid)
        rows: list[MigRow] = []
        while (row := self._mig_row(at, len(rows))) is not None:
            rows.append(row)
        return MigLayout(bool(self._number(at, "mig_current")), bool(self._number(at, "mig_pending")), tuple(rows))

    def _mig_row(self, at: int, position: int) -> MigRow | None:
        row = (ctypes.c_uint32 * 9)()
        profile, uuid = ctypes.create_string_buffer(_TEXT), ctypes.create_string_buffer(_TEXT)
        if self._library.nvmlsim_mig_row(self._handle, at, position, row, profile, uuid, _TEXT):
            return None
        empty = row[4] == _NO_INSTANCE
        return MigRow(
            profile=profile.value.decode().removeprefix("MIG "),
            profile_id=row[1],
            gi_id=row[0],
            placement=Placement(row[2], row[3]),
            ci_id=None if empty else row[4],
            ci_placement=None if empty else Placement(row[6], row[7]),
            mig_index=None if empty else row[8],
            uuid=uuid.value.decode(),
        )

    def _gpu(self, at: int) -> SimulatedGpu:
        return SimulatedGpu(
            uuid=self._text(at, "uuid"),
            pci_address=self._text(at, "pci_address"),
            minor=self._number(at, "minor"),
            product=self._text(at, "name"),
        )

    def _index(self, uuid: str) -> int:
        known = [gpu.uuid for gpu in self.gpus]
        if uuid not in known:
            raise GoneError("find", f"GPU {uuid}", f"the machine has {', '.join(known) or 'no GPUs'}")
        return known.index(uuid)

    def _add(self, board_at: BoardAt) -> None:
        board = board_named(board_at.board)
        at = self._library.nvmlsim_add_gpu(self._handle)
        if at < 0:
            raise library_error("add", f"GPU {board_at.pci_address}", "a machine has room for 16")
        self._set_board(at, board)
        self._set_text(at, "uuid", board_at.uuid)
        self._set_text(at, "serial", f"156{uuids.UUID(board_at.uuid[4:]).int % 10**10:010d}")
        self._set_text(at, "pci_address", board_at.pci_address)
        self._set_number(at, "minor", board_at.minor)
        self._set_number(at, "numa_node", board_at.numa_node & _UNKNOWN)
        self._set_text(at, "root_bus", board_at.root_bus)
        self._set_text(at, "pci_switch", board_at.pci_switch)
        for profile in board.profiles:
            self._add_profile(at, profile)
        self._library.nvmlsim_finish_gpu(self._handle, at)

    def _set_board(self, at: int, board: Board) -> None:
        self._set_number(at, "power_default_mw", board.power_default_mw)
        self._set_text(at, "inforom_image", board.inforom_image)
        for field in fields(board):
            value = getattr(board, field.name)
            if isinstance(value, str):
                self._set_text(at, field.name, value)
            elif isinstance(value, int):
                self._set_number(at, field.name, value)

    def _add_profile(self, at: int, profile: GpuInstanceProfile) -> None:
        count = len(profile.shape.starts)
        places = ctypes.c_uint32 * count
        numbers = (ctypes.c_uint64 * len(profile.numbers))(*profile.numbers)
        starts, preference = places(*profile.shape.starts), places(*profile.shape.preference)
        name = profile.name.encode()
        result = self._library.nvmlsim_add_profile(self._handle, at, name, numbers, starts, preference, count)
        self._check(result, "add profile", profile.name)

    def _fault(self, uuid: str | None, function: str, code: int, count: int, hang_ms: int) -> None:
        at = _MACHINE if uuid is None else self._index(uuid)
        result = self._library.nvmlsim_fault(self._handle, at, function.encode(), code, count, hang_ms)
        self._check(result, "add fault", function)

    def _number(self, at: int, name: str) -> int:
        value = ctypes.c_uint64()
        self._check(self._library.nvmlsim_get_number(self._handle, at, name.encode(), value), "read", name)
        return value.value

    def _text(self, at: int, name: str) -> str:
        value: bytes | None = self._library.nvmlsim_get_text(self._handle, at, name.encode())
        if value is None:
            raise library_error("read", name)
        return value.decode()

    def _set_number(self, at: int, name: str, value: int) -> None:
        self._check(self._library.nvmlsim_set_number(self._handle, at, name.encode(), value), "set", name)

    def _set_text(self, at: int, name: str, value: str) -> None:
        self._check(self._library.nvmlsim_set_text(self._handle, at, name.encode(), value.encode()), "set", name)

    def _check(self, result: int, operation: str, subject: str) -> None:
        if result:
            raise library_error(operation, subject)
