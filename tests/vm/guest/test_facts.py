"""What the agent reads from a real kernel, against what the kernel says itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from nodeagent.errors import BusyError
from nodeagent.host.driver_facts import read_driver
from nodeagent.host.files import LocalFiles
from nodeagent.host.kernel_policy import PeerMemoryOwner, read_policy
from nodeagent.host.kmod import LibKmod
from nodeagent.host.link_facts import read_rdma
from nodeagent.host.module_facts import read_modules
from nodeagent.host.process_facts import read_device_nodes, read_majors
from nodeagent.host.processes import ProcProcesses
from nodeagent.state.modules import Liveness
from nodeagent.state.processes import DeviceNode, DeviceNumber
from vm.guest import kernel


def load(kmod: LibKmod, *names: str) -> None:
    for name in names:
        for file in kmod.lookup(name):
            if not file.builtin and file.name not in kernel.loaded():
                kmod.load(file.name, "hold=1" if file.name == "nvidia_uvm" else "")


def test_loaded_modules_with_references_holders_and_identity(kmod: LibKmod) -> None:
    load(kmod, "nvidia_uvm", "gdrdrv")
    found = read_modules(LocalFiles(), parameters_of=("nvidia", "nvidia_uvm"), builtin=("kernel",))
    assert {name for name, module in found.items() if module.liveness is Liveness.LIVE} == kernel.loaded()
    nvidia, uvm, file = found["nvidia"], found["nvidia_uvm"], kmod.file("nvidia")
    assert (nvidia.refcount, nvidia.holders, nvidia.foreign_references) == (2, ("gdrdrv", "nvidia_uvm"), 0)
    assert (uvm.refcount, uvm.holders, uvm.foreign_references) == (1, (), 1)
    assert file is not None
    assert (nvidia.version, nvidia.srcversion) == (file.version, file.srcversion)
    assert dict(nvidia.parameters)["EnableStreamMemOPs"] == "0"
    assert dict(uvm.parameters)["uvm_perf_prefetch_enable"] == "1"


def test_the_driver_and_its_majors(kmod: LibKmod) -> None:
    assert read_driver(LocalFiles()) is None
    load(kmod, "nvidia_uvm")
    driver = read_driver(LocalFiles())
    assert driver is not None
    assert (driver.version, driver.is_open) == ("595.45.04", True)
    assert [address for address, _ in driver.gpu_information] == ["0000:07:00.0", "0000:0f:00.0"]
    assert dict(driver.gpu_information[1][1])["Device Minor"] == "1"
    majors = read_majors(LocalFiles())
    assert (majors["nvidia"], majors["nvidia-uvm"]) == (195, kernel.major("nvidia-uvm"))


def test_the_policy_of_an_open_kernel() -> None:
    policy = read_policy(LocalFiles())
    assert policy.release == os.uname().release
    assert policy.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert (policy.lockdown, policy.signature_enforced, policy.modules_disabled) == ("none", False, False)


def test_the_owner_of_the_peer_memory_interface(kmod: LibKmod) -> None:
    files = LocalFiles()
    owner = PeerMemoryOwner(files)
    load(kmod, "ib_core")
    assert owner.among(read_modules(files)) == ""
    load(kmod, "nvidia_peermem")
    assert owner.among(read_modules(files)) == "ib_peer_mem"


def test_an_rdma_device_on_a_software_nic(kmod: LibKmod) -> None:
    load(kmod, "rdma_rxe", "dummy")
    for command in ("ip link add rdma0 type dummy", "ip link set rdma0 up", "rdma link add rxe0 type rxe netdev rdma0"):
        subprocess.run(command.split(), check=True)
    device = read_rdma(LocalFiles())["rxe0"]
    (port,) = device.ports
    assert (port.port, port.state, port.link_layer, port.netdev) == (1, "ACTIVE", "Ethernet", "rdma0")
    assert (device.node_guid.count(":"), device.pci_address) == (3, "")
    assert dict(port.counters)["sent_pkts"] >= 0
    with pytest.raises(BusyError):
        kmod.unload("ib_uverbs")
    subprocess.run(["rdma", "link", "delete", "rxe0"], check=True)
    subprocess.run(["ip", "link", "delete", "rdma0"], check=True)


def test_a_process_with_an_open_device_is_found_by_number(kmod: LibKmod) -> None:
    load(kmod, "nvidia")
    files = LocalFiles()
    files.make_device_node(DeviceNode("/dev/nvidia1", 195, 1, 0o600))
    assert read_device_nodes(files)["/dev/nvidia1"] == DeviceNode("/dev/nvidia1", 195, 1, 0o600)
    other_name = "/dev/nvidia-by-another-name"
    os.link("/dev/nvidia1", other_name)
    with kernel.open_device(other_name):
        assert kernel.references("nvidia") == 2  # one by the character device, one by its file operations
        (holder,) = ProcProcesses(files).holding((195,))
    assert holder.pid == os.getpid()
    assert holder.opens == (DeviceNumber(195, 1),)
    assert "pytest" in holder.command
    assert ProcProcesses(files).holding((195,)) == ()
