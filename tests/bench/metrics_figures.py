"""Measures what docs/metrics.md reports: scrapes beside other exporters, rendering, the cost of a round, memory.

By hand: `PYTHONPATH=agent:tests python tests/bench/metrics_figures.py`; test_metrics_figures.py runs it with less
patience. All peers run in the same run on the same simulated machine, so that their ratios hold on a busy one.
"""

from __future__ import annotations

import argparse
import gc
import http.client
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pynvml
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bench.exporters import fetch, node_exporter, nvitop_exporter
from bench.figures import Figures, running_agent
from metrics_view import NODE, SAMPLE, full_view, gpu
from nodeagent.host import nvml_samples
from nodeagent.host.control_client import ask
from nodeagent.host.nvml import InProcessNvml
from nodeagent.host.nvml_gpm import GPM_OF_GPU
from nodeagent.metrics.catalogue import KNOWN_FAMILIES
from nodeagent.metrics.exposition import plain_text
from nodeagent.metrics.options import Options
from nodeagent.metrics.render import blocks, snapshot
from nodeagent.metrics.server import serve
from nodeagent.simulation.machine import BoardAt, Machine, library_path

GPUS = 8
LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")


@dataclass(frozen=True)
class Patience:
    """Scrapes per number of clients, rounds of NVML calls, rounds for the memory, repetitions of a rendering."""

    scrapes: int = 200
    rounds: int = 100
    cycles: int = 10_000
    renderings: int = 5
    clients: tuple[int, ...] = (1, 20, 200)


# Scrapes beside other exporters.


def scrapes(patience: Patience, root: Path, agent: int) -> dict[str, Figures]:
    """By exporter: median milliseconds for each number of clients, CPU of the server per scrape, size of the answer."""
    with ExitStack() as stack:
        servers = {"nodeagent": (ask(str(root), "GET", "/v1/status")["metrics"], agent)}
        for name, start in (("nvitop-exporter", nvitop_exporter), ("node_exporter", node_exporter)):
            servers[name] = stack.enter_context(start(root))
        return {name: _row(address, pid, patience) for name, (address, pid) in servers.items()}


def _row(address: str, pid: int, patience: Patience) -> Figures:
    body = fetch(address)
    row = {"series": float(sum(not line.startswith(b"#") for line in body.splitlines())), "kB": len(body) / 1000}
    for clients in patience.clients:
        costs, refused = _latency(address, clients, max(1, patience.scrapes // clients))
        row |= {
            f"{clients} clients: median ms": statistics.median(costs),
            f"{clients} clients: 99 % ms": costs[int(len(costs) * 0.99)],
        }
        row |= {f"refused of {clients}": float(refused)}
    row["CPU ms"] = _cpu(address, pid, patience.scrapes)
    return row


def _latency(address: str, clients: int, times: int) -> tuple[list[float], int]:
    """Milliseconds of each scrape, sorted, a connection for each, all clients at once; and how many were refused."""
    costs: list[float] = []
    refused: list[OSError] = []
    barrier = threading.Barrier(clients)

    def client() -> None:
        barrier.wait()
        for _ in range(times):
            started = time.perf_counter()
            try:
                fetch(address)
            except OSError as error:
                refused.append(error)
            else:
                costs.append(1000 * (time.perf_counter() - started))

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(costs), len(refused)


def _cpu(address: str, pid: int, times: int) -> float:
    """Milliseconds of the server for one scrape, without what it spends by itself in that time."""
    process = psutil.Process(pid)

    def spent(what: Callable[[], object]) -> tuple[float, float]:
        before, started = sum(process.cpu_times()[:2]), time.monotonic()
        what()
        return sum(process.cpu_times()[:2]) - before, time.monotonic() - started

    idle, idle_seconds = spent(lambda: time.sleep(3))
    busy, seconds = spent(lambda: [fetch(address) for _ in range(times)])
    return max(0.0, 1000 * (busy - idle / idle_seconds * seconds) / times)


# Sending: a scrape beside a server that only writes the same bytes.


def sending(patience: Patience) -> dict[str, Figures]:
    """Milliseconds for 10,000 series over one connection: ours, and a bare loop that hears a request and sends."""
    taken = snapshot(view_of(40))
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(taken.body)}\r\n\r\n".encode()
    with closing(serve("127.0.0.1:0", lambda: taken)) as ours, _bare_server(head + taken.body) as bare:
        rows = {name: _kept(where, patience.scrapes) for name, where in (("nodeagent", ours.address), ("bare", bare))}
    series = float(taken.body.count(b"\n"))
    return {
        name: {"lines": series, "MB": len(taken.body) / 1e6, "median ms": cost, "ratio": cost / rows["bare"]}
        for name, cost in rows.items()
    }


def _kept(address: str, times: int) -> float:
    costs = []
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        for _ in range(times):
            started = time.perf_counter()
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            costs.append(1000 * (time.perf_counter() - started))
    return statistics.median(costs)


@contextmanager
def _bare_server(answer: bytes) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                while connection.recv(65536):
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


# Rendering.


def view_of(gpus: int):
    """So many GPUs with every family that NVML can give, some 140 series each."""
    found = {f"GPU-{index}": gpu(index) for index in range(gpus)}
    node = replace(NODE, gpus=found)
    samples = tuple(replace(SAMPLE, uuid=uuid) for uuid in found)
    return replace(full_view(Options(families=frozenset(KNOWN_FAMILIES))), node=node, samples=samples)


def rendering(patience: Patience) -> dict[str, Figures]:
    """Microseconds per series by size, labels made anew each time, beside prometheus_client's generate_latest."""
    rows = {}
    for gpus in (2, 8, 40, 200):
        view = view_of(gpus)
        series = sum(one.samples.count("\n") for one in blocks(view))
        registry = registry_of(series)
        ours = seconds(lambda view=view: plain_text(blocks(replace(view))), patience.renderings) / series
        theirs = seconds(lambda registry=registry: generate_latest(registry), patience.renderings) / series
        rows[f"{series} series"] = {"us": ours * 1e6, "generate_latest us": theirs * 1e6, "ratio": theirs / ours}
    return rows


def registry_of(series: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    for number in range(series // GPUS):
        gauge = Gauge(f"bench_{number}", "help", LABELS, registry=registry)
        for index in range(GPUS):
            values = (str(index), f"GPU-{index}", "00000000:3B:00.0", "nvidia0", "NVIDIA H100", "node1", "550.90.07")
            gauge.labels(*values).set(index / 3)
    return registry


def seconds(what: Callable[[], object], times: int) -> float:
    """The median of several runs in CPU time of this thread."""
    costs = []
    for _ in range(times):
        started = time.thread_time()
        what()
        costs.append(time.thread_time() - started)
    return statistics.median(costs)


# A round of NVML calls.


@contextmanager
def h100s(directory: Path) -> Iterator[InProcessNvml]:
    devices = directory / "devices"
    devices.mkdir()
    for name in ("nvidiactl", *(f"nvidia{minor}" for minor in range(GPUS))):
        (devices / name).touch()
    boards = [BoardAt("H100-80GB-HBM3", f"0000:{0x3B + minor:02x}:00.0", minor, str(minor)) for minor in range(GPUS)]
    before = dict(os.environ)
    with Machine.create(str(directory / "machine"), boards, str(devices), "550.90.07"):
        with closing(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(directory / "machine")})) as made:
            yield made
        os.environ.clear()
        os.environ.update(before)


def nvml_round(nvml: InProcessNvml, patience: Patience) -> Figures:
    """CPU milliseconds of one round over 8 GPUs, and of a loop that only makes the same NVML calls."""
    nvml.samples()
    bare = BareLoop()
    ours, theirs = [], []
    for _ in range(patience.rounds):
        time.sleep(0.11)  # GPM wants its samples apart
        ours.append(seconds(nvml.samples, 1))
        theirs.append(seconds(bare.run, 1))
    mine, plain = statistics.median(ours) * 1000, statistics.median(theirs) * 1000
    return {"calls": float(bare.calls), "ms": mine, "bare loop ms": plain, "ratio": mine / plain}


class BareLoop:
    """The calls of a round, made one after the other through nvidia-ml-py, their answers thrown away."""

    def __init__(self) -> None:
        self._todo = [call for index in range(GPUS) for call in self._of(index)]
        self.calls = len(self._todo)

    def _of(self, index: int) -> Iterator[tuple[Callable[..., object], tuple[object, ...]]]:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        first, second = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
        pynvml.nvmlGpmSampleGet(handle, first)
        request = pynvml.c_nvmlGpmMetricsGet_t()
        request.version, request.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, len(GPM_OF_GPU)
        request.sample1, request.sample2 = first, second
        for place, metric in enumerate(GPM_OF_GPU):
            request.metrics[place].metricId = metric
        array = nvml_samples.FieldArray(nvml_samples.FIELDS)
        array.read(handle)
        calls = (
            (pynvml.nvmlDeviceGetHandleByIndex, (index,)),
            (pynvml.nvmlDeviceGetUUID, (handle,)),
            (pynvml.nvmlDeviceGetMemoryInfo, (handle, pynvml.nvmlMemory_v2)),
            *((read, (handle, *arguments)) for _, _, read, arguments in nvml_samples._CALLS),
            (pynvml.nvmlDeviceGetMigMode, (handle,)),
            (nvml_samples._get_fields, (handle, array._values)),
            (pynvml.nvmlGpmSampleGet, (handle, second)),
            (pynvml.nvmlGpmMetricsGet, (request,)),
        )
        yield from (call for call in calls if works(*call))

    def run(self) -> None:
        for call, arguments in self._todo:
            call(*arguments)


def works(call: Callable[..., object], arguments: tuple[object, ...]) -> bool:
    """What the GPU does not have is not asked for again by us either."""
    try:
        call(*arguments)
    except pynvml.NVMLError:
        return False
    return True


# Memory over many rounds.


def memory(patience: Patience, sampler: object) -> Figures:
    """Resident megabytes and descriptors after a tenth of the rounds and at their end."""

    def state() -> tuple[float, int]:
        gc.collect()
        return psutil.Process().memory_info().rss / 1e6, len(os.listdir("/proc/self/fd"))

    for _ in range(max(1, patience.cycles // 10)):
        sampler.take()
    before, files = state()
    started = time.process_time()
    for _ in range(patience.cycles):
        sampler.take()
    cost = (time.process_time() - started) / patience.cycles
    after, open_files = state()
    return {
        "rounds": float(patience.cycles),
        "MB before": before,
        "MB after": after,
        "descriptors more": float(open_files - files),
        "CPU ms a round": 1000 * cost,
    }


# By hand.


def report(patience: Patience) -> Iterator[str]:
    """The figures as lines of Markdown."""
    from test_metrics_sampler import Node  # noqa: PLC0415 - lies beside the tests of the node

    yield from _table("rendering", rendering(patience))
    yield from _table("10,000 series over a kept connection", sending(patience))
    with tempfile.TemporaryDirectory() as place, h100s(Path(place)) as nvml:
        yield from _table("a round of NVML calls, 8 H100", {"": nvml_round(nvml, patience)})
    with tempfile.TemporaryDirectory() as place, running_agent(Path(place)) as (process, root):
        yield from _table("scrapes", scrapes(patience, root, process.pid))
    with tempfile.TemporaryDirectory() as place:
        node = Node(Path(place) / "n")
        yield from _table("memory", {"": memory(patience, node.sampler)})
        node.host.nvml.close()


def _table(title: str, rows: Mapping[str, Figures]) -> Iterator[str]:
    columns = list(next(iter(rows.values())))
    yield f"\n| {title} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}"
    for name, row in rows.items():
        yield f"| {name} | {' | '.join(f'{row[column]:.3g}' for column in columns)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    quick = parser.parse_args().quick
    sys.path.insert(0, str(Path(__file__).parents[1] / "node"))
    for line in report(Patience(40, 10, 50, 3) if quick else Patience()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
