"""Load and unload of the kmod port: refusals, install and remove rules, deadlines, and what the real kernel refuses."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmod_tree import RELEASE, SOURCES, Calls, Tree
from nodeagent.errors import BusyError, DeadlineError, DeniedError, GoneError, HostError, UnsupportedError
from nodeagent.host.kmod_calls import LibkmodCalls
from nodeagent.simulation.module_files import write_tree
from nodeagent.state.modules import ModuleFile


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    write_tree(str(tmp_path), RELEASE, SOURCES, builtin=["kernel/lib/crc32.ko"])
    return Tree(tmp_path)


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
    with pytest.raises(GoneError, match=r"load module no_such: there is no such module for kernel 6\.1\.0-test; inst"):
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
