"""What metrics cost, each against a peer in the same run; printed as ratios, asserted with wide margins only."""

from __future__ import annotations

import http.client
import os
import resource
import statistics
import threading
import time
from contextlib import closing, suppress
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, Gauge, generate_latest, start_http_server

from metrics_view import NODE, SAMPLE, full_view, gpu
from nodeagent.host.nvml import InProcessNvml
from nodeagent.metrics.catalogue import KNOWN_FAMILIES
from nodeagent.metrics.exposition import labels, plain_text
from nodeagent.metrics.options import Options
from nodeagent.metrics.render import blocks, snapshot
from nodeagent.metrics.server import serve
from nodeagent.simulation.machine import BoardAt, Machine, library_path

LABELS = ("gpu", "UUID", "pci_bus_id", "device", "modelName", "Hostname", "DCGM_FI_DRIVER_VERSION")


def view_of(gpus: int):
    found = {f"GPU-{index}": gpu(index) for index in range(gpus)}
    node = replace(NODE, gpus=found)
    samples = tuple(replace(SAMPLE, uuid=uuid) for uuid in found)
    options = Options(families=frozenset(KNOWN_FAMILIES))
    return replace(full_view(options), node=node, samples=samples)


def registry_of(series: int) -> CollectorRegistry:
    registry = CollectorRegistry()
    for number in range(series // 8):
        gauge = Gauge(f"bench_{number}", "help", LABELS, registry=registry)
        for index in range(8):
            values = (str(index), f"GPU-{index}", "00000000:3B:00.0", "nvidia0", "NVIDIA H100", "node1", "550.90.07")
            gauge.labels(*values).set(index / 3)
    return registry


def seconds(what, times: int) -> float:
    """The median of several runs, wall clock."""
    costs = []
    for _ in range(times):
        started = time.perf_counter()
        what()
        costs.append(time.perf_counter() - started)
    return statistics.median(costs)


@pytest.mark.parametrize("gpus", [4, 16, 80, 400])
def test_rendering_a_series(gpus, capsys):
    """Against prometheus_client's generate_latest with as many labels."""
    view = view_of(gpus)
    series = sum(block.samples.count("\n") for block in blocks(view))
    registry = registry_of(2000)
    ours = seconds(lambda: plain_text(blocks(replace(view))), 3) / series
    theirs = seconds(lambda: generate_latest(registry), 3) / 2000
    with capsys.disabled():
        text = f"{ours * 1e6:.2f} us each, prometheus_client {theirs * 1e6:.2f} us each"
        print(f"\nrender {series} series: {text}: {theirs / ours:.1f}x")
    assert ours < theirs


def scrape(address: str, times: int, costs: list[float]) -> None:
    with closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        for _ in range(times):
            started = time.perf_counter()
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            costs.append(time.perf_counter() - started)


def latencies(address: str, clients: int, times: int) -> tuple[float, float]:
    """Median and 99th percentile in seconds over all clients."""
    costs: list[float] = []
    threads = [threading.Thread(target=scrape, args=(address, times, costs)) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    costs.sort()
    return statistics.median(costs), costs[int(len(costs) * 0.99)]


@pytest.mark.parametrize(("clients", "times"), [(1, 40), (20, 4)])
def test_scraping(clients, times, capsys):
    """Latency against prometheus_client's server with as many series; clients are in the same process for both."""
    taken = snapshot(view_of(16))
    series = taken.body.count(b"\n")
    server, thread = start_http_server(0, "127.0.0.1", registry_of(series))
    try:
        theirs = latencies(f"127.0.0.1:{server.server_port}", clients, times)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with closing(serve("127.0.0.1:0", lambda: taken)) as running:
        ours = latencies(running.address, clients, times)
    with capsys.disabled():
        mine = f"ours {ours[0] * 1e3:.2f}/{ours[1] * 1e3:.2f} ms"
        text = f"{mine}, prometheus_client {theirs[0] * 1e3:.1f}/{theirs[1] * 1e3:.1f} ms"
        print(f"\nscrape {series} lines, {clients} clients, median/p99: {text}: {theirs[0] / ours[0]:.0f}x")
    assert ours[0] < theirs[0]


def test_two_hundred_scrapers_get_their_answer():
    """More than the server keeps connections for: each comes once, as Prometheus servers behind a proxy do."""
    taken = snapshot(view_of(16))
    answered: list[float] = []

    def once(address: str) -> None:
        for _ in range(600):  # half a minute at the most
            with suppress(OSError, http.client.HTTPException):
                scrape(address, 1, answered)
                return
            time.sleep(0.05)

    with closing(serve("127.0.0.1:0", lambda: taken)) as running:
        threads = [threading.Thread(target=once, args=(running.address,)) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(answered) == 200


def test_a_scrape_costs_the_sending_of_its_bytes(capsys):
    """CPU of a scrape of 20,000 lines against answering /healthz, which sends none, and against rendering them."""
    view = view_of(80)
    before = time.process_time()
    taken = snapshot(view)
    rendering = time.process_time() - before

    def cpu(path: str, times: int) -> float:
        with closing(http.client.HTTPConnection(running.address, timeout=60)) as connection:
            before = resource.getrusage(resource.RUSAGE_SELF)
            for _ in range(times):
                connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
                connection.getresponse().read()
            after = resource.getrusage(resource.RUSAGE_SELF)
        return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / times

    with closing(serve("127.0.0.1:0", lambda: taken)) as running:
        cpu("/metrics", 2)
        full, empty = cpu("/metrics", 50), cpu("/healthz", 50)
    with capsys.disabled():
        lines, size = taken.body.count(bytes([10])), len(taken.compressed)
        costs = f"{full * 1e3:.2f} ms CPU with client, empty {empty * 1e3:.2f} ms"
        print(f"\nscrape of {lines} lines, {size} bytes zipped: {costs}; rendering {rendering * 1e3:.0f} ms")
    assert full * 10 < rendering  # nothing is rendered, or zipped, for a scrape


@pytest.fixture
def nvml(tmp_path):
    devices = tmp_path / "devices"
    devices.mkdir()
    for name in ("nvidiactl", *(f"nvidia{minor}" for minor in range(8))):
        (devices / name).touch()
    boards = [
        BoardAt(board="H100-80GB-HBM3", pci_address=f"0000:{0x3B + minor:02x}:00.0", minor=minor, seed=str(minor))
        for minor in range(8)
    ]
    before = dict(os.environ)
    with Machine.create(str(tmp_path / "machine"), boards, str(devices), "550.90.07"):
        with closing(InProcessNvml(library_path(), {"NVMLSIM_MACHINE": str(tmp_path / "machine")})) as made:
            yield made
        os.environ.clear()
        os.environ.update(before)


def test_one_round_of_nvml(nvml, capsys):
    """All GPUs sampled: absolute, as the simulator answers at once and so only our own cost shows."""
    nvml.samples()
    cost = seconds(nvml.samples, 10)
    with capsys.disabled():
        print(f"\n8 GPUs sampled in {cost * 1e3:.2f} ms")
    assert len(nvml.samples()) == 8


def test_label_sets_are_made_once_per_device():
    view = view_of(8)
    first = view.gpu_labels
    assert view.gpu_labels is first
    assert labels(a="1", b="") == '{a="1"}'
