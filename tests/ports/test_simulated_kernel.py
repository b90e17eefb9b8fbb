"""The simulated kernel refuses as Linux refuses, shows what it does, and survives being killed at any moment."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from dataclasses import replace

import pytest

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError, UsageError
from nodeagent.host.driver_facts import read_driver
from nodeagent.host.kernel_log import KmsgLog
from nodeagent.host.kernel_policy import PeerMemoryOwner, read_policy
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.module_facts import read_modules
from nodeagent.host.pci_facts import read_pci
from nodeagent.host.process_facts import read_device_nodes, read_majors
from nodeagent.simulation.kernel import SimKernel
from nodeagent.simulation.module_files import ModuleSource, write_tree
from nodeagent.simulation.module_table import PEER_SYMBOL, symbol_crc
from nodeagent.simulation.ports import SimulatedLinks, SimulatedProcesses, SimulatedServices
from nodeagent.simulation.profiles import RELEASE
from nodeagent.simulation.tree import TreeWriter, render
from nodeagent.simulation.tree_entry import Tree
from nodeagent.state.modules import Liveness, ModuleFile
from nodeagent.state.processes import DeviceNode, DeviceNumber
from sim_kernel import GPU_STACK, Rig, line_from, make_rig, open_rig, start_python

SYS = "/sys/bus/pci/devices"
FIRST_GPU = "0000:07:00.0"
CONTROL = DeviceNode("/dev/nvidiactl", 195, 255)

HOLDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
sys.stdin.readline()
"""

WALKER = """
import random, sys
from sim_kernel import open_rig
from nodeagent.errors import HostError
rig, walk = open_rig(sys.argv[1]), random.Random(int(sys.argv[2]))
names = ("nvidia", "nvidia_uvm", "mlx_compat", "ib_core", "dummy", "gdrdrv", "mlxfw", "video")
print("ready", flush=True)
for _ in range(int(sys.argv[3])):
    name = walk.choice(names)
    try:
        (rig.kmod.unload if walk.random() < 0.5 else rig.kmod.load)(name)
    except HostError:
        pass
"""


@pytest.fixture
def rig(tmp_path) -> Rig:
    return make_rig(tmp_path / "node")


def errno_of(call, *arguments) -> int:
    with pytest.raises(OSError) as caught:
        call(*arguments)
    return caught.value.errno


def file_of(rig: Rig, name: str) -> ModuleFile:
    found = rig.kmod.file(name)
    assert found is not None
    return found


def shown(directory: str) -> dict[str, str]:
    """Every file, link and placeholder that the kernel shows, with its text."""
    found = {}
    for root in ("sys", "proc", "dev/infiniband"):
        for folder, names, files in os.walk(os.path.join(directory, root)):
            for name in (*files, *(name for name in names if os.path.islink(os.path.join(folder, name)))):
                path = os.path.join(folder, name)
                found[path[len(directory) :]] = os.readlink(path) if os.path.islink(path) else open_text(path)
    return found


def open_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def expected(kernel: SimKernel) -> set[str]:
    tree: Tree = render(kernel.profile, kernel.state, {})
    return {path for path in tree if path.startswith(("/sys", "/proc", "/dev/infiniband"))}


def assert_consistent(rig: Rig) -> None:
    """The tree on disk is the rendering of the state, file by file."""
    tree = render(rig.kernel.profile, rig.kernel.state, {})
    disk = shown(rig.directory)
    assert set(disk) == expected(rig.kernel)
    for path, entry in tree.items():
        if path in disk and entry.node is None:
            assert disk[path] == (entry.link or entry.text), path


# Loading.


def test_the_whole_stack_loads_in_the_order_libkmod_gives(rig):
    rig.load("mlx5_ib", "rdma_ucm", "ib_umad", *GPU_STACK, "nvidia_drm", "nvidia_fs")
    modules = read_modules(rig.files, parameters_of={"nvidia"})
    assert modules["nvidia"].liveness is Liveness.LIVE
    assert "nvidia_peermem" in modules["nvidia"].holders
    assert "nvidia_peermem" in modules["ib_core"].holders
    assert dict(modules["nvidia"].parameters)["RestrictProfilingToAdminUsers"] == "1"
    assert_consistent(rig)


def test_nothing_remains_when_everything_is_removed(rig):
    before = shown(rig.directory)
    rig.load("mlx5_ib", *GPU_STACK)
    for name in sorted(rig.kernel.state.modules, key=lambda name: -rig.kernel.state.modules[name].serial):
        if name != "igb":
            rig.kmod.unload(name)
    after = shown(rig.directory)
    changes = {path for path in before | after if before.get(path) != after.get(path)}
    assert changes == set()


def test_version_and_srcversion_are_those_of_the_file(rig):
    rig.load("nvidia")
    file, module = file_of(rig, "nvidia"), read_modules(rig.files)["nvidia"]
    assert (module.version, module.srcversion) == (file.version, file.srcversion) == ("550.90.07", file.srcversion)


# Refusals of finit_module.


def test_missing_dependency_is_an_unknown_symbol(rig):
    assert errno_of(rig.kernel.insert, file_of(rig, "nvidia_uvm"), "") == errno.ENOENT
    assert rig.log()[-1] == "nvidia_uvm: Unknown symbol nvUvmInterfaceRegisterGpu (err -2)"
    with pytest.raises(HostError, match="Unknown symbol nvUvmInterfaceRegisterGpu"):
        rig.kmod.load("nvidia_uvm")


def test_foreign_vermagic_is_named(rig):
    write_tree(rig.directory, RELEASE, [ModuleSource("elsewhere", vermagic="5.10.0-8-amd64 SMP mod_unload ")])
    assert errno_of(rig.kernel.insert, file_of(rig, "elsewhere"), "") == errno.ENOEXEC
    assert "version magic '5.10.0-8-amd64 SMP mod_unload' should be" in rig.log()[-1].replace(" ' should", "' should")


def test_other_symbol_version_is_refused(rig):
    rig.load("nvidia")
    uvm = file_of(rig, "nvidia_uvm")
    other = replace(uvm, imports=((uvm.imports[0][0], 0x1234),))
    assert errno_of(rig.kernel.insert, other, "") == errno.EINVAL
    assert "nvidia_uvm: disagrees about version of symbol nvUvmInterfaceRegisterGpu" in rig.log()


def test_bad_parameter_value_and_unknown_parameter(rig):
    nvidia = file_of(rig, "nvidia")
    assert errno_of(rig.kernel.insert, nvidia, "NVreg_EnableMSI=often") == errno.EINVAL
    assert rig.log()[-1] == "nvidia: `often' invalid for parameter `NVreg_EnableMSI'"
    rig.kernel.insert(nvidia, 'NVreg_NoSuchThing=1 NVreg_EnableMSI=0x0 NVreg_RegistryDwords="a=1;b=2"')
    assert "nvidia: unknown parameter 'NVreg_NoSuchThing' ignored" in rig.log()
    driver = read_driver(rig.files)
    assert driver is not None
    assert dict(driver.parameters)["EnableMSI"] == "0"
    assert dict(driver.parameters)["RegistryDwords"] == "a=1;b=2"


def test_second_load_and_missing_file(rig):
    rig.load("nvidia")
    assert errno_of(rig.kernel.insert, file_of(rig, "nvidia"), "") == errno.EEXIST
    assert errno_of(rig.kernel.insert, replace(file_of(rig, "dummy"), path="/nowhere.ko"), "") == errno.ENOENT


@pytest.mark.parametrize("liveness", [Liveness.COMING, Liveness.GOING])
def test_module_that_hangs_is_busy_both_ways(rig, liveness):
    rig.load("dummy")
    rig.kernel.set_liveness("dummy", liveness)
    assert errno_of(rig.kernel.insert, file_of(rig, "dummy"), "") == errno.EBUSY
    assert errno_of(rig.kernel.remove, "dummy") == errno.EBUSY
    assert read_modules(rig.files)["dummy"].liveness is liveness


@pytest.mark.parametrize(
    ("change", "number", "line"),
    [
        ({"signature_enforced": True}, errno.EKEYREJECTED, "Loading of unsigned module is rejected"),
        ({"lockdown": "integrity"}, errno.EPERM, "Lockdown: modprobe: unsigned module loading is restricted"),
        ({"command_line": "ro module_blacklist=floppy,nvidia"}, errno.EPERM, "Module nvidia is blacklisted"),
        ({"modules_disabled": True}, errno.EPERM, ""),
    ],
)
def test_policy_refuses(rig, change, number, line):
    rig.kernel.set_policy(replace(rig.kernel.state.policy, **change))
    assert errno_of(rig.kernel.insert, file_of(rig, "nvidia"), "") == number
    assert line in "".join(rig.log())
    policy = read_policy(rig.files)
    assert (policy.lockdown != "none", policy.signature_enforced, policy.modules_disabled) == (
        "lockdown" in change,
        "signature_enforced" in change,
        "modules_disabled" in change,
    )
    with pytest.raises(DeniedError):
        rig.kmod.load("nvidia")


def test_nvidia_finds_no_gpu_while_nouveau_has_them(rig):
    for name in ("drm", "drm_kms_helper", "ttm", "i2c_core", "video"):
        rig.load(name)
    rig.kmod.load("nouveau")
    assert read_pci(rig.files)[FIRST_GPU].driver == "nouveau"
    assert errno_of(rig.kernel.insert, file_of(rig, "nvidia"), "") == errno.ENODEV
    assert "NVRM: The NVIDIA probe routine was not called for 8 device(s)." in rig.log()
    rig.kmod.unload("nouveau")
    rig.kmod.load("nvidia")
    assert read_pci(rig.files)[FIRST_GPU].driver == "nvidia"


def test_nouveau_without_modeset_takes_nothing(rig):
    rig.load("nouveau")  # the profile's configuration says modeset=0
    assert read_pci(rig.files)[FIRST_GPU].driver == ""


def test_peer_memory_needs_the_interface_and_excludes_its_twin(tmp_path, rig):
    rig.load("nvidia_peermem")
    assert errno_of(rig.kernel.insert, file_of(rig, "nv_peer_mem"), "") == errno.EINVAL
    assert PeerMemoryOwner(rig.files).among(read_modules(rig.files)) == "ib_core"
    plain = make_rig(tmp_path / "plain", "gpu-server-4x-a100")
    plain.load("nvidia", "ib_core")
    lines = plain.log()
    assert errno_of(plain.kernel.insert, file_of(plain, "nvidia_peermem"), "") == errno.EINVAL
    assert plain.log() == lines, "the real module says nothing"
    assert errno_of(plain.kernel.insert, file_of(plain, "nv_peer_mem"), "") == errno.ENOENT
    assert PEER_SYMBOL in plain.log()[-1]


def test_storage_module_refuses_a_proprietary_driver(rig):
    proprietary = replace(file_of(rig, "nvidia"), license="NVIDIA")
    rig.kernel.insert(proprietary, "")
    assert errno_of(rig.kernel.insert, file_of(rig, "nvidia_fs"), "") == errno.ENOENT
    assert "from proprietary module nvidia" in "".join(rig.log())
    driver = read_driver(rig.files)
    assert driver is not None
    assert not driver.is_open


# Refusals of delete_module.


def test_removal_waits_for_dependents(rig):
    rig.load("nvidia_uvm")
    assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN
    with pytest.raises(BusyError):
        rig.kmod.unload("nvidia")
    assert errno_of(rig.kernel.remove, "never_loaded") == errno.ENOENT


def test_open_device_of_another_process_holds_its_module(rig):
    rig.load("nvidia")
    rig.files.make_device_node(CONTROL)
    holder = start_python(HOLDER, rig.directory + CONTROL.path)
    with holder:
        assert line_from(holder) == "open"
        assert read_modules(rig.files)["nvidia"].refcount == 1
        assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN
        (found,) = SimulatedProcesses(rig.kernel).holding([195])
        assert (found.pid, found.opens) == (holder.pid, (DeviceNumber(195, 255),))
        holder.communicate("done\n")
    assert read_modules(rig.files)["nvidia"].refcount == 0
    assert SimulatedProcesses(rig.kernel).holding([195]) == ()
    rig.kernel.remove("nvidia")


def test_device_stays_held_after_its_node_is_replaced_or_removed(rig):
    rig.load("nvidia")
    rig.files.make_device_node(CONTROL)
    descriptor = os.open(rig.directory + CONTROL.path, os.O_RDWR)
    rig.files.make_device_node(replace(CONTROL, mode=0o660))
    rig.files.remove(CONTROL.path)
    assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN
    os.close(descriptor)
    rig.kernel.remove("nvidia")


def test_equal_node_keeps_its_inode_and_looking_opens_nothing(rig):
    rig.load("nvidia")
    rig.files.make_device_node(CONTROL)
    place = rig.directory + CONTROL.path
    before = os.stat(place).st_ino
    rig.files.make_device_node(CONTROL)
    assert os.stat(place).st_ino == before
    assert read_device_nodes(rig.files)[CONTROL.path] == CONTROL
    assert os.readlink(f"{rig.directory}/dev/char/195:255") == "../nvidiactl"


def test_owner_of_a_node_is_kept_without_privileges(rig):
    owned = DeviceNode("/dev/nvidia0", 195, 0, 0o660, 1000, 44)
    rig.files.make_device_node(owned)
    assert rig.files.device_node("/dev/nvidia0") == owned


def test_placeholder_written_by_hand_counts(rig):
    with open(f"{rig.directory}/dev/nvidia3", "w", encoding="ascii") as file:
        file.write("c 195 3 0666 0 0\n")
    assert rig.files.device_node("/dev/nvidia3") == DeviceNode("/dev/nvidia3", 195, 3, 0o666)
    rig.load("nvidia")
    with open(f"{rig.directory}/dev/nvidia3", "rb"):
        assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN


def test_pinned_reference_has_no_holder(rig):
    rig.load("nvidia")
    rig.kernel.pin("nvidia", 2)
    found = read_modules(rig.files)["nvidia"]
    assert (found.refcount, found.holders, found.foreign_references) == (2, (), 2)
    assert errno_of(rig.kernel.remove, "nvidia") == errno.EAGAIN
    rig.kernel.clear_faults()
    rig.kernel.remove("nvidia")
    with pytest.raises(UsageError):
        rig.kernel.pin("nvidia")


def test_storage_module_takes_hidden_references(rig):
    rig.load("nvme_rdma", "nvidia_fs")
    found = read_modules(rig.files)["nvme_rdma"]
    assert (found.refcount, found.holders) == (1, ())


@pytest.mark.parametrize("operation", ["insert", "remove"])
def test_faults_strike_as_often_as_asked(rig, operation):
    other = open_rig(rig.directory)
    if operation == "remove":
        rig.load("dummy")
    other.kernel.fail(operation, "dummy", errno.EIO, count=2, lines=("dummy: broken on demand",))
    call = {
        "insert": lambda: rig.kernel.insert(file_of(rig, "dummy"), ""),
        "remove": lambda: rig.kernel.remove("dummy"),
    }
    assert [errno_of(call[operation]), errno_of(call[operation])] == [errno.EIO, errno.EIO]
    assert rig.log().count("dummy: broken on demand") == 2
    call[operation]()
    with pytest.raises(UsageError):
        rig.kernel.fail("explode", "dummy", errno.EIO)


# What comes and goes with modules.


def test_dynamic_major_changes_over_a_reload(rig):
    rig.load("nvidia_uvm")
    first = read_majors(rig.files)["nvidia-uvm"]
    rig.kmod.unload("nvidia_uvm")
    assert "nvidia-uvm" not in read_majors(rig.files)
    rig.load("nvidia_uvm")
    assert read_majors(rig.files)["nvidia-uvm"] != first


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


# Several processes, and sudden death.


def test_two_processes_change_one_node_at_once(rig):
    walkers = [start_python(WALKER, rig.directory, str(seed), "25") for seed in (1, 2)]
    for walker in walkers:
        walker.communicate()
        assert walker.returncode == 0
    assert_consistent(open_rig(rig.directory))


def test_kill_at_any_moment_leaves_a_node_that_recovers(rig):
    chance = random.Random(7)
    for seed in range(6):
        walker = start_python(WALKER, rig.directory, str(seed), "1000000")
        with walker:
            assert line_from(walker) == "ready"
            time.sleep(chance.uniform(0.01, 0.3))
            walker.send_signal(signal.SIGKILL)
        again = open_rig(rig.directory)
        assert_consistent(again)
        again.kernel.log(f"round {seed}")
        assert_consistent(again)


def test_death_between_state_and_tree_is_made_good(rig):
    state = rig.kernel.state
    rig.load("dummy")
    newer = rig.kernel.state
    writer = TreeWriter(rig.directory, f"{rig.directory}/.simulation/scratch")
    tree = render(rig.kernel.profile, state, {})
    writer.update(render(rig.kernel.profile, newer, {}), tree)
    with open(f"{rig.directory}/.simulation/shown", "w", encoding="ascii") as file:
        file.write(str(newer.generation - 1))
    assert_consistent(open_rig(rig.directory))


def test_unchanged_files_are_not_touched(rig):
    rig.load("mlx5_core")
    place = f"{rig.directory}/sys/class/net/enp12s0np0/mtu"
    before = os.stat(place)
    rig.load("dummy", "nvidia")
    after = os.stat(place)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_importer_and_exporter_agree_about_versions(rig):
    assert dict(file_of(rig, "nvidia_peermem").imports)[PEER_SYMBOL] == symbol_crc(PEER_SYMBOL)
