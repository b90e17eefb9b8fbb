"""The NVML port over a worker process: every call has a deadline, and a GPU that hangs costs only itself.

A call into a dying GPU can block in the kernel for ever, and no thread can be cancelled there. So NVML lives in a
process of its own. A worker that misses its deadline is killed and replaced, the GPU it was reading is fenced off for a
growing time, and the others are read by the next worker. A worker that even SIGKILL does not end (it sits in the
kernel) stays behind; with two of those no further one is started.

Releasing ends the process: that surely lets go of every device file, and the next worker loads the library that
belongs to a driver which may have been replaced in between. `python -m nodeagent.host.nvml_worker` is the worker.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nodeagent.errors import DeadlineError, HostError
from nodeagent.host import nvml_serve
from nodeagent.host.nvml_fences import Fences
from nodeagent.host.nvml_process import Launch, Worker, WorkerLostError
from nodeagent.host.nvml_resets import ModeChanges, NvidiaSmi
from nodeagent.host.ports import GpuFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from nodeagent.host.nvml_resets import Resets
    from nodeagent.state.gpu import Gpu, GpuSample, Placement
    from nodeagent.state.topology import NvLinks

_STUCK_MAX = 2
_START_SECONDS = 10.0  # at least: NVML's start attaches all GPUs, 2 s and more without persistence
_CHANGE_SECONDS = 120.0  # at least: a MIG mode change resets the GPU, 4 s when well
_FENCE_DEADLINES = 3  # a fence first stands for so many deadlines: a hanging GPU takes at most a third of the time


class WorkerNvml:
    """`ports.Nvml` over a worker process that is started when first needed; may be called from several threads.

    `launch` says how a worker is started, and with which libnvidia-ml.so.1. `deadline_seconds` is for one call that
    reads; starting and changing take longer and have more. `resets` resets a GPU where SetMigMode does not; that runs
    in this process, as the worker has let go then. `monotonic` replaces the clock in tests.
    """

    def __init__(
        self,
        launch: Callable[[], Worker] | None = None,
        deadline_seconds: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
        resets: Resets | None = None,
    ) -> None:
        self._launch = launch or Launch()
        self._deadline = deadline_seconds
        self._lock = threading.RLock()
        self._worker: Worker | None = None
        self._in_session = False
        self._identified: dict[int, str] = {}
        self._named: set[int] = set()  # indices identified in the present session
        self._ahead: deque[int] = deque()  # GPUs that the worker was asked about, and has yet to answer for
        self._stuck: list[Worker] = []
        self._mode_changes = ModeChanges(resets or NvidiaSmi())
        self._faults: tuple[GpuFault, ...] = ()
        self._fences = Fences(deadline_seconds * _FENCE_DEADLINES, monotonic)

    def pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker is not None and self._in_session else None

    def gpus(self) -> tuple[tuple[Gpu, ...], tuple[GpuFault, ...]]:
        found, faults = self._each("read")
        return self._mode_changes.mark(found), faults

    def samples(self) -> tuple[GpuSample, ...]:
        found, self._faults = self._each("sample")
        return found

    def faults(self) -> tuple[GpuFault, ...]:
        return self._faults

    def nvlinks(self) -> tuple[NvLinks, ...]:
        return self._each("nvlink")[0]

    def hangs(self) -> int:
        return self._fences.total

    def set_mig_mode(self, uuid: str, enabled: bool) -> None:
        operation = f"{'enable' if enabled else 'disable'} MIG on"
        with self._lock:
            self._mode_changes.change(
                self, uuid, enabled, lambda: self._change(operation, "ask_mig_mode", uuid, enabled)
            )

    def reset_gpu(self, pci_address: str) -> None:
        with self._lock:
            self._mode_changes.reset(self, pci_address)

    def create_gpu_instance(self, uuid: str, profile: str, placement: Placement, compute: tuple[int, ...] = ()) -> None:
        self._change(f"create instance {profile} on", "create_gpu_instance", uuid, profile, placement, compute)

    def destroy_gpu_instance(self, uuid: str, placement: Placement) -> None:
        self._change("destroy instance on", "destroy_gpu_instance", uuid, placement)

    def create_compute_instance(self, uuid: str, placement: Placement, width: int, compute: Placement) -> None:
        self._change("create compute instance on", "create_compute_instance", uuid, placement, width, compute)

    def destroy_compute_instance(self, uuid: str, placement: Placement, compute: Placement) -> None:
        self._change("destroy compute instance on", "destroy_compute_instance", uuid, placement, compute)

    def release(self) -> None:
        """End the worker. DeadlineError when it hangs in the driver and still holds the devices."""
        with self._lock:
            if self._in_session and self._worker is not None:
                # Whatever goes wrong here, ending the process closes what it had open.
                with suppress(HostError, TimeoutError, WorkerLostError):
                    self._worker.ask("release", (), self._deadline)
            self._fences.clear()  # what comes next may be another driver, and the indices may mean other GPUs
            stuck = self._drop()
            if stuck is not None:
                raise DeadlineError("release", "NVML", f"process {stuck.pid} hangs in the driver", "reboot the node")

    def close(self) -> None:
        self.release()

    def unfence(self) -> None:
        """Try every fenced GPU again at the next reading, as after a reset."""
        with self._lock:
            self._fences.clear()

    def _each(self, method: str) -> tuple[tuple[Any, ...], tuple[GpuFault, ...]]:
        with self._lock:
            count = self._count()
            self._fences.counted(count)
            fences = [self._fences.standing(index) for index in range(count)]
            self._send_ahead(method, [index for index, fence in enumerate(fences) if fence is None])
            answers = [fence.fault if fence else self._one(method, index) for index, fence in enumerate(fences)]
        values = tuple(answer for answer in answers if not isinstance(answer, GpuFault))
        return values, tuple(answer for answer in answers if isinstance(answer, GpuFault))

    def _send_ahead(self, method: str, indices: Sequence[int]) -> None:
        """Have the worker read one GPU after the other, without waiting for us in between.

        Answers come in this order, each with a deadline of its own; after a hang the rest is asked of another worker.
        """
        if self._worker is None or not self._named.issuperset(indices):
            return
        try:
            self._worker.send([(method, (index,)) for index in indices], self._deadline)
        except (TimeoutError, WorkerLostError):
            self._drop()
        else:
            self._ahead.extend(indices)

    def _count(self) -> int:
        """The number of GPUs; once more where the worker turns out to be gone, as when someone killed it."""
        about = ("count", "gpus")
        try:
            return int(self._call("count", (), self._deadline, about))
        except WorkerLostError:
            pass
        try:
            return int(self._call("count", (), self._deadline, about))
        except WorkerLostError as error:
            raise _gone(about, error) from error

    def _one(self, method: str, index: int) -> Any:
        """One GPU's value, or its fault."""
        try:
            value = self._read(method, index)
        except TimeoutError:
            return self._fence_off(index, method, f"no answer within {self._deadline:g} s")
        except WorkerLostError as error:
            return self._fence_off(index, method, f"reading it ended the worker: {error}")
        self._fences.take_down(index, method)
        return value

    def _read(self, method: str, index: int) -> Any:
        """Ask a worker with an open session; once more where the first one turns out to be gone."""
        try:
            return self._ask_about(method, index)
        except WorkerLostError:
            self._drop()
            return self._ask_about(method, index)

    def _ask_about(self, method: str, index: int) -> Any:
        worker = self._opened()  # its errors concern the driver, not this GPU
        try:
            if index not in self._named:
                self._identified[index] = worker.ask("identify", (index,), self._deadline)
                self._named.add(index)
            if self._ahead:
                self._ahead.popleft()
                return worker.next(self._deadline)
            return worker.ask(method, (index,), self._deadline)
        except HostError as error:
            return GpuFault(self._uuid(index), error.reason)

    def _uuid(self, index: int) -> str:
        return self._identified.get(index, f"index {index}")

    def _fence_off(self, index: int, method: str, reason: str) -> GpuFault:
        return self._fences.put_up(index, self._uuid(index), (method, reason), self._drop()).fault

    def _change(self, operation: str, method: str, uuid: str, *arguments: Any) -> None:
        subject = f"gpu {uuid}"
        with self._lock:
            fence = self._fences.of(uuid)
            if fence is not None:
                raise DeadlineError(operation, subject, fence.fault.reason)
            deadline = max(self._deadline, _CHANGE_SECONDS)
            try:
                self._call(method, (uuid, *arguments), deadline, (operation, subject))
            except WorkerLostError as error:
                raise _gone((operation, subject), error) from error

    def _call(self, method: str, arguments: tuple[Any, ...], deadline_seconds: float, about: tuple[str, str]) -> Any:
        """Ask what no single GPU can be blamed for. WorkerLostError: the worker ended, and was cleared away."""
        if self._ahead:  # a reading was broken off: its answers would be taken for ours
            self._drop()
        worker = self._opened()
        try:
            return worker.ask(method, arguments, deadline_seconds)
        except TimeoutError as error:
            self._drop()
            raise DeadlineError(*about, f"no answer within {deadline_seconds:g} s", "the driver may hang") from error
        except WorkerLostError:
            self._drop()
            raise

    def _opened(self) -> Worker:
        """A live worker with an open session."""
        if self._worker is not None and not self._worker.alive():
            self._drop()
        if self._worker is None:
            self._refuse_when_stuck()
            self._worker = self._launch()
        if not self._in_session:
            self._open(self._worker)
        return self._worker

    def _open(self, worker: Worker) -> None:
        deadline = max(self._deadline, _START_SECONDS)
        try:
            worker.ask("open", (), deadline)
        except TimeoutError as error:
            self._drop()
            raise DeadlineError("open", "NVML", f"no answer within {deadline:g} s", "the driver may hang") from error
        except WorkerLostError as error:
            self._drop()
            raise _gone(("open", "NVML"), error) from error
        self._in_session = True

    def _refuse_when_stuck(self) -> None:
        self._stuck = [worker for worker in self._stuck if worker.alive()]
        if len(self._stuck) >= _STUCK_MAX:
            pids = ", ".join(str(worker.pid) for worker in self._stuck)
            reason = f"the driver is unresponsive: processes {pids} hang in it"
            raise DeadlineError("start", "nvml worker", reason, "look for Xid in the kernel log; reboot the node")

    def _drop(self) -> Worker | None:
        """End the present worker; returned when the kernel does not let it go."""
        worker, self._worker, self._in_session = self._worker, None, False
        self._named.clear()
        self._ahead.clear()
        if worker is None or worker.end():
            return None
        self._stuck.append(worker)
        return worker


def _gone(about: tuple[str, str], error: WorkerLostError) -> HostError:
    return HostError(*about, f"the NVML worker is gone: {error}", "the next call starts another")


if __name__ == "__main__":
    nvml_serve.main(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
