"""The simulated kernel loads and refuses modules as Linux does."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from nodeagent.errors import BusyError, DeniedError, HostError, UsageError
from nodeagent.host.driver_facts import read_driver
from nodeagent.host.kernel_policy import PeerMemoryOwner, read_policy
from nodeagent.host.module_facts import read_modules
from nodeagent.host.pci_facts import read_pci
from nodeagent.host.process_facts import read_device_nodes
from nodeagent.simulation.module_files import ModuleSource, write_tree
from nodeagent.simulation.module_table import PEER_SYMBOL
from nodeagent.simulation.ports import SimulatedProcesses
from nodeagent.simulation.profiles import RELEASE
from nodeagent.state.modules import Liveness
from nodeagent.state.processes import DeviceNode, DeviceNumber
from sim_kernel import (
    GPU_STACK,
    Rig,
    assert_consistent,
    errno_of,
    file_of,
    line_from,
    make_rig,
    open_rig,
    shown,
    start_python,
)

SYS = "/sys/bus/pci/devices"
FIRST_GPU = "0000:07:00.0"
CONTROL = DeviceNode("/dev/nvidiactl", 195, 255)

HOLDER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def rig(tmp_path) -> Rig:
    return make_rig(tmp_path / "node")


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


def test_a_switch_lets_go_of_the_driver_as_a_gpu_does(rig):
    """The driver of the GPUs drives NVSwitches as well, and they have no minor."""
    rig.load("nvidia")
    switch = rig.kernel.profile.switches[0].pci_address
    assert rig.kernel.state.drivers[switch] == "nvidia"
    rig.kernel.write(f"{SYS}/{switch}/driver/unbind", switch)
    assert switch not in rig.kernel.state.drivers
    rig.kernel.write("/sys/bus/pci/drivers/nvidia/bind", switch)
    assert rig.kernel.state.drivers[switch] == "nvidia"


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
