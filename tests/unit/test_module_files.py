"""The module files we write are true enough for the kmod tools and for readers of ELF."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from nodeagent.errors import HostError
from nodeagent.simulation.module_files import ModuleSource, module_bytes, versions, with_dependencies, write_tree

CORE = ModuleSource(
    "ib_core",
    version="25.10",
    srcversion="F00",
    vermagic="6.1.0 SMP ",
    license="Dual BSD/GPL",
    softdep="post: ib_umad",
    parameters={"netns_mode": "bool"},
    aliases=("rdma-netlink-subsys-4", "rdma-netlink-subsys-5"),
    exports={"ib_register_client": 0x1234ABCD},
    imports={"_printk": 0x92997ED8},
)
USER = ModuleSource("ib_uverbs", imports={"ib_register_client": 0x1234ABCD, "_printk": 1})


def modinfo(path: Path) -> set[tuple[str, str]]:
    shown = subprocess.run(["modinfo", path], capture_output=True, text=True, check=True).stdout
    lines = (line.partition(":") for line in shown.splitlines())
    return {(key, value.strip()) for key, _, value in lines if key != "filename"}


def test_modinfo_prints_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "ib_core.ko"
    file.write_bytes(module_bytes(CORE))
    assert modinfo(file) == {
        ("version", "25.10"),
        ("license", "Dual BSD/GPL"),
        ("srcversion", "F00"),
        ("alias", "rdma-netlink-subsys-4"),
        ("alias", "rdma-netlink-subsys-5"),
        ("softdep", "post: ib_umad"),
        ("parm", "netns_mode:netns_mode (bool)"),
        ("name", "ib_core"),
        ("vermagic", "6.1.0 SMP"),
        ("depends", ""),
    }


def test_modprobe_reads_the_versions_of_the_imports(tmp_path: Path) -> None:
    file = tmp_path / "ib_uverbs.ko"
    file.write_bytes(module_bytes(USER))
    shown = subprocess.run(["modprobe", "--show-modversions", file], capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["0x1234abcd", "ib_register_client", "0x00000001", "_printk"]


def test_depmod_finds_dependencies_by_symbols_and_does_not_complain(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tree = Path(write_tree(str(tmp_path), "6.1.0", [USER, CORE], builtin=["kernel/lib/crc32.ko"]))
    assert "kernel/ib_uverbs.ko: kernel/ib_core.ko\n" in (tree / "modules.dep").read_text()
    assert "alias symbol:ib_register_client ib_core\n" in (tree / "modules.symbols").read_text()
    assert "softdep ib_core post: ib_umad\n" in (tree / "modules.softdep").read_text()
    assert "alias rdma-netlink-subsys-4 ib_core\n" in (tree / "modules.alias").read_text()
    assert ("depends", "ib_core") in modinfo(tree / USER.path)
    assert ("vermagic", "6.1.0 SMP preempt mod_unload modversions") in modinfo(tree / USER.path)
    assert capfd.readouterr() == ("", "")


def test_a_tree_can_be_written_again(tmp_path: Path) -> None:
    write_tree(str(tmp_path), "6.1.0", [CORE])
    tree = Path(write_tree(str(tmp_path), "6.1.0", [CORE, USER]))
    assert sorted(path.name for path in (tree / "kernel").iterdir()) == ["ib_core.ko", "ib_uverbs.ko"]


def test_dependencies_that_are_given_are_kept() -> None:
    given = ModuleSource("x", depends=("nv_p2p_dummy",), imports={"ib_register_client": 1})
    assert [source.depends for source in with_dependencies([CORE, USER, given])] == [
        (),
        ("ib_core",),
        ("nv_p2p_dummy",),
    ]


def test_a_symbol_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than 55 bytes"):
        versions({"x" * 56: 1})


def test_a_failing_depmod_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "lib/modules/6.1.0").mkdir(parents=True)
    (tmp_path / "lib/modules/6.1.0/modules.dep.bin").mkdir()
    with pytest.raises(HostError, match=r"index modules of 6\.1\.0: depmod failed"):
        write_tree(str(tmp_path), "6.1.0", [CORE])
