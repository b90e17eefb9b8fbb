"""A whole simulated node: kernel, files and the GPUs behind NVML together."""

from __future__ import annotations

import os

import pytest

from nodeagent.errors import BusyError, GoneError, HostError, UsageError
from nodeagent.host.ports import Host
from nodeagent.simulation.node import SimulatedNode, open_node
from nodeagent.state.gpu import MigMode
from nodeagent.state.processes import DeviceNode
from sim_kernel import start_python

GIB = 1 << 30
CONTAINER = "c0ffee" * 10 + "abcd"
POD = "01234567-89ab-cdef-0123-456789abcdef"

UNPRIVILEGED = """
import os, sys
from nodeagent.simulation.node import open_node
from nodeagent.state.processes import DeviceNode
node = open_node("gpu-server-4x-a100", sys.argv[1])
host = node.host("in-process")
for file in host.kmod.lookup("nvidia_uvm"):
    host.kmod.load(file.name)
host.files.make_device_node(DeviceNode("/dev/nvidiactl", 195, 255))
host.files.make_device_node(DeviceNode("/dev/nvidia0", 195, 0))
assert len(host.nvml.gpus()[0]) == 4
assert [process.pid for process in host.processes.holding([195])] == [os.getpid()]
host.nvml.close()
host.kmod.unload("nvidia_uvm")
host.kmod.unload("nvidia")
with open("/proc/self/status") as file:
    assert "CapEff:\t0000000000000000" in file.read()
"""

STARTER = """
import sys
from nodeagent.simulation.node import open_node
print(len(open_node(sys.argv[2], sys.argv[1]).machine.gpus))
"""


@pytest.fixture
def node(tmp_path) -> SimulatedNode:
    return open_node("dgx-a100", str(tmp_path / "node"))


@pytest.fixture
def host(node):
    found = node.host("in-process")
    yield found
    found.nvml.close()


def load(node: SimulatedNode, host: Host, *names: str) -> None:
    for name in names:
        for file in host.kmod.lookup(name):
            if file.name not in node.kernel.state.modules:
                host.kmod.load(file.name, file.options)


def make_nodes(host: Host) -> None:
    host.files.make_device_node(DeviceNode("/dev/nvidiactl", 195, 255))
    for minor in range(8):
        host.files.make_device_node(DeviceNode(f"/dev/nvidia{minor}", 195, minor))


def test_driver_and_nvml_come_and_go_together(node, host):
    with pytest.raises(GoneError, match="driver is not loaded"):
        host.nvml.gpus()
    load(node, host, "nvidia")
    gpus, faults = host.nvml.gpus()
    assert (len(gpus), faults) == (8, ())
    shown = host.files.read(f"/proc/driver/nvidia/gpus/{gpus[0].pci_address}/information")
    assert gpus[0].uuid in shown
    assert gpus[0].product in shown
    host.nvml.release()
    host.kmod.unload("nvidia")
    with pytest.raises(GoneError):
        host.nvml.gpus()


def test_our_own_session_holds_the_driver(node, host):
    load(node, host, "nvidia")
    make_nodes(host)
    host.nvml.gpus()
    with pytest.raises(BusyError):
        host.kmod.unload("nvidia")
    host.nvml.release()
    host.kmod.unload("nvidia")


def test_job_is_seen_by_kernel_nvml_and_proc(node, host):
    with pytest.raises(UsageError, match="has no driver"):
        node.start_job(1, "train.py", GIB)
    load(node, host, "nvidia_uvm", "nvidia_peermem")
    pid = node.start_job(1, "train.py", 2 * GIB, CONTAINER, POD)
    assert pid > 4_000_000
    gpus, _ = host.nvml.gpus()
    assert [gpu.pids for gpu in gpus] == [(), (pid,), (), (), (), (), (), ()]
    (process,) = host.processes.holding([195])
    assert (process.pid, process.container, process.pod_uid) == (pid, CONTAINER, POD)
    with pytest.raises(BusyError):
        host.nvml.set_mig_mode(gpus[1].uuid, enabled=True)
    with pytest.raises(BusyError):
        host.kmod.unload("nvidia_uvm")
    node.register_memory(pid)
    assert host.files.read("/sys/module/nvidia_peermem/refcnt") == "1"
    with pytest.raises(BusyError):
        host.kmod.unload("nvidia_peermem")
    node.end_job(pid)
    assert host.nvml.gpus()[0][1].pids == ()
    host.kmod.unload("nvidia_peermem")
    host.kmod.unload("nvidia_uvm")


def test_jobs_that_cannot_be(node, host):
    load(node, host, "nvidia_uvm")
    with pytest.raises(BusyError):
        node.start_job(0, "huge", 400 * GIB)
    assert host.processes.holding([195]) == ()
    with pytest.raises(UsageError, match="0 to 7"):
        node.start_job(8, "train.py", GIB)
    with pytest.raises(UsageError, match="there is none"):
        node.end_job(17)
    pid = node.start_job(0, "train.py", GIB)
    with pytest.raises(UsageError, match="no peer memory module"):
        node.register_memory(pid)


def test_mig_device_runs_a_job(node, host):
    load(node, host, "nvidia_uvm")
    (gpu, *_), _ = host.nvml.gpus()
    host.nvml.set_mig_mode(gpu.uuid, enabled=True)
    (gpu, *_), _ = host.nvml.gpus()
    assert gpu.mig_mode is MigMode.ENABLED
    profile = next(profile for profile in gpu.profiles if profile.name == "1g.5gb")
    host.nvml.create_gpu_instance(gpu.uuid, profile.name, profile.placements[0])
    (instance,) = host.nvml.gpus()[0][0].instances
    device = instance.compute_instances[0].uuid
    pid = node.start_mig_job(0, device, "infer.py", GIB)
    assert host.nvml.gpus()[0][0].instances[0].pids == (pid,)
    with pytest.raises(BusyError):
        host.nvml.destroy_gpu_instance(gpu.uuid, instance.placement)
    node.end_job(pid)
    host.nvml.destroy_gpu_instance(gpu.uuid, instance.placement)


def test_node_is_adopted_with_everything_on_it(node, host):
    load(node, host, "nvidia_uvm", "mlx5_ib")
    pid = node.start_job(2, "train.py", GIB)
    again = open_node("dgx-a100", node.directory)
    assert again.kernel.state == node.kernel.state
    assert again.machine.driver_loaded
    again.end_job(pid)
    assert host.processes.holding([195]) == ()
    with pytest.raises(HostError, match="wanted is"):
        open_node("dgx-h100", node.directory)


def test_machine_catches_up_after_a_death_in_between(node, host):
    load(node, host, "nvidia_uvm")
    pid = node.start_job(0, "train.py", GIB)
    node.machine.set_driver_loaded(False)  # as if the process had died before the machine followed
    with open(f"{node.directory}/.simulation/shown", "w", encoding="ascii") as file:
        file.write("1")
    open_node("dgx-a100", node.directory)
    assert host.nvml.gpus()[0][0].pids == (pid,)


def test_interfaces_can_be_in_use(node, host):
    load(node, host, "mlx5_core")
    host.links.set_up("enp12s0np0", True)
    node.use_interface("enp12s0np0", "10.1.0.1/24")
    assert host.links.uses()["enp12s0np0"] == ("address 10.1.0.1/24",)
    with pytest.raises(UsageError, match="there is none"):
        node.use_interface("eth0", "10.1.0.1/24")


def test_two_processes_make_the_same_node_at_once(tmp_path):
    place = str(tmp_path / "node")
    starters = [start_python(STARTER, place, "dgx-h100") for _ in range(3)]
    assert [process.communicate()[0].strip() for process in starters] == ["8", "8", "8"]
    assert [process.returncode for process in starters] == [0, 0, 0]


def test_everything_works_without_privileges(tmp_path):
    """Root drops every capability first, so that it may do no more than the owner of the directory."""
    drop = ("setpriv", "--bounding-set=-all", "--inh-caps=-all") if os.getuid() == 0 else ()
    process = start_python(UNPRIVILEGED, str(tmp_path / "node"), before=drop)
    process.communicate()
    assert process.returncode == 0


def test_foreign_programs_see_the_gpus(node, host):
    load(node, host, "nvidia")
    program = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    process = start_python(program, environment=node.nvml_environment)
    assert process.communicate()[0].strip() == "8"
