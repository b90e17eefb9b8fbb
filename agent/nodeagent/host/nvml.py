"""The NVML port in this process: a session over nvidia-ml-py that opens on demand and lets go of everything on release.

For one-shot commands and inside the NVML worker. A call into a dying GPU can hang for ever and nothing here can stop
it; long-lived callers use `nvml_worker.WorkerNvml`. Not safe for use by several threads at once.

Sources: nvml.h; nvidia-ml-py (which loads `libnvidia-ml.so.1` by its SONAME); MIG User Guide.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pynvml

from nodeagent.errors import GoneError, HostError, UnsupportedError
from nodeagent.host import nvml_compute, nvml_errors, nvml_instances, nvml_links, nvml_read
from nodeagent.host.nvml_errors import reported
from nodeagent.host.nvml_resets import ModeChanges, NvidiaSmi
from nodeagent.host.nvml_samples import Telemetry
from nodeagent.host.ports import GpuFault
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from nodeagent.host.nvml_resets import Resets
    from nodeagent.state.gpu import Gpu, GpuSample, Placement
    from nodeagent.state.topology import NvLinks


class InProcessNvml:
    """`ports.Nvml` over the library loaded into this process.

    `library`: path of a libnvidia-ml.so.1 to use instead of the system's; it is loaded first, so that the loader finds
    its SONAME taken. `environment` is set for the library before it is loaded (the simulator reads its place there).
    `resets` resets a GPU where SetMigMode does not.
    """

    def __init__(
        self,
        library: str | os.PathLike[str] | None = None,
        environment: Mapping[str, str] | None = None,
        resets: Resets | None = None,
    ) -> None:
        self._library = None if library is None else os.fspath(library)
        self._environment = dict(environment or {})
        self._open = False
        self._uuids: dict[int, str] = {}
        self._telemetry = Telemetry()
        self._mode_changes = ModeChanges(resets or NvidiaSmi())
        self._faults: tuple[GpuFault, ...] = ()

    def pid(self) -> int | None:
        return os.getpid() if self._open else None

    def open(self) -> None:
        """Open the session unless it is open. GoneError: no driver or library. UnsupportedError: versions differ."""
        if self._open:
            return
        os.environ.update(self._environment)
        self._load()
        with reported("open", "NVML"):
            pynvml.nvmlInit()
        self._telemetry = Telemetry()  # what an earlier session lent is void
        self._open = True

    def _load(self) -> None:
        if self._library is None:
            return
        try:
            ctypes.CDLL(self._library)
        except OSError as error:
            raise GoneError("load", self._library, str(error), "give the path of a libnvidia-ml.so.1") from error

    def release(self) -> None:
        """Close the session: no device file stays open. Handles of it are void."""
        if not self._open:
            return
        self._open = False
        self._telemetry.close()
        with reported("close", "NVML"):
            pynvml.nvmlShutdown()

    def close(self) -> None:
        self.release()

    # One GPU at a time: what the worker offers, so that a GPU that hangs costs only itself.

    def count(self) -> int:
        """How many GPUs NVML has, those included that no longer answer."""
        self.open()
        with self._session("count", "gpus"):
            return int(pynvml.nvmlDeviceGetCount())

    def identify(self, index: int) -> str:
        """UUID of the GPU that has this index in the current session."""
        with self._session("identify", self._name(index)):
            self._uuids[index] = str(pynvml.nvmlDeviceGetUUID(self._at(index)))
        return self._uuids[index]

    def read(self, index: int) -> Gpu:
        """Everything about one GPU. GoneError when it is lost."""
        self.identify(index)
        with self._session("read", self._name(index)):
            return nvml_read.read_gpu(self._at(index), index)

    def sample(self, index: int) -> GpuSample:
        """Telemetry of one GPU. GoneError when it is lost."""
        with self._session("sample", self._name(index)):
            return self._telemetry.sample(self._at(index), index)

    def nvlink(self, index: int) -> NvLinks:
        """Active NVLinks of one GPU. GoneError when it is lost."""
        with self._session("read nvlinks of", self._name(index)):
            return nvml_links.read_nvlinks(self._at(index))

    # The port.

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]:
        found, faults = self._each(self.read)
        return self._mode_changes.mark(found), faults

    def samples(self) -> tuple[GpuSample, ...]:
        found, self._faults = self._each(self.sample)
        return found

    def faults(self) -> tuple[GpuFault, ...]:
        return self._faults

    def nvlinks(self) -> tuple[NvLinks, ...]:
        return self._each(self.nvlink)[0]

    def hangs(self) -> int:
        return 0  # nothing here can tell

    def set_mig_mode(self, uuid: str, enabled: bool) -> None:
        self._mode_changes.change(self, uuid, enabled, lambda: self.ask_mig_mode(uuid, enabled))

    def ask_mig_mode(self, uuid: str, enabled: bool) -> None:
        """SetMigMode alone; UnsupportedError where the mode is pending then. The worker's part of `set_mig_mode`."""
        operation, subject = f"{'enable' if enabled else 'disable'} MIG on", f"gpu {uuid}"
        self.release()  # a session of ours counts as a client of the GPU
        with self._session(operation, subject):
            status = pynvml.nvmlDeviceSetMigMode(self._by_uuid(uuid), int(enabled))
            if status:
                self._refused(uuid, status, operation, subject)
        self.release()  # the reset makes handles and minors stale
        with self._session(operation, subject):
            current, pending = nvml_read.mig_modes(self._by_uuid(uuid))
        self._confirm(MigMode.ENABLED if enabled else MigMode.DISABLED, (current, pending), operation, subject)

    def reset_gpu(self, pci_address: str) -> None:
        self._mode_changes.reset(self, pci_address)

    def create_gpu_instance(self, uuid: str, profile: str, placement: Placement, compute: tuple[int, ...] = ()) -> None:
        with self._session("open", f"gpu {uuid}"):
            nvml_instances.create(self._by_uuid(uuid), f"gpu {uuid}", (profile, placement), compute)

    def destroy_gpu_instance(self, uuid: str, placement: Placement) -> None:
        with self._session("open", f"gpu {uuid}"):
            nvml_instances.destroy(self._by_uuid(uuid), f"gpu {uuid}", placement)

    def create_compute_instance(self, uuid: str, placement: Placement, width: int, compute: Placement) -> None:
        with self._session("open", f"gpu {uuid}"):
            nvml_compute.create(self._by_uuid(uuid), f"gpu {uuid}", placement, (width, compute))

    def destroy_compute_instance(self, uuid: str, placement: Placement, compute: Placement) -> None:
        with self._session("open", f"gpu {uuid}"):
            nvml_compute.destroy(self._by_uuid(uuid), f"gpu {uuid}", placement, compute)

    @contextmanager
    def _session(self, operation: str, subject: str) -> Iterator[None]:
        """An open session, and its errors as HostError kinds; a session the driver closed is opened anew next time."""
        self.open()
        try:
            yield
        except pynvml.NVMLError as error:
            self._open = self._open and error.value != nvml_errors.UNINITIALIZED
            raise nvml_errors.host_error(error.value, operation, subject) from error

    def _each(self, read: Callable[[int], Any]) -> tuple[tuple[Any, ...], tuple[GpuFault, ...]]:
        values, faults = [], []
        for index in range(self.count()):
            try:
                values.append(read(index))
            except HostError as error:
                faults.append(GpuFault(self._uuids.get(index, f"index {index}"), error.reason))
        return tuple(values), tuple(faults)

    def _name(self, index: int) -> str:
        return f"gpu {self._uuids.get(index, index)}"

    def _at(self, index: int) -> Any:
        return pynvml.nvmlDeviceGetHandleByIndex(index)

    def _by_uuid(self, uuid: str) -> Any:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)

    def _refused(self, uuid: str, status: int, operation: str, subject: str) -> None:
        """SetMigMode accepted the wish, but it is not active: the second of its two results says why."""
        if status != nvml_errors.IN_USE:
            if status in (nvml_errors.RESET_REQUIRED, nvml_errors.NOT_SUPPORTED):
                raise UnsupportedError(
                    operation, subject, "pending: the driver did not reset the gpu", "reboot the node"
                )
            raise nvml_errors.host_error(status, operation, subject)
        handle = self._by_uuid(uuid)
        pids = tuple(pid for pid in nvml_read.processes(handle) if pid != os.getpid())
        self._withdraw(handle)
        raise nvml_instances.in_use(operation, subject, pids)

    def _withdraw(self, handle: Any) -> None:
        """A refused change must not stay pending: the next reset, perhaps weeks later, would carry it out."""
        with suppress(pynvml.NVMLError):
            pynvml.nvmlDeviceSetMigMode(handle, pynvml.nvmlDeviceGetMigMode(handle)[0])

    def _confirm(self, wanted: MigMode, modes: tuple[MigMode, MigMode], operation: str, subject: str) -> None:
        current, pending = modes
        if current is wanted:
            return
        if pending is wanted:
            raise UnsupportedError(operation, subject, "still pending after the change", "reboot the node")
        raise HostError(operation, subject, f"NVML reported success, but MIG is {current.value}")
