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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from bench.exporters import fetch, node_exporter, nvitop_exporter
from bench.figures import Figures, running_agent, table
from bench.nvml_figures import h100s, nvml_round, worker_round
from bench.stopwatch import seconds
from metrics_view import NODE, SAMPLE, full_view, gpu
from nodeagent.host.control_client import ask
from nodeagent.metrics.catalogue import KNOWN_FAMILIES
from nodeagent.metrics.exposition import plain_text
from nodeagent.metrics.options import Options
from nodeagent.metrics.render import blocks, snapshot
from nodeagent.metrics.server import serve

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

    yield from table("rendering", rendering(patience))
    yield from table("10,000 series over a kept connection", sending(patience))
    with tempfile.TemporaryDirectory() as place, h100s(Path(place)) as nvml:
        yield from table("a round of NVML calls, 8 H100", nvml_round(nvml, patience.rounds))
        yield from table("the same through the worker", {"": worker_round(Path(place), patience.rounds)})
    with tempfile.TemporaryDirectory() as place, h100s(Path(place), slices=7) as nvml:
        yield from table("a round of NVML calls, 8 H100 of 7 instances each", nvml_round(nvml, patience.rounds))
    with tempfile.TemporaryDirectory() as place, running_agent(Path(place)) as (process, root):
        yield from table("scrapes", scrapes(patience, root, process.pid))
    with tempfile.TemporaryDirectory() as place:
        node = Node(Path(place) / "n")
        yield from table("memory", {"": memory(patience, node.sampler)})
        node.host.nvml.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repetitions, to see that it works")
    quick = parser.parse_args().quick
    sys.path.insert(0, str(Path(__file__).parents[1] / "node"))
    for line in report(Patience(40, 10, 50, 3) if quick else Patience()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
