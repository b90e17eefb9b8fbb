"""Modules, driver, PCI functions and kernel policy read from small machine trees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.host.driver_facts import parse_version, read_driver
from nodeagent.host.files import LocalFiles
from nodeagent.host.kernel_policy import (
    PeerMemoryOwner,
    find_peer_memory_owner,
    parse_blacklist,
    parse_lockdown,
    read_policy,
)
from nodeagent.host.module_facts import parse_refcount, read_modules
from nodeagent.host.pci_facts import is_relevant, parse_numa_node, read_pci
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness
from nodeagent.state.network import PciFunction
from trees import make_tree

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024"
PARAMS = 'ModifyDeviceFiles: 1\nDeviceFileMode: 438\nRmProfilingAdminOnly: 0\nRegistryDwords: ""'
INFORMATION = "Model: \t\t NVIDIA A100\nGPU UUID: \t GPU-1\nDevice Minor: \t 0"
NVIDIA = {
    "/sys/module/nvidia/initstate": "live",
    "/sys/module/nvidia/refcnt": "5",
    "/sys/module/nvidia/holders/nvidia_uvm/x": "",
    "/sys/module/nvidia/version": "550.54.15",
    "/sys/module/nvidia/srcversion": "ABCDEF",
    "/sys/module/nvidia/taint": "OE",
    "/proc/driver/nvidia/version": CLOSED,
    "/proc/driver/nvidia/params": PARAMS,
    "/proc/driver/nvidia/gpus/0000:3B:00.0/information": INFORMATION,
}
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86  Release Build  (dvs@host)  Thu Jan 23"


def test_modules_have_holders_versions_and_parameters_where_asked(tmp_path: Path) -> None:
    modules = read_modules(make_tree(tmp_path, NVIDIA), parameters_of=("nvidia",))
    assert modules == {
        "nvidia": KernelModule(
            "nvidia",
            Liveness.LIVE,
            5,
            ("nvidia_uvm",),
            "550.54.15",
            "ABCDEF",
            (
                ("DeviceFileMode", "438"),
                ("ModifyDeviceFiles", "1"),
                ("RegistryDwords", ""),
                ("RestrictProfilingToAdminUsers", "0"),
                ("RmProfilingAdminOnly", "0"),
            ),
            "OE",
        )
    }
    assert modules["nvidia"].foreign_references == 4


def test_parameters_are_read_only_where_asked(tmp_path: Path) -> None:
    texts = {"/sys/module/ib_core/initstate": "live", "/sys/module/ib_core/parameters/netns_mode": "Y"}
    files = make_tree(tmp_path, texts)
    assert read_modules(files)["ib_core"].parameters == ()
    assert read_modules(files, parameters_of=("ib_core",))["ib_core"].parameters == (("netns_mode", "Y"),)


def test_built_in_code_appears_only_when_asked_for(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/sys/module/tcp_cubic/version": "2.3", "/sys/module/going/initstate": "going"})
    assert set(read_modules(files)) == {"going"}
    assert read_modules(files)["going"].liveness is Liveness.GOING
    assert read_modules(files, builtin=("tcp_cubic",))["tcp_cubic"].liveness is Liveness.BUILTIN


def test_a_reference_count_that_says_nothing_is_unknown() -> None:
    assert [parse_refcount(text) for text in ("3", "0", "-1", "")] == [3, 0, None, None]


def test_driver(tmp_path: Path) -> None:
    driver = read_driver(make_tree(tmp_path, NVIDIA))
    assert driver is not None
    assert (driver.version, driver.is_open) == ("550.54.15", False)
    assert dict(driver.parameters)["DeviceFileMode"] == "438"
    information = (("Model", "NVIDIA A100"), ("GPU UUID", "GPU-1"), ("Device Minor", "0"))
    assert driver.gpu_information == (("0000:3b:00.0", information),)


def test_driver_that_is_not_loaded_is_none(tmp_path: Path) -> None:
    assert read_driver(LocalFiles(str(tmp_path))) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CLOSED, ("550.54.15", False)),
        (OPEN, ("570.86", True)),
        (f"{OPEN}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14)", ("570.86", True)),
        ("nonsense", ("", False)),
    ],
)
def test_driver_versions(text: str, expected: tuple[str, bool]) -> None:
    assert parse_version(text) == expected


GPU = "/sys/bus/pci/devices/0000:3b:00.0"
DISK = "/sys/bus/pci/devices/0000:01:00.0"


def test_pci_functions(tmp_path: Path) -> None:
    texts = {f"{GPU}/vendor": "0x10de", f"{GPU}/device": "0x20B0", f"{GPU}/class": "0x030200", f"{GPU}/numa_node": "1",
             f"{GPU}/driver_override": "(null)", f"{DISK}/vendor": "0x144d", f"{DISK}/class": "0x010802"}  # fmt: skip
    links = {f"{GPU}/driver": "../../../bus/pci/drivers/nvidia", f"{GPU}/iommu_group": "../../kernel/iommu_groups/27"}
    expected = PciFunction("0000:3b:00.0", "10de", "20b0", "030200", "nvidia", "", 1, "27")
    assert read_pci(make_tree(tmp_path, texts, links)) == {"0000:3b:00.0": expected}


@pytest.mark.parametrize(
    ("vendor", "class_code", "expected"),
    [("10de", "068000", True), ("8086", "020000", True), ("8086", "020700", True), ("1a03", "030000", True),
     ("8086", "060400", False), ("144d", "010802", False), ("15b3", "080100", True), ("8086", "068000", True)],
)  # fmt: skip
def test_which_pci_functions_matter(vendor: str, class_code: str, expected: bool) -> None:
    assert is_relevant(vendor, class_code) is expected


def test_numa_node_unknown() -> None:
    assert [parse_numa_node(text) for text in ("0", "-1", None, "", "x")] == [0, -1, -1, -1, -1]


def test_policy(tmp_path: Path) -> None:
    texts = {
        "/proc/sys/kernel/osrelease": "6.1.0-30-amd64",
        "/proc/sys/kernel/random/boot_id": "b-1",
        "/proc/sys/kernel/modules_disabled": "1",
        "/proc/cmdline": "BOOT_IMAGE=/vmlinuz module_blacklist=nouveau,i2c-nvidia-gpu quiet",
        "/sys/kernel/security/lockdown": "none [integrity] confidentiality",
        "/sys/module/module/parameters/sig_enforce": "Y",
    }
    expected = KernelPolicy("6.1.0-30-amd64", "b-1", "integrity", True, True, ("i2c_nvidia_gpu", "nouveau"), "ib_core")
    assert read_policy(make_tree(tmp_path, texts), "ib_core") == expected


def test_policy_of_a_kernel_that_restricts_nothing(tmp_path: Path) -> None:
    assert read_policy(LocalFiles(str(tmp_path))) == KernelPolicy()


def test_lockdown_and_blacklist() -> None:
    assert parse_lockdown("[none] integrity confidentiality") == parse_lockdown("") == "none"
    assert parse_blacklist("module_blacklist=a,b module_blacklist=c modprobe.blacklist=d") == ("a", "b", "c")
    assert parse_blacklist("") == ()


SYMBOLS = (
    "ffffffff81000000 T _stext\n0000000000000000 t not_ib_register_peer_memory_client_x\t[mlx5_ib]\n"
    "0000000000000000 T ib_register_peer_memory_client\t[ib_uverbs]\n0000000000000000 T last\t[nvidia]\n"
)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_peer_memory_owner_is_found_over_the_seams_of_blocks(size: int) -> None:
    table = SYMBOLS.encode()
    blocks: Iterator[bytes] = (table[start : start + size] for start in range(0, len(table), size))
    assert find_peer_memory_owner(blocks) == "ib_uverbs"


def test_peer_memory_owner_that_is_built_in_or_absent() -> None:
    assert find_peer_memory_owner(iter([b"0 T ib_register_peer_memory_client\n"])) == "vmlinux"
    assert find_peer_memory_owner(iter([b"0 T _stext\n"])) == find_peer_memory_owner(iter([])) == ""


def test_symbols_are_searched_again_only_after_the_modules_change(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/proc/kallsyms": SYMBOLS})
    owner = PeerMemoryOwner(files)
    old = {"ib_uverbs": KernelModule("ib_uverbs", Liveness.LIVE, srcversion="1")}
    new = {"ib_uverbs": KernelModule("ib_uverbs", Liveness.LIVE, srcversion="2")}
    assert owner.among({"nvidia": KernelModule("nvidia", Liveness.LIVE)}) == ""
    assert owner.among(old) == "ib_uverbs"
    files.write("/proc/kallsyms", "0 T _stext\n")
    assert owner.among(old) == "ib_uverbs"
    assert owner.among(new) == ""
