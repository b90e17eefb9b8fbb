"""The kmod port on real libkmod and a fixture tree; only the two calls that change a kernel are replaced."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.kmod import LibKmod
from nodeagent.host.kmod_calls import LibkmodCalls
from nodeagent.simulation.module_files import ModuleSource, index, module_bytes, write_tree
from nodeagent.state.modules import ModuleFile

RELEASE = "6.1.0-test"
GPU_ALIAS = "pci:v000010DEd*sv*sd*bc03sc02i00*"
A_GPU = "pci:v000010DEd000020B0sv000010DEsd0000134Fbc03sc02i00"
SOURCES = (
    ModuleSource(
        "nvidia",
        version="570.1",
        srcversion="A1B2C3",
        license="Dual MIT/GPL",
        softdep="pre: ecdh_generic,ecdsa_generic",  # with a comma, as the open build has it: resolves to nothing
        parameters={"NVreg_EnableResizableBar": "int", "NVreg_RegistryDwords": "charp"},
        exports={"nvidia_p2p_get_pages": 0xAAAA0001},
        aliases=(GPU_ALIAS,),
    ),
    ModuleSource("nvidia_uvm", file_name="nvidia-uvm", imports={"nvidia_p2p_get_pages": 0xAAAA0001}),
    ModuleSource(
        "nvidia_peermem",
        file_name="nvidia-peermem",
        imports={"ib_register_client": 0xBBBB0001, "nvidia_p2p_get_pages": 0xAAAA0001, "_printk": 0x92997ED8},
    ),
    ModuleSource("ib_core", exports={"ib_register_client": 0xBBBB0001}, imports={"compat_init": 7}),
    ModuleSource("mlx_compat", exports={"compat_init": 7}),
    ModuleSource("nouveau", aliases=("pci:v000010DEd*sv*sd*bc03sc*i*",)),
    ModuleSource("early", softdep="pre: mlx_compat post: late"),
    ModuleSource("late"),
    ModuleSource("plain", parameters={"depth": "int"}),
)


@dataclass
class Tree:
    """A root directory with modules and modprobe.d files, and ways to look at it."""

    root: Path

    def configure(self, **files: str) -> None:
        directory = self.root / "etc/modprobe.d"
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / f"{name}.conf").write_text(text)

    def kmod(self, calls: Calls | None = None, deadline_seconds: float = 20) -> LibKmod:
        return LibKmod(str(self.root), RELEASE, calls or Calls(), deadline_seconds)

    def path(self, name: str) -> Path:
        return self.root / "lib/modules" / RELEASE / f"kernel/{name}.ko"

    def log(self, *lines: str) -> None:
        """Append kernel lines as /dev/kmsg would show them."""
        log = self.root / "dev/kmsg"
        log.parent.mkdir(exist_ok=True)
        number = len(log.read_text().splitlines()) if log.exists() else 0
        with log.open("a") as file:
            file.writelines(f"4,{number + step},1000,-;{line}\n" for step, line in enumerate(lines))

    def show_initstate(self, module: str, state: str) -> None:
        directory = self.root / "sys/module" / module
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "initstate").write_text(f"{state}\n")


@dataclass
class Calls:
    """A kernel that notes what it is asked, and refuses when told to."""

    refusal: int = 0
    before_refusing: Callable[[], None] = lambda: None
    inserted: list[tuple[str, str, str]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)

    def insert(self, file: ModuleFile, options: str) -> None:
        self._refuse()
        self.inserted.append((file.name, os.path.basename(file.path), options))

    def remove(self, name: str) -> None:
        self._refuse()
        self.removed.append(name)

    def _refuse(self) -> None:
        if self.refusal:
            self.before_refusing()
            raise OSError(self.refusal, os.strerror(self.refusal))


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
    command = ["modprobe", "-d", tree.root, "-S", RELEASE, "--ignore-install", "-D", "nvidia_peermem"]
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


# --- load and unload ------------------------------------------------------------------------------------------------


def test_load_inserts_one_module_with_exactly_the_options(tree: Tree) -> None:
    tree.configure(a="options nvidia-peermem from=config\n")
    calls = Calls()
    tree.kmod(calls).load("nvidia-peermem", "peerdirect_support=1")
    assert calls.inserted == [("nvidia_peermem", "nvidia-peermem.ko", "peerdirect_support=1")]


def test_unload_removes_one_module(tree: Tree) -> None:
    calls = Calls()
    tree.kmod(calls).unload("nvidia-peermem")
    assert calls.removed == ["nvidia_peermem"]


def test_a_loaded_module_without_a_file_can_be_unloaded(tree: Tree) -> None:
    calls = Calls()
    tree.kmod(calls).unload("left_over")
    assert calls.removed == ["left_over"]


def test_loading_what_does_not_exist(tree: Tree) -> None:
    with pytest.raises(
        GoneError, match=r"load module no_such: there is no such module for kernel 6\.1\.0-test; inst"
    ):
        tree.kmod().load("no-such")


def test_loading_what_is_built_in(tree: Tree) -> None:
    with pytest.raises(HostError, match="built into the kernel"):
        tree.kmod().load("crc32")


def test_a_stale_index_is_told_from_an_unknown_symbol(tree: Tree) -> None:
    kmod = tree.kmod(Calls(errno.ENOENT))
    with pytest.raises(UnsupportedError, match="symbol"):
        kmod.load("plain")
    tree.path("plain").unlink()
    with pytest.raises(GoneError, match="its file does not exist although the index names it; run depmod -a"):
        kmod.load("plain")


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (errno.EPERM, DeniedError),
        (errno.EKEYREJECTED, DeniedError),
        (errno.ENOEXEC, UnsupportedError),
        (errno.EEXIST, HostError),
        (errno.EBUSY, BusyError),
        (errno.ENODEV, UnsupportedError),
        (errno.ELIBBAD, HostError),
    ],
)
def test_every_refusal_of_a_load_is_an_error_of_ours(tree: Tree, refusal: int, kind: type[HostError]) -> None:
    with pytest.raises(HostError, match=f"load module plain: .*{errno.errorcode[refusal]}") as caught:
        tree.kmod(Calls(refusal)).load("plain")
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("refusal", "kind"), [(errno.EAGAIN, BusyError), (errno.ENOENT, GoneError), (errno.EPERM, DeniedError)]
)
def test_every_refusal_of_an_unload_is_an_error_of_ours(tree: Tree, refusal: int, kind: type[HostError]) -> None:
    with pytest.raises(kind, match=f"unload module plain: .*{errno.errorcode[refusal]}"):
        tree.kmod(Calls(refusal)).unload("plain")


def test_the_kernel_line_of_this_refusal_is_quoted_and_no_older_one(tree: Tree) -> None:
    tree.log("plain: version magic '5.4.0 SMP ' should be '6.1.0 SMP '")
    line = "plain: version magic '5.10.0 SMP ' should be '6.1.0-test SMP '"
    kmod = tree.kmod(Calls(errno.ENOEXEC, lambda: tree.log("other: Unknown symbol x (err -2)", line)))
    with pytest.raises(
        UnsupportedError, match=r"built for kernel 5\.10\.0, but 6\.1\.0-test is running, kernel: \"plain"
    ):
        kmod.load("plain")


def test_sysfs_has_the_last_word(tree: Tree) -> None:
    tree.show_initstate("plain", "coming")
    kmod = tree.kmod()
    with pytest.raises(HostError, match="done, yet it is coming instead of live"):
        kmod.load("plain")
    with pytest.raises(HostError, match="done, yet it is coming instead of gone"):
        kmod.unload("plain")
    tree.show_initstate("plain", "live")
    kmod.load("plain")
    kmod.unload("late")


# --- install and remove rules ---------------------------------------------------------------------------------------


def test_an_install_rule_runs_instead_of_the_insertion(tree: Tree) -> None:
    note = tree.root / "note"
    tree.configure(a=f"install plain echo $MODPROBE_MODULE $CMDLINE_OPTS > {note}\n")
    calls = Calls()
    tree.kmod(calls).load("plain", "depth=4")
    assert calls.inserted == []
    assert note.read_text() == "plain depth=4\n"


def test_a_remove_rule_runs_instead_of_the_removal(tree: Tree) -> None:
    note = tree.root / "note"
    tree.configure(a=f"remove plain echo $MODPROBE_MODULE > {note}\n")
    calls = Calls()
    tree.kmod(calls).unload("plain")
    assert calls.removed == []
    assert note.read_text() == "plain\n"


def test_an_install_rule_that_fails_is_quoted(tree: Tree) -> None:
    tree.configure(a="install plain echo no way >&2; exit 3\n")
    with pytest.raises(HostError, match=r"load module plain: its command .* failed with status 3: no way; see"):
        tree.kmod().load("plain")


def test_an_install_rule_that_does_nothing_is_found_out(tree: Tree) -> None:
    tree.configure(a="install plain /bin/true\n")
    (tree.root / "sys/module").mkdir(parents=True)
    with pytest.raises(HostError, match="done, yet it is not loaded instead of live"):
        tree.kmod().load("plain")


def test_an_install_rule_that_hangs_meets_its_deadline(tree: Tree) -> None:
    tree.configure(a="install plain sleep 100 & wait\n")
    with pytest.raises(DeadlineError, match=r"did not end within 0\.2 s"):
        tree.kmod(deadline_seconds=0.2).load("plain")


# --- the real calls -------------------------------------------------------------------------------------------------


def test_a_call_that_hangs_meets_its_deadline_and_leaves_no_process(tmp_path: Path) -> None:
    fifo = tmp_path / "hangs.ko"  # opening it waits for a writer, as a module's init waits for its hardware
    os.mkfifo(fifo)
    calls = LibkmodCalls(deadline_seconds=0.3)
    with pytest.raises(DeadlineError, match=r"load module hangs: the kernel did not answer within 0\.3 s") as caught:
        calls.insert(ModuleFile("hangs", str(fifo)), "")
    pid = int(str(caught.value).split("process ")[1].split()[0])
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_kernel_itself_refuses_what_is_no_module(tmp_path: Path) -> None:
    file = tmp_path / "rubbish.ko"
    file.write_text("this is no module")
    with pytest.raises(OSError) as caught:
        LibkmodCalls(deadline_seconds=20).insert(ModuleFile("rubbish", str(file)), "")
    # as root without, with, and where the kernel has no loadable modules at all
    assert caught.value.errno in {errno.EPERM, errno.ENOEXEC, errno.ENOSYS, errno.EKEYREJECTED}


def test_the_kernel_itself_refuses_to_remove_what_is_not_there() -> None:
    with pytest.raises(OSError) as caught:
        LibkmodCalls(deadline_seconds=20).remove("nodeagent_no_such_module")
    assert caught.value.errno in {errno.EPERM, errno.ENOENT, errno.ENOSYS}


def test_a_missing_file_is_enoent(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LibkmodCalls(deadline_seconds=20).insert(ModuleFile("gone", str(tmp_path / "gone.ko")), "")


def test_libkmod_says_nothing_on_its_own(tree: Tree, capfd: pytest.CaptureFixture[str]) -> None:
    tree.configure(a="options plain depth=1\n")
    kmod = tree.kmod()
    kmod.lookup("nvidia_peermem")
    tree.path("plain").write_text("rubbish")
    kmod.lookup("plain")
    assert capfd.readouterr() == ("", "")
