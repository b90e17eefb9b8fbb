"""What a round of telemetry costs beside a bare loop of the same NVML calls; metrics_figures.py prints it."""

from __future__ import annotations

import ctypes
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psutil
import pynvml

from bench.stopwatch import Figures, seconds
from nodeagent.host import nvml_batch
from nodeagent.host.nvml import InProcessNvml
from nodeagent.host.nvml_batch import Call
from nodeagent.host.nvml_fields import FIELDS
from nodeagent.host.nvml_gpm import GPM_OF_GPU, GPM_OF_INSTANCE
from nodeagent.host.nvml_process import Launch
from nodeagent.host.nvml_readings import LINKS_MAX, READINGS
from nodeagent.host.nvml_samples import Telemetry
from nodeagent.host.nvml_worker import WorkerNvml
from nodeagent.simulation.machine import BoardAt, Machine, library_path
from nodeagent.state.gpu import Placement

GPUS = 8


@contextmanager
def h100s(directory: Path, slices: int = 0) -> Iterator[InProcessNvml]:
    """Each of them divided into so many instances of one slice; 0: MIG is off."""
    devices = directory / "devices"
    devices.mkdir()
    for name in ("nvidiactl", *(f"nvidia{minor}" for minor in range(GPUS))):
        (devices / name).touch()
    boards = [BoardAt("H100-80GB-HBM3", f"0000:{0x3B + minor:02x}:00.0", minor, str(minor)) for minor in range(GPUS)]
    before = dict(os.environ)
    with Machine.create(str(directory / "machine"), boards, str(devices), "550.90.07"):
        with closing(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(directory / "machine")})) as made:
            if slices:
                divide(made, slices)
            yield made
        os.environ.clear()
        os.environ.update(before)


def divide(nvml: InProcessNvml, slices: int) -> None:
    for gpu in nvml.gpus()[0]:
        nvml.set_mig_mode(gpu.uuid, enabled=True)
        for start in range(slices):
            nvml.create_gpu_instance(gpu.uuid, "1g.10gb", Placement(start, 1))


def nvml_round(nvml: InProcessNvml, rounds: int) -> dict[str, Figures]:
    """CPU milliseconds of a round over 8 GPUs: ours, the same calls through nvidia-ml-py, and the same from C alone."""
    for _ in range(3):  # what the GPUs lack is known then
        nvml.samples()
        time.sleep(0.11)
    bare = BareLoop()
    loops: dict[str, Callable[[], object]] = {
        "nvidia-ml-py, answers thrown away": bare.run,
        "the agent, values decoded": nvml.samples,
        "C, answers thrown away": native_loop(nvml),
    }
    costs: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(rounds):
        for name, loop in loops.items():
            time.sleep(0.11)  # GPM wants its samples apart, and every loop begins as cold as the others
            costs[name].append(seconds(loop, 1))
    found = {name: statistics.median(each) * 1000 for name, each in costs.items()}
    plain = next(iter(found.values()))
    return {name: {"calls": float(bare.calls), "ms": cost, "ratio": cost / plain} for name, cost in found.items()}


def worker_round(directory: Path, rounds: int) -> Figures:
    """Milliseconds of a round as the agent has it, in a process of its own: until the answers are here, and of CPU."""
    environment = {"NVMLSIM_MACHINE": str(directory / "machine")}
    walls, bare_walls, bare = [], [], BareLoop()
    with closing(WorkerNvml(Launch(str(library_path()), environment))) as nvml:
        nvml.samples()
        worker = psutil.Process(nvml.pid())
        before, started = sum(worker.cpu_times()[:2]), time.thread_time()
        for _ in range(rounds):
            time.sleep(0.11)
            walls.append(wall_seconds(nvml.samples))
        ours, theirs = time.thread_time() - started, sum(worker.cpu_times()[:2]) - before
    for _ in range(rounds):
        time.sleep(0.11)
        bare_walls.append(wall_seconds(bare.run))
    wall, plain = statistics.median(walls) * 1000, statistics.median(bare_walls) * 1000
    cpu = {"CPU ms here": 1000 * ours / rounds, "CPU ms of the worker": 1000 * theirs / rounds}
    return {"wall ms": wall, "bare loop, wall ms": plain, "ratio": wall / plain, **cpu}


def wall_seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def native_loop(nvml: InProcessNvml) -> Callable[[], object]:
    """What the agent's round makes of calls, and nothing else: no value is looked at."""
    telemetry = nvml._telemetry
    ask = next(ask for key, ask in telemetry._gpm._asks.items() if len(key) == _questions(telemetry))
    batches = [(reader._batch, nvml_batch.pointer(nvml._at(index))) for index, reader in telemetry._readers.items()]
    others = [
        *((reader._batch, nvml_batch.pointer(nvml._at(index))) for index, reader in telemetry._slices.items()),
        *((group.take, nvml_batch.pointer(nvml._at(index))) for index, group in telemetry._gpm._groups.items()),
        *((ask.batch, nvml_batch.ffi.NULL) for _ in range(GPUS)),
        *((telemetry._events._wait, nvml_batch.ffi.NULL) for _ in range(GPUS)),
    ]

    def run() -> None:
        for batch, handle in (*batches, *others):
            batch.run(handle)
        for index in range(GPUS):
            nvml._at(index)

    return run


def _questions(telemetry: Telemetry) -> int:
    """The length of GPM's key: whether newer ids are known, and one for the GPU and each of its instances."""
    return 1 + len(telemetry._gpm._groups[0].pairs)


class BareLoop:
    """The calls of a round, made one after the other through nvidia-ml-py, their answers thrown away."""

    def __init__(self) -> None:
        self._events = pynvml.nvmlEventSetCreate()
        self._todo = [(pynvml.nvmlDeviceGetCount, ()), *(call for index in range(GPUS) for call in self._of(index))]
        self.calls = len(self._todo)

    def _of(self, index: int) -> Iterator[tuple[Callable[..., object], tuple[object, ...]]]:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        yield pynvml.nvmlDeviceGetHandleByIndex, (index,)
        calls = [
            (getattr(pynvml, PYNVML.get(call.function, call.function)), (handle, *arguments(call)))
            for reading in READINGS
            for call in reading.ways[:1]
        ]
        links = [(pynvml.nvmlDeviceGetNvLinkState, (handle, link)) for link in range(LINKS_MAX)]
        array = pynvml.nvmlDeviceGetFieldValues(handle, FIELDS)
        kept = [value.fieldId for value in array if value.nvmlReturn == pynvml.NVML_SUCCESS]
        calls += [*links, (pynvml.nvmlDeviceGetFieldValues, (handle, kept)), (self._wait, ())]
        calls += [*self._gpm(handle, GPM_OF_GPU, pynvml.nvmlGpmSampleGet), *self._of_instances(handle)]
        yield from (call for call in calls if works(*call))

    def _of_instances(self, handle: object) -> Iterator[tuple[Callable[..., object], tuple[object, ...]]]:
        """One MIG device for each, as here, and no index without one."""
        for number in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            look_up = (pynvml.nvmlDeviceGetMigDeviceHandleByIndex, (handle, number))
            if works(*look_up):
                device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
                gi_id = pynvml.nvmlDeviceGetGpuInstanceId(device)
                yield look_up
                yield pynvml.nvmlDeviceGetGpuInstanceId, (device,)
                yield pynvml.nvmlDeviceGetMemoryInfo, (device, pynvml.nvmlMemory_v2)
                yield from self._gpm(handle, GPM_OF_INSTANCE, pynvml.nvmlGpmMigSampleGet, gi_id)

    def _wait(self) -> None:
        with suppress(pynvml.NVMLError_Timeout):
            pynvml.nvmlEventSetWait_v2(self._events, 0)

    def _gpm(
        self, handle: object, metrics: tuple[int, ...], take: Callable[..., object], *instance: int
    ) -> Iterator[tuple[Callable[..., object], tuple[object, ...]]]:
        first, second = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
        take(handle, *instance, first)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(metrics)
        request.sample1, request.sample2 = first, second
        for place, metric in enumerate(metrics):
            request.metrics[place].metricId = metric
        yield take, (handle, *instance, second)
        yield pynvml.nvmlGpmMetricsGet, (request,)

    def run(self) -> None:
        for call, arguments in self._todo:
            call(*arguments)


PYNVML = {"nvmlDeviceGetMemoryInfo_v2": "nvmlDeviceGetMemoryInfo"}
"""What nvidia-ml-py calls a function where that is not NVML's name."""


def arguments(call: Call) -> tuple[object, ...]:
    """What nvidia-ml-py wants besides the handle."""
    if call.function == "nvmlDeviceGetMemoryInfo_v2":
        return (pynvml.nvmlMemory_v2,)
    if call.function == "nvmlDeviceGetTemperatureV":
        return (pynvml.NVML_TEMPERATURE_GPU,)
    if call.function == "nvmlDeviceGetGpuFabricInfoV":
        return (ctypes.byref(pynvml.c_nvmlGpuFabricInfo_v3_t()),)
    if call.function == "nvmlDeviceGetSramEccErrorStatus":
        return (ctypes.byref(pynvml.c_nvmlEccSramErrorStatus_v1_t()),)
    if call.shape == nvml_batch.COUNTED:
        return (LINKS_MAX,)  # refused here, made link by link below
    return (call.number,) if call.shape == nvml_batch.CHOSEN else ()


def works(call: Callable[..., object], arguments: tuple[object, ...]) -> bool:
    """What the GPU does not have is not asked for again by us either."""
    try:
        call(*arguments)
    except pynvml.NVMLError:
        return False
    return True
