"""Programs of others on the NVML simulator, unmodified: nvitop's device API, its one-shot display and its exporter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request

import pytest

from listening import port_of
from nodeagent.simulation.machine import BoardAt, Machine
from nvml_client import Client

SLOTS = (BoardAt("A100-SXM4-80GB", "0000:07:00.0", 0), BoardAt("H100-80GB-HBM3", "0000:0f:00.0", 1))
A100, H100 = 0, 1
GIB = 1 << 30
SNAPSHOTS = """
import json, sys
from nvitop import Device, MigDevice, PhysicalDevice

def facts(device):
    shown = device.as_snapshot()
    keys = ("name", "uuid", "memory_total", "memory_used", "gpu_utilization", "temperature", "power_usage", "mig_mode")
    return {key: getattr(shown, key) for key in keys}

print(json.dumps({
    "driver": Device.driver_version(),
    "gpus": [facts(device) for device in PhysicalDevice.all()],
    "mig": [[(mig.name(), mig.uuid(), mig.gpu_instance_id(), mig.memory_total()) for mig in device.mig_devices()]
            for device in PhysicalDevice.all()],
    "leaves": len(Device.from_indices(None)) + len(MigDevice.all()),
    "processes": [sorted(device.processes()) for device in PhysicalDevice.all()],
    "links": [device.nvlink_link_count() for device in PhysicalDevice.all()],
}))
"""


@pytest.fixture
def machine(tmp_path):
    with Machine.create(str(tmp_path / "machine"), SLOTS, str(tmp_path), "580.95.05") as made:
        yield made


@pytest.fixture
def environment(machine):
    return {**os.environ, **machine.environment, "TERM": "dumb"}


@pytest.fixture
def cut(machine, environment):
    """Two instances on the H100; their MIG devices."""
    with Client(environment) as client:
        client.start()
        client("nvmlDeviceSetMigMode(g1, 1)")
        for number in (9, 14):
            compute = 2 if number == 9 else 1
            client(f"nvmlGpuInstanceCreateComputeInstance(nvmlDeviceCreateGpuInstance(g1, {number}), {compute})")
    return machine.mig_layout(machine.gpus[H100].uuid).rows


def run(environment, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def test_nvitop_reads_gpus_and_instances(machine, environment, cut):
    machine.start_process(machine.gpus[A100].uuid, os.getpid(), "train", 3 * GIB)
    machine.set_load(machine.gpus[A100].uuid, 60)
    shown = json.loads(run(environment, "-c", SNAPSHOTS))
    a100, h100 = shown["gpus"]
    assert shown["driver"] == "580.95.05"
    assert [gpu["uuid"] for gpu in shown["gpus"]] == [gpu.uuid for gpu in machine.gpus]
    assert (a100["name"], a100["memory_total"], a100["memory_used"]) == ("NVIDIA A100-SXM4-80GB", 80 * GIB, 3 * GIB)
    assert 56 <= a100["gpu_utilization"] <= 64
    assert (a100["mig_mode"], h100["mig_mode"]) == ("Disabled", "Enabled")
    assert h100["gpu_utilization"] == "N/A"  # the driver cannot say while MIG is on
    assert shown["processes"] == [[os.getpid()], []]
    assert shown["links"] == [12, 18]
    names = {row.uuid: (f"NVIDIA H100 80GB HBM3 MIG {row.profile}", row.gi_id) for row in cut}
    assert shown["mig"][A100] == []
    assert {uuid: (name, gi) for name, uuid, gi, _ in shown["mig"][H100]} == names


def test_nvitop_draws_its_table(environment, cut):
    table = run(environment, "-m", "nvitop", "--once", "--no-unicode")
    assert "A100-SXM4-80GB" in table
    assert "55W / 400W" in table
    assert "Enabled" in table
    assert all(row.profile in table for row in cut)


def test_nvitops_exporter_serves_the_gpus(machine, environment, cut):
    machine.set_load(machine.gpus[A100].uuid, 50)
    command = [sys.executable, "-u", "-m", "nvitop_exporter", "--port", "0", "--interval", "0.25"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as exporter:
        assert exporter.stderr is not None
        try:
            told = []
            while not any("Start the exporter" in line for line in told):
                told.append(exporter.stderr.readline())
                assert told[-1], told
            page = scrape(
                f"http://127.0.0.1:{port_of(exporter.pid)}/metrics",
                [machine.gpus[A100].uuid, *(row.uuid for row in cut)],
            )
        finally:
            exporter.kill()
    series = dict(re.findall(r"^(gpu_\w+)\{[^}]*" + machine.gpus[A100].uuid + r"[^}]*\} (\S+)$", page, re.MULTILINE))
    assert 46 <= float(series["gpu_utilization_Percentage"]) <= 54
    assert float(series["gpu_memory_total_MiB"]) == 80 * 1024


def scrape(address: str, wanted: list[str]) -> str:
    """The page once the exporter has measured all of these for the first time."""
    while True:
        with urllib.request.urlopen(address) as answer:
            page = answer.read().decode()
        if all(uuid in page for uuid in wanted):
            return str(page)
