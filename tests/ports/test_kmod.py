"""Look-ups of the kmod port: real libkmod on a fixture tree, compared with what modprobe is documented to do."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmod_tree import A_GPU, GPU_ALIAS, RELEASE, SOURCES, Tree
from nodeagent.host.kmod import LibKmod
from nodeagent.simulation.module_files import ModuleSource, index, module_bytes, write_tree
from nodeagent.state.modules import ModuleFile


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    write_tree(str(tmp_path), RELEASE, SOURCES, builtin=["kernel/lib/crc32.ko"])
    return Tree(tmp_path)


def names(kmod: LibKmod, name: str) -> list[str]:
    return [module.name for module in kmod.lookup(name)]


# --- what modprobe would insert -----------------------------------------------------------------------------------


def test_dependencies_of_all_levels_come_first(tree: Tree) -> None:
    order = names(tree.kmod(), "nvidia_peermem")
    assert order[-1] == "nvidia_peermem"
    assert set(order) == {"nvidia", "ib_core", "mlx_compat", "nvidia_peermem"}
    assert order.index("mlx_compat") < order.index("ib_core")


def test_the_order_is_what_the_modprobe_command_shows(tree: Tree) -> None:
    command = ["modprobe", "-d", tree.root, "-S", RELEASE, "-D", "nvidia_peermem"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    paths = [line.split()[1] for line in shown.splitlines()]
    assert [module.path for module in tree.kmod().lookup("nvidia_peermem")] == paths


def test_depends_are_transitive_and_in_load_order(tree: Tree) -> None:
    file = tree.kmod().file("nvidia_peermem")
    assert file is not None
    assert set(file.depends) == {"nvidia", "ib_core", "mlx_compat"}
    assert file.depends.index("mlx_compat") < file.depends.index("ib_core")


@pytest.mark.parametrize("name", ["nvidia-peermem", "nvidia_peermem"])
def test_dash_and_underscore_are_the_same(tree: Tree, name: str) -> None:
    file = tree.kmod().file(name)
    assert file is not None
    assert (file.name, os.path.basename(file.path)) == ("nvidia_peermem", "nvidia-peermem.ko")


@pytest.mark.parametrize("name", ["no_such_module", "", "a\0b", "[", "x" * 5000, "pci:v00001234d*"])
def test_an_unknown_name_finds_nothing(tree: Tree, name: str) -> None:
    kmod = tree.kmod()
    assert kmod.lookup(name) == ()
    assert kmod.file(name) is None


def test_the_facts_of_a_file(tree: Tree) -> None:
    file = tree.kmod().file("nvidia")
    assert file == ModuleFile(
        name="nvidia",
        path=str(tree.path("nvidia")),
        version="570.1",
        srcversion="A1B2C3",
        vermagic=f"{RELEASE} SMP preempt mod_unload modversions",
        license="Dual MIT/GPL",
        parameters=("NVreg_EnableResizableBar", "NVreg_RegistryDwords"),
        aliases=(GPU_ALIAS,),
    )


def test_imports_come_with_the_crc_the_file_expects(tree: Tree) -> None:
    file = tree.kmod().file("nvidia_peermem")
    assert file is not None
    assert dict(file.imports) == {
        "ib_register_client": 0xBBBB0001,
        "nvidia_p2p_get_pages": 0xAAAA0001,
        "_printk": 0x92997ED8,
    }


def test_softdeps_surround_the_module(tree: Tree) -> None:
    kmod = tree.kmod()
    assert names(kmod, "early") == ["mlx_compat", "early", "late"]
    file = kmod.file("early")
    assert file is not None
    assert (file.softdeps_pre, file.softdeps_post, file.depends) == (("mlx_compat",), ("late",), ())


def test_a_hardware_alias_finds_every_driver_of_it(tree: Tree) -> None:
    kmod = tree.kmod()
    assert set(names(kmod, A_GPU)) == {"nvidia", "nouveau"}


def test_an_alias_of_the_configuration_is_resolved(tree: Tree) -> None:
    tree.configure(gpu="alias gpu nvidia\n")
    file = tree.kmod().file("gpu")
    assert file is not None
    assert file.name == "nvidia"


def test_a_symbol_finds_its_owner(tree: Tree) -> None:
    assert names(tree.kmod(), "symbol:ib_register_client") == ["mlx_compat", "ib_core"]


def test_a_file_that_the_distribution_renamed_keeps_its_kernel_name(tmp_path: Path) -> None:
    current = ModuleSource("nvidia", file_name="nvidia-current", exports={"nvidia_p2p_get_pages": 1})
    uvm = ModuleSource("nvidia_uvm", file_name="nvidia-current-uvm", imports={"nvidia_p2p_get_pages": 1})
    write_tree(str(tmp_path), RELEASE, [current, uvm])
    tree = Tree(tmp_path)
    tree.configure(nvidia="alias nvidia nvidia-current\nalias nvidia-uvm nvidia-current-uvm\n")
    kmod = tree.kmod()
    assert names(kmod, "nvidia_uvm") == ["nvidia", "nvidia_uvm"]
    file = kmod.file("nvidia-uvm")
    assert file is not None
    assert (file.name, file.depends) == ("nvidia_uvm", ("nvidia",))


def test_a_builtin_module_is_reported_as_such(tree: Tree) -> None:
    file = tree.kmod().file("crc32")
    assert file is not None
    assert (file.builtin, file.path) == (True, "")


def test_a_blacklisted_module_is_reported_and_not_left_out(tree: Tree) -> None:
    tree.configure(nouveau="blacklist nouveau\n")
    kmod = tree.kmod()
    assert {module.name: module.blacklisted for module in kmod.lookup(A_GPU)} == {"nvidia": False, "nouveau": True}
    assert [module.blacklisted for module in kmod.lookup("nouveau")] == [True]


def test_options_of_all_files_are_joined_in_name_order(tree: Tree) -> None:
    tree.configure(b="options plain depth=2\n", a="options plain depth=1\n", c="options nvidia-peermem x=1\n")
    kmod = tree.kmod()
    plain, peermem = kmod.file("plain"), kmod.file("nvidia_peermem")
    assert plain is not None
    assert peermem is not None
    assert plain.options == "depth=1 depth=2"
    assert peermem.options == "x=1"


def test_a_higher_directory_masks_a_file_of_the_same_name(tree: Tree) -> None:
    low = tree.root / "usr/lib/modprobe.d"
    low.mkdir(parents=True)
    (low / "a.conf").write_text("options plain depth=9\n")
    (low / "b.conf").write_text("options plain depth=8\n")
    tree.configure(a="options plain depth=1\n")
    file = tree.kmod().file("plain")
    assert file is not None
    assert file.options == "depth=1 depth=8"


def test_the_first_install_line_counts(tree: Tree) -> None:
    tree.configure(b="install plain /bin/false\n", a="install plain /bin/true\nremove plain /bin/false\n")
    file = tree.kmod().file("plain")
    assert file is not None
    assert (file.install_command, file.remove_command) == ("/bin/true", "/bin/false")


# --- the traps of softdeps ------------------------------------------------------------------------------------------


def test_a_softdep_behind_the_modules_own_is_ignored(tree: Tree) -> None:
    tree.configure(nvidia="softdep nvidia post: nvidia-uvm\n")  # "nvidia.conf" sorts behind "modules.softdep"
    assert names(tree.kmod(), "nvidia") == ["nvidia"]


def test_a_softdep_that_sorts_first_counts(tree: Tree) -> None:
    tree.configure(gpu="softdep nvidia post: nvidia-uvm\n")
    assert names(tree.kmod(), "nvidia") == ["nvidia", "nvidia_uvm"]


def test_a_softdep_that_resolves_switches_the_install_line_off(tree: Tree) -> None:
    tree.configure(gpu="softdep nvidia post: nvidia-uvm\ninstall nvidia /bin/false\n")
    file = tree.kmod().file("nvidia")
    assert file is not None
    assert file.install_command == ""


def test_a_hold_file_with_a_softdep_to_nothing_keeps_the_install_line(tree: Tree) -> None:
    tree.configure(**{"00-hold": "softdep nvidia post: nodeagent-hold\ninstall nvidia /bin/false\n"})
    kmod = tree.kmod()
    assert [module.install_command for module in kmod.lookup("nvidia_uvm")] == ["/bin/false", ""]


# --- changes on disk ------------------------------------------------------------------------------------------------


def test_an_edited_configuration_is_seen(tree: Tree) -> None:
    tree.configure(a="options plain depth=1\n")
    kmod = tree.kmod()
    seen = [kmod.lookup("plain")[0].options]
    tree.configure(a="options plain depth=22\n")
    seen.append(kmod.lookup("plain")[0].options)
    late = tree.root / "run/modprobe.d"
    late.mkdir(parents=True)
    (late / "b.conf").write_text("options plain depth=3\n")
    seen.append(kmod.lookup("plain")[0].options)
    assert seen == ["depth=1", "depth=22", "depth=22 depth=3"]


def test_a_new_index_is_seen(tree: Tree) -> None:
    kmod = tree.kmod()
    assert kmod.file("gdrdrv") is None
    tree.path("gdrdrv").write_bytes(module_bytes(ModuleSource("gdrdrv")))
    assert kmod.file("gdrdrv") is None
    index(str(tree.root), RELEASE)
    assert kmod.file("gdrdrv") is not None


def test_a_replaced_file_is_seen_even_before_depmod(tree: Tree) -> None:
    kmod = tree.kmod()
    assert kmod.lookup("plain")[0].srcversion == ""
    new = tree.path("plain").with_suffix(".new")
    new.write_bytes(module_bytes(ModuleSource("plain", srcversion="NEW")))
    new.rename(tree.path("plain"))
    assert kmod.lookup("plain")[0].srcversion == "NEW"


def test_a_tree_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert Tree(tmp_path).kmod().lookup("nvidia") == ()


def test_a_file_that_is_no_module_has_no_facts(tree: Tree) -> None:
    tree.path("plain").write_text("rubbish")
    file = tree.kmod().file("plain")
    assert file is not None
    assert (file.name, file.vermagic, file.imports) == ("plain", "", ())


def test_many_threads_may_ask(tree: Tree) -> None:
    kmod = tree.kmod()
    answers: list[list[str]] = []
    asked = ("nvidia_peermem", "early", "nvidia_uvm", "plain") * 5
    threads = [threading.Thread(target=lambda name=name: answers.append(names(kmod, name))) for name in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer[-1] for answer in answers) == sorted(["late", "nvidia_peermem", "nvidia_uvm", "plain"] * 5)
