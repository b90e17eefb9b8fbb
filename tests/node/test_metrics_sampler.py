"""The sampler on a simulated node: what changes, vanishes or fails between two rounds costs only itself."""

from __future__ import annotations

import gc
import os
import re
import socket
import threading
import time
from contextlib import closing
from dataclasses import replace

import psutil
import pytest

from nodeagent.errors import HostError
from nodeagent.host.files import LocalFiles
from nodeagent.metrics.server import serve
from nodeagent.plan.convergence import Outcome
from nodeagent.plan.model import Plan
from nodeagent.plan.observing import Observer
from nodeagent.simulation.node import open_node
from nodeagent.spec.schema import Metrics
from nodeagent.state.gpu import Placement
from nodeagent.supervisor.choices import Choices
from nodeagent.supervisor.sampler import Sampler
from nodeagent.supervisor.status import Identity, Pass, Status


class Node:
    """A simulated node with a sampler that is told of every observation."""

    def __init__(self, directory) -> None:
        self.node = open_node("dgx-a100", str(directory))
        self.host = self.node.host(deadline_seconds=2.0)
        self.host.kmod.load("nvidia")
        for module in ("mlx5_core", "mlx5_ib"):
            for file in self.host.kmod.lookup(module):
                if file.name not in self.host.files.names("/sys/module"):
                    self.host.kmod.load(file.name)
        self.status = Status(Identity(1, "node1", "dgx-a100", "", 0.0))
        self.sampler = self.make(self.host)
        self.observe()

    def make(self, host, **section) -> Sampler:
        choices = Choices(Metrics(**section), host.files)
        return Sampler(host, threading.Lock(), lambda: self.status, 1.0, choices)

    def observe(self) -> None:
        state = Observer(self.host).observe(())
        self.status = replace(self.status, last=Pass(Outcome(state, Plan()), ("test",), 0.0, 0.1))

    def text(self, sampler: Sampler | None = None) -> str:
        (sampler or self.sampler).take()
        return (sampler or self.sampler).snapshot.body.decode()


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    made = Node(tmp_path_factory.mktemp("s") / "n")
    yield made
    made.host.nvml.close()


def test_mig_is_divided_anew_between_two_rounds(node):
    gpu = node.node.machine.gpus[0].uuid
    node.host.nvml.set_mig_mode(gpu, enabled=True)
    node.host.nvml.create_gpu_instance(gpu, "3g.20gb", Placement(4, 4))
    node.observe()
    assert re.search(r'DCGM_FI_DEV_FB_USED\{.*GPU_I_PROFILE="3g\.20gb"', node.text())
    node.host.nvml.destroy_gpu_instance(gpu, Placement(4, 4))
    node.host.nvml.create_gpu_instance(gpu, "1g.5gb", Placement(6, 1))
    text = node.text()
    assert text.count("\nDCGM_FI_DEV_GPU_TEMP{") == 8, "the old layout is known still; nothing else is missing"
    node.observe()
    text = node.text()
    assert re.search(r'DCGM_FI_DEV_FB_USED\{.*GPU_I_PROFILE="1g\.5gb"', text)
    assert "3g.20gb" not in "".join(line for line in text.splitlines() if "FB_USED{" in line)
    node.host.nvml.destroy_gpu_instance(gpu, Placement(6, 1))
    node.host.nvml.set_mig_mode(gpu, enabled=False)
    node.observe()


def test_mig_is_divided_anew_while_a_scrape_is_on_its_way(node):
    """The bytes that a scrape began with are what it ends with."""
    gpu = node.node.machine.gpus[1].uuid
    before = node.text()
    with closing(serve("127.0.0.1:0", lambda: node.sampler.snapshot)) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that most of it is still to be sent
        host, _, port = server.address.rpartition(":")
        client.connect((host, int(port)))
        client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = client.recv(100)
        node.host.nvml.set_mig_mode(gpu, enabled=True)
        node.host.nvml.create_gpu_instance(gpu, "3g.20gb", Placement(4, 4))
        node.observe()
        assert f'"{gpu}",GPU_I_PROFILE="3g.20gb"' in node.text()
        while part := client.recv(1 << 16):
            received += part
    assert received.partition(b"\r\n\r\n")[2].decode() == before
    node.host.nvml.destroy_gpu_instance(gpu, Placement(4, 4))
    node.host.nvml.set_mig_mode(gpu, enabled=False)
    node.observe()


class OneBadDevice(LocalFiles):
    """Files of which those of one RDMA device answer with an input/output error."""

    def read_optional(self, path: str) -> str | None:
        if "/infiniband/mlx5_3/ports/1/counters/" in path:
            raise HostError("read", path, "input/output error")
        return super().read_optional(path)


def test_an_rdma_device_that_fails_takes_no_other_with_it(node):
    host = replace(node.host, files=OneBadDevice(node.host.files.root))
    text = node.text(node.make(host))
    assert 'nodeagent_rdma_port_up{device="mlx5_2"' in text
    assert 'nodeagent_rdma_port_up{device="mlx5_3"' not in text
    assert text.count("\nDCGM_FI_DEV_GPU_TEMP{") == 8


class Unplugged(LocalFiles):
    """Files in which one RDMA device can be taken away."""

    gone = ""

    def names(self, path: str) -> tuple[str, ...]:
        return tuple(name for name in super().names(path) if name != self.gone)


def test_an_rdma_device_that_is_unplugged_goes_and_the_rest_stays(node):
    files = Unplugged(node.host.files.root)
    sampler = node.make(replace(node.host, files=files))
    assert 'device="mlx5_3"' in node.text(sampler)
    files.gone = "mlx5_3"
    text = node.text(sampler)
    assert 'device="mlx5_3"' not in text
    assert 'device="mlx5_2"' in text


def test_a_broken_list_of_counters_keeps_the_last_good_one(node):
    path = f"{node.host.files.root}/counters.csv"
    with open(path, "w") as file:
        file.write("DCGM_FI_DEV_GPU_TEMP, gauge, x\n")
    sampler = node.make(node.host, counters_file="/counters.csv")
    assert "DCGM_FI_DEV_SM_CLOCK" not in node.text(sampler)
    with open(path, "w") as file:
        file.write("DCGM_FI_DEV_SM_CLOCK gauge\n")
    text = node.text(sampler)
    assert "DCGM_FI_DEV_SM_CLOCK" not in text
    assert "DCGM_FI_DEV_GPU_TEMP{" in text
    assert 'nodeagent_cycle_errors_total{source="counters_file"} 1\n' in text


def test_access_between_gpus_is_read_only_where_it_is_asked_for(node):
    path = f"{node.host.files.root}/p2p.csv"
    with open(path, "w") as file:
        file.write("DCGM_EXP_P2P_STATUS, gauge, x\n")
    text = node.text(node.make(node.host, counters_file="/p2p.csv"))
    lines = [line for line in text.splitlines() if line.startswith("DCGM_EXP_P2P_STATUS{")]
    assert len(lines) == 8 * 7
    assert sum('link_status="OK"} 0' in line for line in lines) == len(lines)
    assert {re.search('peer_gpu="([0-9])"', line)[1] for line in lines} == set("01234567")


def test_a_hanging_driver_stops_the_gpu_values_and_nothing_else(node):
    first = node.text()
    node.node.machine.hang(None, "nvmlDeviceGetCount", 30)
    time.sleep(0.01)
    second = node.text()
    assert "DCGM_FI_DEV_GPU_TEMP{" in first
    assert "DCGM_FI_DEV_GPU_TEMP{" not in second
    assert 'nodeagent_cycle_errors_total{source="gpus"} 1\n' in second
    assert "nodeagent_rdma_port_up{" in second

    def stamp(text: str, name: str) -> float:
        return float(re.search(rf"^{name} (\S+)$", text, re.MULTILINE)[1])

    assert stamp(second, "nodeagent_snapshot_timestamp_seconds") > stamp(first, "nodeagent_snapshot_timestamp_seconds")
    name = "nodeagent_telemetry_timestamp_seconds"
    assert stamp(second, name) == stamp(first, name), "its age tells"
    node.node.machine.clear_faults()
    assert "DCGM_FI_DEV_GPU_TEMP{" in node.text()


def test_many_rounds_leave_memory_and_descriptors_as_they_are(node):
    """What grows with every round would show: 150 rounds of some 200 KB of text each."""
    for _ in range(30):
        node.sampler.take()
    gc.collect()
    worker = psutil.Process(node.host.nvml.pid())
    before = psutil.Process().memory_info().rss, worker.memory_info().rss
    descriptors = len(os.listdir("/proc/self/fd")), worker.num_fds()
    for _ in range(150):
        node.sampler.take()
    gc.collect()
    after = psutil.Process().memory_info().rss, worker.memory_info().rss
    assert after[0] - before[0] < 3 << 20
    assert after[1] - before[1] < 1 << 20
    assert (len(os.listdir("/proc/self/fd")), worker.num_fds()) == descriptors
