"""The port to libkmod against a kernel that really loads, refuses and holds on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, GoneError, HostError, UnsupportedError
from nodeagent.host.kernel_log import KmsgLog
from nodeagent.host.kmod import LibKmod
from vm.guest import kernel

RDMA = ("mlx5_core", "ib_uverbs", "mlx5_ib", "rdma_cm", "rdma_ucm", "rdma_rxe")


def load_all(kmod: LibKmod, name: str, options: str = "") -> list[str]:
    """Load a module with what it needs, each by a call of its own; the names in order."""
    wanted = [file.name for file in kmod.lookup(name) if not file.builtin and file.name not in kernel.loaded()]
    for module in wanted:
        kmod.load(module, options if module == name else "")
    return wanted


def test_the_rdma_stack_loads_module_by_module_and_unloads_in_reverse(kmod: LibKmod) -> None:
    before = kernel.loaded()
    order = [module for name in RDMA for module in load_all(kmod, name)]
    assert kernel.loaded() == before | set(order)
    assert set(RDMA) <= set(order)
    assert order.index("ib_core") < order.index("ib_uverbs") < order.index("mlx5_ib")
    for module in reversed(order):
        kmod.unload(module)
    assert kernel.loaded() == before


def test_a_module_that_another_one_needs_is_busy(kmod: LibKmod) -> None:
    load_all(kmod, "nvidia_uvm")
    with pytest.raises(BusyError, match="nvidia"):
        kmod.unload("nvidia")
    assert {"nvidia", "nvidia_uvm"} <= kernel.loaded()


def test_a_module_with_an_open_device_is_busy_until_it_is_closed(kmod: LibKmod) -> None:
    load_all(kmod, "rdma_ucm")
    with kernel.open_device("/dev/infiniband/rdma_cm"):
        assert kernel.references("rdma_ucm") == 1
        with pytest.raises(BusyError, match="rdma_ucm"):
            kmod.unload("rdma_ucm")
    kmod.unload("rdma_ucm")
    assert "rdma_ucm" not in kernel.loaded()


def test_a_hidden_reference_is_busy_until_it_is_dropped(kmod: LibKmod) -> None:
    load_all(kmod, "nvidia", "hold=1")
    with pytest.raises(BusyError):
        kmod.unload("nvidia")
    kernel.let_go("nvidia")
    kmod.unload("nvidia")


def test_a_module_without_an_exit_function_cannot_be_removed(kmod: LibKmod) -> None:
    kmod.load("standin_permanent")
    with pytest.raises(HostError, match="standin_permanent"):
        kmod.unload("standin_permanent")


def test_loading_twice_and_unloading_what_is_not_loaded_are_errors(kmod: LibKmod) -> None:
    kmod.load("standin_plain")
    with pytest.raises(HostError, match=r"standin_plain: .*loaded"):
        kmod.load("standin_plain")
    kmod.unload("standin-plain")
    with pytest.raises(GoneError, match="standin_plain"):
        kmod.unload("standin_plain")


def test_an_unknown_name_has_no_file_and_does_not_load(kmod: LibKmod) -> None:
    assert kmod.lookup("no_such_module") == ()
    assert kmod.file("no_such_module") is None
    with pytest.raises(HostError, match="no_such_module"):
        kmod.load("no_such_module")


@pytest.mark.parametrize(
    ("module", "options", "kind", "words"),
    [
        pytest.param("standin_vermagic", "", UnsupportedError, "version magic '9", id="vermagic"),
        pytest.param("standin_flags", "", UnsupportedError, "built for another configuration of kernel", id="flags"),
        pytest.param("standin_unknown", "", HostError, "nvidia_standin_that_never_was", id="unknown-symbol"),
        pytest.param("standin_crc", "", HostError, "disagrees about version of symbol nvidia_standin_attach", id="crc"),
        pytest.param("standin_proprietary", "", HostError, "kernel_kobj", id="gpl-only"),
        pytest.param("standin_plain", "count=many", HostError, "`many' invalid for parameter `count'", id="bad-value"),
        pytest.param("nvidia", "standin_gpus=0", HostError, "No NVIDIA GPU found", id="no-gpu"),
        pytest.param("nvidia", "fail_init=5", HostError, "EIO", id="init-fails"),
    ],
)
def test_a_refusal_quotes_the_kernel(
    kmod: LibKmod, module: str, options: str, kind: type[HostError], words: str
) -> None:
    if module == "standin_crc":
        kmod.load("nvidia")
    before = kernel.loaded()
    with pytest.raises(kind) as refusal:
        kmod.load(module, options)
    assert words.lower() in str(refusal.value).lower()
    assert module in str(refusal.value)
    assert kernel.loaded() == before


def test_symbol_versions_let_a_build_for_another_release_in(kmod: LibKmod) -> None:
    found = kmod.file("standin_release")
    assert found is not None
    assert found.vermagic.split()[0] != os.uname().release
    kmod.load("standin_release")
    assert "standin_release" in kernel.loaded()


def test_an_unknown_parameter_is_accepted_and_only_logged(kmod: LibKmod) -> None:
    log = KmsgLog()
    mark = log.mark()
    kmod.load("standin_plain", "no_such_parameter=1 count=7")
    assert any("unknown parameter 'no_such_parameter' ignored" in line for line in log.since(mark))
    assert kernel.in_force()["standin_plain"]["count"] == "7"


def test_a_blacklist_takes_the_alias_away_and_leaves_the_name(kmod: LibKmod) -> None:
    assert [file.name for file in kmod.lookup("standin-alias-one")] == ["standin_plain"]
    kernel.rule("blacklist standin_plain")
    found = kmod.file("standin_plain")
    assert found is not None
    assert found.blacklisted
    kmod.load("standin_plain")
    assert "standin_plain" in kernel.loaded()


def test_options_of_the_configuration_are_reported_and_not_applied_by_themselves(kmod: LibKmod) -> None:
    kernel.rule("options standin_plain count=3 label=there")
    found = kmod.file("standin_plain")
    assert found is not None
    assert found.options == "count=3 label=there"
    kmod.load("standin_plain", found.options)
    assert kernel.in_force()["standin_plain"] | {"count": "3", "label": "there"} == kernel.in_force()["standin_plain"]


def test_an_install_command_runs_in_place_of_the_load(kmod: LibKmod, tmp_path: Path) -> None:
    kernel.rule(f"install standin_plain /sbin/modprobe --ignore-install standin_plain && touch {tmp_path}/ran")
    kmod.load("standin_plain")
    assert (tmp_path / "ran").exists()
    assert "standin_plain" in kernel.loaded()


def test_an_install_command_that_refuses_is_an_error(kmod: LibKmod) -> None:
    kernel.rule("install standin_plain /bin/false")
    with pytest.raises(HostError, match="/bin/false"):
        kmod.load("standin_plain")
    assert "standin_plain" not in kernel.loaded()


def test_a_file_that_the_index_promises_and_the_disk_lacks(kmod: LibKmod) -> None:
    file = Path("/lib/modules") / os.uname().release / "updates" / "gdrdrv.ko"
    aside = file.with_suffix(".aside")
    kmod.load("nvidia")
    file.rename(aside)
    try:
        with pytest.raises(HostError, match="depmod"):
            kmod.load("gdrdrv")
    finally:
        aside.rename(file)
