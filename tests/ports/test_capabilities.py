"""The capability files and device numbers of the driver in the simulated node, and who keeps a GPU from a reset."""

from __future__ import annotations

import os

import pytest

from nodeagent.host import paths
from nodeagent.simulation.node import SimulatedNode, open_node
from nodeagent.simulation.tree_capabilities import minor, minors
from nodeagent.state.processes import DeviceNode
from nvml_client import Client

CAPABILITIES = paths.PROC_NVIDIA_CAPABILITIES
GIB = 1 << 30
ACTIVE, HELD = 0, 19


@pytest.fixture
def node(tmp_path) -> SimulatedNode:
    return open_node("gpu-server-4x-a100", str(tmp_path / "node"))


@pytest.fixture
def host(node):
    found = node.host("in-process")
    yield found
    found.nvml.close()


def load(host, *names: str) -> None:
    for name in names:
        for file in host.kmod.lookup(name):
            if host.files.read_optional(f"/sys/module/{file.name}/initstate") is None:
                host.kmod.load(file.name, file.options)


@pytest.fixture
def client(node, host):
    load(host, "nvidia")
    with Client({**os.environ, **node.nvml_environment}) as opened:
        yield opened.start()


def below(files, path: str) -> list[str]:
    """Every file below a folder of the node."""
    if files.device_node(path) is None and (names := files.names(path)):
        return [found for name in names for found in below(files, f"{path}/{name}")]
    return [path.removeprefix(f"{CAPABILITIES}/")] if files.exists(path) else []


def test_without_the_driver_there_are_none(host):
    assert below(host.files, CAPABILITIES) == []
    load(host, "nvidia")
    assert below(host.files, CAPABILITIES) == ["mig/config", "mig/monitor"]
    assert host.files.read(f"{CAPABILITIES}/mig/config").splitlines() == [
        "DeviceFileMinor: 1",
        "DeviceFileMode: 256",
        "DeviceFileModify: 1",
    ]
    assert "DeviceFileMode: 292" in host.files.read(f"{CAPABILITIES}/mig/monitor")
    host.kmod.unload("nvidia")
    assert below(host.files, CAPABILITIES) == []


def test_they_follow_instances_that_another_process_makes(host, client):
    client("nvmlDeviceSetMigMode(g2, 1)")
    client("gi = nvmlDeviceCreateGpuInstanceWithPlacement(g2, 9, at(4, 4))")
    assert below(host.files, f"{CAPABILITIES}/gpu2") == ["gpu2/mig/gi2/access"]
    client("ci = nvmlGpuInstanceCreateComputeInstance(gi, 2)")
    assert below(host.files, f"{CAPABILITIES}/gpu2") == ["gpu2/mig/gi2/access", "gpu2/mig/gi2/ci0/access"]
    shown = host.files.read(f"{CAPABILITIES}/gpu2/mig/gi2/ci0/access")
    assert shown.startswith(f"DeviceFileMinor: {minor(2, 2, 0)}\n")
    client("nvmlComputeInstanceDestroy(ci)")
    assert not host.files.exists(f"{CAPABILITIES}/gpu2/mig/gi2/ci0/access")
    client("nvmlGpuInstanceDestroy(gi)")
    assert host.files.names(f"{CAPABILITIES}/gpu2") == ()


def test_minors_are_those_of_the_static_table(host):
    load(host, "nvidia")
    table = host.files.read(paths.PROC_NVIDIA_CAP_MINORS).splitlines()
    assert "\n".join(table) + "\n" == minors().text
    assert len(table) == 2 + 32 * 15 * 9
    assert table[:4] == ["config 1", "monitor 2", "gpu0/gi0/access 3", "gpu0/gi0/ci0/access 4"]
    assert f"gpu2/gi2/ci0/access {minor(2, 2, 0)}" in table
    assert table[-1] == "gpu31/gi14/ci7/access 4322"


def test_their_nodes_are_user_spaces_business(host):
    load(host, "nvidia")
    majors = dict(line.split()[::-1] for line in host.files.read(paths.PROC_DEVICES).splitlines() if "nvidia" in line)
    path = f"{paths.DEV_NVIDIA_CAPS}/nvidia-cap1"
    assert host.files.device_node(path) is None
    host.files.make_device_node(DeviceNode(path, int(majors["nvidia-caps"]), 1, 0o400))
    found = host.files.device_node(path)
    assert found is not None
    assert (found.major, found.minor, found.mode) == (int(majors["nvidia-caps"]), 1, 0o400)


def test_a_daemon_stands_in_the_way_of_a_reset(node, host, client):
    host.services.start("nvidia-persistenced")
    assert client("nvmlDeviceSetMigMode(g0, 1)") == HELD
    host.services.stop("nvidia-persistenced")
    host.services.start("nvidia-fabricmanager")  # may run: it is meant to
    assert client("nvmlDeviceSetMigMode(g0, 1)") == ACTIVE


def test_the_display_driver_stands_in_the_way_of_a_reset(node, host, client):
    load(host, "nvidia_drm")
    assert client("nvmlDeviceSetMigMode(g3, 1)") == HELD
    assert client("nvmlDeviceGetMigMode(g3)") == [0, 1]
    host.kmod.unload("nvidia_drm")
    assert client("nvmlDeviceSetMigMode(g3, 1)") == ACTIVE
