"""What the simulated node shows follows its modules; its files, links and services refuse as the real ones do."""

from __future__ import annotations

import errno
import os
import subprocess
import time

import pytest

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.driver_facts import read_driver
from nodeagent.host.kernel_log import KmsgLog
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.module_facts import read_modules
from nodeagent.host.pci_facts import read_pci
from nodeagent.host.process_facts import read_device_nodes, read_majors
from nodeagent.simulation.ports import SimulatedLinks, SimulatedProcesses, SimulatedServices
from nodeagent.state.processes import DeviceNode
from sim_kernel import (
    Rig,
    assert_consistent,
    errno_of,
    make_rig,
)

SYS = "/sys/bus/pci/devices"
FIRST_GPU = "0000:07:00.0"
CONTROL = DeviceNode("/dev/nvidiactl", 195, 255)


@pytest.fixture
def rig(tmp_path) -> Rig:
    return make_rig(tmp_path / "node")


# What comes and goes with modules.


def test_dynamic_major_changes_over_a_reload(rig):
    rig.load("nvidia_uvm")
    first = read_majors(rig.files)["nvidia-uvm"]
    rig.kmod.unload("nvidia_uvm")
    assert "nvidia-uvm" not in read_majors(rig.files)
    rig.load("nvidia_uvm")
    assert read_majors(rig.files)["nvidia-uvm"] != first


def test_kmod_itself_reads_the_modules(rig):
    """The real program over the tree: it wants holders/ of every module, also of one that nobody uses."""
    rig.load("rdma_ucm", "nvidia_uvm")
    rig.kmod.unload("rdma_ucm")
    mounts = f'for part in proc sys; do mount --bind "{rig.directory}/$part" /$part; done; exec kmod list'
    namespaces = ["--mount"] if os.geteuid() == 0 else ["--mount", "--user", "--map-root-user"]
    done = subprocess.run(["unshare", *namespaces, "sh", "-c", mounts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    modules = read_modules(rig.files)
    listed = {row[0]: (int(row[2]), set(",".join(row[3:]).split(",")) - {""}) for row in rows}
    assert listed == {name: (module.refcount, set(module.holders)) for name, module in modules.items()}
    assert [name for name, module in modules.items() if not rig.files.exists(f"/sys/module/{name}/holders")] == []
    rig.kmod.unload("nvidia_uvm")
    assert rig.files.exists("/sys/module/nvidia/holders")
    rig.kmod.unload("nvidia")
    assert not rig.files.exists("/sys/module/nvidia")
    assert_consistent(rig)


def test_driver_makes_no_nodes_but_shows_its_gpus(rig):
    rig.load("nvidia")
    assert not [name for name in rig.files.names("/dev") if name.startswith("nvidia")]
    driver = read_driver(rig.files)
    assert driver is not None
    assert (driver.version, driver.is_open, len(driver.gpu_information)) == ("550.90.07", True, 8)
    assert dict(dict(driver.gpu_information)[FIRST_GPU])["Device Minor"] == "0"
    rig.kmod.unload("nvidia")
    assert read_driver(rig.files) is None


def test_nics_appear_with_their_driver_and_rdma_with_both(rig):
    assert set(read_netdevs(rig.files, {})) == {"lo", "enp226s0"}
    rig.load("mlx5_core")
    netdev = read_netdevs(rig.files, {})["enp12s0np0"]
    assert (netdev.pci_address, netdev.driver, netdev.mtu, netdev.up) == ("0000:0c:00.0", "mlx5_core", 1500, False)
    assert not read_rdma(rig.files)
    rig.load("mlx5_ib", "ib_umad", "rdma_ucm")
    devices = read_rdma(rig.files)
    assert len(devices) == 12
    assert (devices["mlx5_0"].pci_address, devices["mlx5_0"].ports[0].link_layer) == ("0000:0c:00.0", "Ethernet")
    assert devices["mlx5_0"].ports[0].netdev == "enp12s0np0"
    nodes = read_device_nodes(rig.files)
    assert nodes["/dev/infiniband/uverbs0"].minor == 192
    assert "/dev/infiniband/rdma_cm" in nodes
    rig.kmod.unload("mlx5_ib")
    assert not read_rdma(rig.files)
    rig.kmod.unload("mlx5_core")
    assert set(read_netdevs(rig.files, {})) == {"lo", "enp226s0"}


def test_open_verbs_device_holds_ib_uverbs_not_mlx5_ib(rig):
    rig.load("mlx5_ib")
    with open(f"{rig.directory}/dev/infiniband/uverbs0", "rb"):
        rig.kernel.remove("mlx5_ib")
        assert errno_of(rig.kernel.remove, "ib_uverbs") == errno.EAGAIN


def test_ip_over_infiniband_needs_three_modules(tmp_path):
    rig = make_rig(tmp_path / "h100", "dgx-h100")
    rig.load("mlx5_ib")
    assert "ibp41s0f0" not in read_netdevs(rig.files, {})
    rig.load("ib_ipoib")
    assert read_netdevs(rig.files, {})["ibp41s0f0"].mtu == 4092
    assert read_rdma(rig.files)["mlx5_1"].ports[0].state == "ACTIVE"
    rig.kmod.unload("mlx5_ib")
    assert "ibp41s0f0" not in read_netdevs(rig.files, {})


def test_port_follows_its_link_and_counters_move(rig):
    rig.load("mlx5_ib")
    links = SimulatedLinks(rig.kernel)
    assert read_rdma(rig.files)["mlx5_0"].ports[0].state == "DOWN"
    links.set_up("enp12s0np0", up=True)
    port = read_rdma(rig.files)["mlx5_0"].ports[0]
    assert port.state == "ACTIVE"
    time.sleep(0.01)
    later = dict(read_rdma(rig.files)["mlx5_0"].ports[0].counters)
    assert later["port_xmit_data"] > dict(port.counters)["port_xmit_data"] > 0


# Links, services, attributes.


def test_mtu_limits_and_unknown_interface(rig):
    rig.load("mlx5_core")
    links = SimulatedLinks(rig.kernel)
    links.set_mtu("enp12s0np0", 9000)
    assert read_netdevs(rig.files, links.uses())["enp12s0np0"].mtu == 9000
    for mtu in (67, 9979):
        with pytest.raises(UnsupportedError):
            links.set_mtu("enp12s0np0", mtu)
    with pytest.raises(GoneError):
        links.set_up("enp99s0", up=True)
    assert links.limits()["enp12s0np0"] == (68, 9978)
    assert "default route" in links.uses()["enp226s0"]


def test_carrier_of_a_link_that_is_down_has_no_value(rig):
    rig.load("mlx5_core")
    with pytest.raises(UnsupportedError):
        rig.files.read("/sys/class/net/enp12s0np0/carrier")
    assert rig.files.read_optional("/sys/class/net/enp12s0np0/carrier") is None


def test_services_hold_the_gpus(rig):
    services = SimulatedServices(rig.kernel)
    assert services.show(["nvidia-persistenced", "no-such.service"])[0].active is False
    with pytest.raises(HostError, match="driver is not loaded"):
        services.start("nvidia-persistenced.service")
    rig.load("nvidia")
    services.start("nvidia-persistenced.service")
    (unit,) = services.show(["nvidia-persistenced.service"])
    (holder,) = SimulatedProcesses(rig.kernel).holding([195])
    assert (unit.pids, holder.unit) == ((holder.pid,), "nvidia-persistenced.service")
    assert len(holder.opens) == 9
    assert SimulatedProcesses(rig.kernel).describe([holder.pid])[0].command.startswith("/usr/bin/nvidia-persistenced")
    assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN
    services.stop("nvidia-persistenced")
    rig.kernel.remove("nvidia")
    with pytest.raises(GoneError):
        services.start("no-such.service")


def test_binding_follows_the_rules_of_the_pci_bus(rig):
    rig.load("nvidia", "vfio_pci")
    rig.files.write(f"{SYS}/{FIRST_GPU}/driver/unbind", FIRST_GPU)
    rig.files.write(f"{SYS}/{FIRST_GPU}/driver_override", "vfio-pci")
    with pytest.raises(GoneError):
        rig.files.write("/sys/bus/pci/drivers/nvidia/bind", FIRST_GPU)
    rig.files.write("/sys/bus/pci/drivers_probe", FIRST_GPU)
    assert read_pci(rig.files)[FIRST_GPU].driver == "vfio-pci"
    assert read_pci(rig.files)[FIRST_GPU].driver_override == "vfio-pci"
    with pytest.raises(BusyError):
        rig.files.write("/sys/bus/pci/drivers/vfio-pci/bind", FIRST_GPU)
    assert_consistent(rig)


def test_unbinding_a_gpu_in_use_does_not_return(rig):
    rig.load("nvidia")
    rig.files.make_device_node(DeviceNode("/dev/nvidia0", 195, 0))
    with open(f"{rig.directory}/dev/nvidia0", "rb"):
        rig.files.write(f"/proc/driver/nvidia/gpus/{FIRST_GPU}/unbindLock", "1")
        assert rig.files.read(f"/proc/driver/nvidia/gpus/{FIRST_GPU}/unbindLock") == "0"
        with pytest.raises(DeadlineError):
            rig.files.write(f"{SYS}/{FIRST_GPU}/driver/unbind", FIRST_GPU)
    rig.files.write(f"/proc/driver/nvidia/gpus/{FIRST_GPU}/unbindLock", "1")
    assert rig.files.read(f"/proc/driver/nvidia/gpus/{FIRST_GPU}/unbindLock") == "1"


def test_virtual_function_counts_refuse_as_sysfs_does(rig):
    path = f"{SYS}/0000:0c:00.0/sriov_numvfs"
    with pytest.raises(GoneError):
        rig.files.write(path, "2")
    rig.load("mlx5_core")
    rig.files.write(path, "2")
    with pytest.raises(BusyError):
        rig.files.write(path, "4")
    with pytest.raises(UnsupportedError, match="range"):
        rig.files.write(path, "99")
    rig.files.write(path, "0")
    rig.files.write(path, "4")
    assert rig.files.read(path) == "4"


def test_files_of_the_kernel_that_cannot_be_written(rig):
    with pytest.raises(DeniedError):
        rig.files.write(f"{SYS}/{FIRST_GPU}/vendor", "0x1234")
    with pytest.raises(GoneError):
        rig.files.write("/sys/module/no_such/parameters/x", "1")
    with pytest.raises(UnsupportedError):
        rig.files.write("/proc/sys/kernel/modules_disabled", "0")
    rig.files.write("/proc/sys/kernel/modules_disabled", "1")
    assert rig.kernel.state.policy.modules_disabled


def test_log_is_read_by_the_real_reader(rig):
    log = KmsgLog(rig.directory)
    mark = log.mark()
    rig.kernel.log("NVRM: Xid (PCI:0000:07:00): 79, GPU has fallen off the bus.")
    assert log.since(mark) == ("NVRM: Xid (PCI:0000:07:00): 79, GPU has fallen off the bus.",)
