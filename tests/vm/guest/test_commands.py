"""The command from end to end: a node file on one side, a real kernel on the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.host.kernel_log import KmsgLog
from vm.guest import kernel

Command = Callable[..., subprocess.CompletedProcess[str]]

NODE = """\
version: 1
modules:
  nvidia:
    parameters: {EnableStreamMemOPs: 1}
  rdma:
    drivers: [mlx5_core, mlx5_ib]
  peermem: nvidia_peermem
  gdrcopy: true
  named:
    rdma_rxe: {}
  absent: [nouveau]
"""
GPU_ONLY = """\
version: 1
modules:
  nvidia: {parameters: {%s}}
  gdrcopy: true
"""
JOURNAL = Path("/var/lib/nodeagent/journal.json")
WANTED = {
    *("mlx5_core", "mlx5_ib", "ib_uverbs", "ib_umad", "rdma_cm", "rdma_ucm", "rdma_rxe"),
    *("nvidia", "nvidia_uvm", "nvidia_modeset", "nvidia_peermem", "gdrdrv"),
}
# What changes the state of a machine; the files that are opened for writing are looked at by name.
CHANGING = (
    "init_module,finit_module,delete_module,mount,umount2,mknod,mknodat,unlink,unlinkat,rename,renameat,renameat2,"
    "mkdir,mkdirat,rmdir,symlink,symlinkat,link,linkat,chmod,fchmod,fchmodat,chown,fchown,fchownat,truncate,ftruncate"
)
OPENING = "open,openat,openat2,creat"
# The lock of a single instance is the agent's own and says nothing about the node.
HARMLESS = re.compile(r'["<](/dev/null|/dev/pts/\S*|/dev/kmsg|/run/nodeagent/lock|/proc/self/\S*)[">]')


@pytest.fixture
def nodeagent() -> Command:
    def run(*words: str, expect: int, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
        command = [*before, sys.executable, "-m", "nodeagent", *words]
        started = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        ended = f"exit {done.returncode} after {time.monotonic() - started:.1f} s\n{done.stdout}{done.stderr}"
        print(f"$ nodeagent {' '.join(words)}\n{ended}")
        assert done.returncode == expect, ended
        return done

    return run


@pytest.fixture
def node_file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "node.yaml"
        path.write_text(text)
        return str(path)

    return write


@contextmanager
def holder(device: str) -> Iterator[int]:
    """A process that keeps a device open and is called `sleep`; gives its PID."""
    process = subprocess.Popen(["sh", "-c", f"exec 9<>{device}; echo open; exec sleep 600"], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def modprobe(*words: str) -> None:
    subprocess.run(["/sbin/modprobe", *words], check=True)


def gpu_node(minor: int = 0) -> str:
    path = f"/dev/nvidia{minor}"
    os.mknod(path, 0o020666, os.makedev(195, minor))
    return path


def load_order() -> list[str]:
    """Loaded modules, oldest first: the kernel lists the newest first."""
    return [line.split()[0] for line in reversed(Path("/proc/modules").read_text().splitlines())]


def changes(trace: Path) -> list[str]:
    """Successful system calls of the trace that changed something outside the process."""
    found = []
    for line in trace.read_text().splitlines():
        opened = re.search(r"\b(open|openat|openat2|creat)\(", line)
        if re.search(r" = -1 |resumed>|\+\+\+|---", line) or HARMLESS.search(line):
            continue
        if not opened or re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", line):
            found.append(line)
    return found


def test_a_file_becomes_a_node_and_a_second_apply_does_nothing(
    nodeagent: Command, node_file: Callable[[str], str], tmp_path: Path
) -> None:
    file = node_file(NODE)
    modprobe("nouveau")
    nodeagent("check", "--file", file, expect=3)
    assert "nvidia" not in kernel.loaded()
    nodeagent("apply", "--file", file, expect=0)

    assert kernel.loaded() >= WANTED
    assert "nouveau" not in kernel.loaded()
    order = load_order()
    for chain in (
        ("ib_core", "ib_uverbs", "mlx5_ib"),
        ("mlx5_core", "mlx5_ib", "nvidia", "nvidia_uvm", "nvidia_peermem"),
    ):
        assert sorted(chain, key=order.index) == list(chain)
    assert order.index("nvidia") < order.index("gdrdrv")
    assert kernel.in_force()["nvidia"]["EnableStreamMemOPs"] == "1"
    assert_device("/dev/nvidiactl", 195, 255)
    assert_device("/dev/nvidia1", 195, 1)
    assert_device("/dev/nvidia-uvm", kernel.major("nvidia-uvm"), 0)

    before, trace = kernel.in_force(), tmp_path / "trace"
    strace = ("strace", "-f", "-qq", "-y", "--seccomp-bpf", "-o", str(trace), "-e", f"trace={CHANGING},{OPENING}")
    nodeagent("apply", "--file", file, expect=0, before=strace)
    assert trace.stat().st_size > 0
    assert changes(trace) == []
    assert kernel.in_force() == before
    nodeagent("check", "--file", file, expect=0)


def assert_device(path: str, major: int, minor: int) -> None:
    found = os.stat(path)
    assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (major, minor), path


def test_unload_refuses_while_a_process_holds_a_gpu_and_names_it(nodeagent: Command) -> None:
    for module in ("nvidia_uvm", "nvidia_modeset", "gdrdrv"):
        modprobe(module)
    before = kernel.in_force()
    with holder(gpu_node()) as pid:
        refused = nodeagent("modules", "unload", "nvidia", expect=6)
        assert str(pid) in refused.stdout + refused.stderr
        assert "sleep" in refused.stdout + refused.stderr
        assert kernel.in_force() == before
    nodeagent("modules", "unload", "nvidia", expect=0)
    assert not {"nvidia", "nvidia_uvm", "nvidia_modeset", "gdrdrv"} & kernel.loaded()


def test_unload_refuses_over_a_reference_that_no_process_shows(nodeagent: Command) -> None:
    modprobe("nvidia_uvm", "hold=1")
    before = kernel.in_force()
    refused = nodeagent("modules", "unload", "nvidia", expect=6)
    assert "nvidia_uvm" in refused.stdout + refused.stderr
    assert kernel.in_force() == before


def test_a_load_that_fails_half_way_leaves_nothing_behind(nodeagent: Command, node_file: Callable[[str], str]) -> None:
    kernel.rule("options nvidia_modeset fail_init=5")
    before, log = kernel.in_force(), KmsgLog()
    mark = log.mark()
    failed = nodeagent("apply", "--file", node_file(GPU_ONLY % ""), expect=1)
    assert "nvidia_modeset" in failed.stdout + failed.stderr
    assert kernel.in_force() == before
    # What stands on the driver that was taken out again is skipped, not tried.
    assert [line for line in log.since(mark) if "Unknown symbol" in line] == []


def test_a_reload_that_fails_brings_the_old_driver_back(nodeagent: Command, node_file: Callable[[str], str]) -> None:
    nodeagent("apply", "--file", node_file(GPU_ONLY % "RegistryDwords: Old=1"), expect=0)
    before = kernel.in_force()
    assert before["nvidia"]["RegistryDwords"] == '"Old=1"'
    failed = nodeagent("apply", "--file", node_file(GPU_ONLY % "RegistryDwords: StandInRefuses=1"), expect=1)
    assert "RmInitAdapter failed" in failed.stdout + failed.stderr
    assert kernel.in_force() == before


@dataclass(frozen=True)
class Moment:
    """Where a reload of the driver is cut off: `module` has that state in /proc/modules."""

    module: str
    state: str


MOMENTS = (Moment("nvidia", "Unloading"), Moment("nvidia", "Loading"), Moment("nvidia_uvm", "Loading"))


def test_an_apply_that_is_killed_on_its_way_is_finished_by_the_next(
    nodeagent: Command, node_file: Callable[[str], str]
) -> None:
    kernel.rule("options nvidia init_ms=1000 exit_ms=1000\noptions nvidia_uvm init_ms=1000")
    nodeagent("apply", "--file", node_file(GPU_ONLY % "EnableStreamMemOPs: 0"), expect=0)
    before = kernel.in_force()
    for turn, moment in enumerate(MOMENTS):
        wanted = str((turn + 1) % 2)
        file = node_file(GPU_ONLY % f"EnableStreamMemOPs: {wanted}")
        kill_at(moment, file)
        assert JOURNAL.exists()
        nodeagent("apply", "--file", file, expect=0)
        assert not JOURNAL.exists()
        found = kernel.in_force()
        assert found.pop("nvidia") == before["nvidia"] | {"EnableStreamMemOPs": wanted}
        assert found == {name: values for name, values in before.items() if name != "nvidia"}


def kill_at(moment: Moment, file: str) -> None:
    process = subprocess.Popen([sys.executable, "-m", "nodeagent", "apply", "--file", file], stdout=subprocess.DEVNULL)
    while kernel.liveness(moment.module) != moment.state:
        assert process.poll() is None, f"{moment} did not come"
        time.sleep(0.05)
    process.kill()
    process.wait()


def test_a_module_for_another_kernel_is_refused_by_name_even_if_the_kernel_would_load_it(
    nodeagent: Command, node_file: Callable[[str], str]
) -> None:
    before = kernel.in_force()
    text = "version: 1\nmodules:\n  named: {standin_release: {}}\n"
    refused = nodeagent("apply", "--file", node_file(text), expect=3)
    said = refused.stdout + refused.stderr
    assert "standin_release" in said
    assert os.uname().release.replace("6", "9", 1) in said
    assert kernel.in_force() == before
