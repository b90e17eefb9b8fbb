"""Device numbers, cgroups, and the holders of devices among real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.process_facts import (
    Place,
    format_command,
    is_on_network,
    parse_cgroup,
    parse_devices,
    parse_network_mounts,
    read_device_nodes,
    read_majors,
)
from nodeagent.host.processes import ProcProcesses
from nodeagent.state.processes import DeviceNode, DeviceNumber
from trees import make_tree

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "9b1a7c5e-1f2d-4c3b-8a9e-0d1c2b3a4f5e"
UID_ = UID.replace("-", "_")
MIRROR = "d41d8cd98f00b204e9800998ecf8427e"  # a static pod's UID is the hash of its manifest
KUBEPODS = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"

CGROUPS = {
    "no cgroup": ("", Place()),
    "root": ("0::/", Place()),
    "service": ("0::/system.slice/nvidia-persistenced.service", Place("nvidia-persistenced.service")),
    "service with delegated groups": ("0::/system.slice/foo.service/worker/3", Place("foo.service")),
    "instance": ("0::/system.slice/system-getty.slice/getty@tty1.service", Place("getty@tty1.service")),
    "login session": ("0::/user.slice/user-1000.slice/session-3.scope", Place("session-3.scope")),
    "user service": (
        "0::/user.slice/user-1000.slice/user@1000.service/app.slice/jupyter.service",
        Place("user@1000.service"),
    ),
    "slurm step": ("0::/system.slice/slurmstepd.scope/job_123/step_0/user/task_0", Place("slurmstepd.scope")),
    "docker, systemd": (f"0::/system.slice/docker-{ID}.scope", Place("", ID)),
    "docker, cgroupfs": (f"0::/docker/{ID}", Place("", ID)),
    "docker in docker": (f"0::/docker/{OTHER}/docker/{ID}", Place("", ID)),
    "docker with its own init": (f"0::/system.slice/docker-{ID}.scope/init.scope", Place("", ID)),
    "podman, root": (f"0::/machine.slice/libpod-{ID}.scope/container", Place("", ID)),
    "podman, user": (
        f"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        Place("", ID),
    ),
    "podman with crun": (f"0::/machine.slice/libpod-payload-{ID}", Place("", ID)),
    "podman's monitor": (f"0::/machine.slice/libpod-conmon-{ID}.scope", Place(f"libpod-conmon-{ID}.scope")),
    "containerd by nerdctl": (f"0::/system.slice/nerdctl-{ID}.scope", Place("", ID)),
    "kubernetes, containerd": (f"0::{KUBEPODS}/cri-containerd-{ID}.scope", Place("", ID, UID)),
    "kubernetes, CRI-O": (f"0::{KUBEPODS}/crio-{ID}.scope/container", Place("", ID, UID)),
    "kubernetes, CRI-O's monitor": (f"0::{KUBEPODS}/crio-conmon-{ID}.scope", Place(f"crio-conmon-{ID}.scope", "", UID)),
    "kubernetes, docker": (f"0::{KUBEPODS}/docker-{ID}.scope", Place("", ID, UID)),
    "kubernetes, cgroupfs": (f"0::/kubepods/besteffort/pod{UID}/{ID}", Place("", ID, UID)),
    "kubernetes, guaranteed": (f"0::/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope", Place("", ID, UID)),
    "kubernetes, static pod": (f"0::/kubepods/burstable/pod{MIRROR}/{ID}", Place("", ID, MIRROR)),
    "kubernetes, mixed drivers": (
        f"0::/system.slice/containerd.service/kubepods-besteffort-pod{UID_}.slice:cri-containerd:{ID}",
        Place("", ID, UID),
    ),
    "kubernetes in docker": (
        f"0::/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        Place("", ID, UID),
    ),
    "seen from another namespace": (f"0::/../cri-containerd-{ID}.scope", Place("", ID)),
    "version 1, service": (
        "12:pids:/system.slice/dcgm.service\n5:devices:/system.slice/dcgm.service\n1:name=systemd:/system.slice/dcgm.service",
        Place("dcgm.service"),
    ),
    "version 1, kubernetes": (
        f"11:memory:/kubepods/burstable/pod{UID}/{ID}\n1:name=systemd:/kubepods/burstable/pod{UID}/{ID}",
        Place("", ID, UID),
    ),
    "hybrid, docker": (f"9:name=systemd:/\n4:memory:/docker/{ID}\n0::/", Place("", ID)),
    "a path with colons": ("0::/system.slice/a:b.service", Place("a:b.service")),
    "cut short": ("0:", Place()),
}


@pytest.mark.parametrize("name", CGROUPS)
def test_place_by_cgroup(name: str) -> None:
    text, expected = CGROUPS[name]
    assert parse_cgroup(text) == expected


DEVICES = """\
Character devices:
  1 mem
  4 /dev/vc/0
  4 tty
195 nvidia
195 nvidia-modeset
195 nvidiactl
231 infiniband_verbs
508 nvidia-uvm
509 infiniband_verbs

Block devices:
  7 loop
"""


def test_majors_have_one_name_each(tmp_path: Path) -> None:
    expected = {"mem": 1, "/dev/vc/0": 4, "nvidia": 195, "infiniband_verbs": 231, "nvidia-uvm": 508}
    assert parse_devices(DEVICES) == expected
    assert read_majors(make_tree(tmp_path, {"/proc/devices": DEVICES})) == expected
    assert read_majors(LocalFiles(str(tmp_path / "none"))) == {}


def test_device_nodes(tmp_path: Path) -> None:
    files = make_tree(tmp_path, {"/dev/nvidia-notes": "a plain file", "/dev/infiniband/by-path/x": ""})
    nodes = [
        DeviceNode(path, major, minor, 0o600, os.getuid(), os.getgid())
        for path, major, minor in [
            ("/dev/nvidia0", 195, 0), ("/dev/nvidiactl", 195, 255), ("/dev/nvidia-caps/nvidia-cap1", 511, 1),
            ("/dev/infiniband/uverbs0", 231, 192), ("/dev/gdrdrv", 510, 0),
        ]
    ]  # fmt: skip
    for node in (*nodes, DeviceNode("/dev/sda", 8, 0)):
        files.make_device_node(node)
    assert read_device_nodes(files) == {node.path: node for node in nodes}


def test_command_lines_are_shortened() -> None:
    assert format_command("python\0train.py\0--lr\n1\0") == "python train.py --lr 1"
    assert format_command("x" * 200, limit=10) == "xxxxxxx..."
    assert format_command("") == ""


MOUNTS = "overlay / overlay rw 0 0\ndevtmpfs /dev devtmpfs rw 0 0\n/dev/sda1 /home/local ext4 rw 0 0\n"
NFS = "server:/home /home nfs4 rw 0 0\n"


def test_files_on_network_mounts() -> None:
    assert parse_network_mounts(MOUNTS) == ()
    mounts = parse_network_mounts(NFS + MOUNTS)
    assert all(is_on_network(path, mounts) for path in ("/home/a", "/home"))
    assert not any(is_on_network(path, mounts) for path in ("/homes/a", "/home/local/x", "/dev/nvidia0"))
    assert is_on_network("/s3/x", parse_network_mounts("s3 /s3 fuse.s3fs rw 0 0"))
    assert parse_network_mounts("x / fuse.fuse-overlayfs rw 0 0") == ()


@contextmanager
def _holder(code: str, *arguments: str) -> Iterator[int]:
    """A process that runs the code, says that it is ready, and waits for its end."""
    program = f"import os, sys, threading, time\n{code}\nprint('ready', flush=True)\n"
    command = [sys.executable, "-c", program + "threading.Event().wait()", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process.pid
        finally:
            process.kill()


FULL = os.stat("/dev/full").st_rdev
FULL_NUMBER = DeviceNumber(os.major(FULL), os.minor(FULL))


def test_the_holder_of_a_device_is_found_by_number(tmp_path: Path) -> None:
    (tmp_path / "another name").symlink_to("/dev/full")
    with _holder("kept = open(sys.argv[1])", str(tmp_path / "another name")) as pid:
        found = {process.pid: process for process in ProcProcesses(LocalFiles()).holding([FULL_NUMBER.major])}
    assert FULL_NUMBER in found[pid].opens
    assert found[pid].name.startswith("python")
    assert found[pid].command.startswith(sys.executable)
    assert found[pid].opens == tuple(sorted(set(found[pid].opens)))


def test_a_process_whose_first_thread_has_ended_is_still_a_holder() -> None:
    code = (
        "import ctypes\n"
        "kept = open('/dev/full')\n"
        "def wait():\n"
        "    while open('/proc/self/stat').read().split()[2] != 'Z': time.sleep(0.01)\n"
        "    print('ready', flush=True)\n"
        "    threading.Event().wait()\n"
        "threading.Thread(target=wait).start()\n"
        "ctypes.CDLL(None).syscall(93 if os.uname().machine == 'aarch64' else 60, 0)"  # exit of this thread alone
    )
    with _holder(code) as pid:
        found = {process.pid: process for process in ProcProcesses(LocalFiles()).holding([FULL_NUMBER.major])}
    assert FULL_NUMBER in found[pid].opens


def test_no_majors_means_no_processes() -> None:
    assert ProcProcesses(LocalFiles()).holding([]) == ()


def test_describe_leaves_out_those_that_have_ended() -> None:
    with _holder("") as pid:
        assert [found.pid for found in ProcProcesses(LocalFiles()).describe([pid])] == [pid]
    assert ProcProcesses(LocalFiles()).describe([pid]) == ()


def test_device_numbers_may_come_from_elsewhere(tmp_path: Path) -> None:
    """The simulated node keeps its device numbers in placeholder files."""
    place = tmp_path / "nvidia0"
    place.write_text("c 195 0\n")

    def number_of(path: str) -> DeviceNumber | None:
        return DeviceNumber(195, 0) if os.path.samefile(path, place) else None

    with _holder("kept = open(sys.argv[1])", str(place)) as pid:
        found = ProcProcesses(LocalFiles(), number_of).holding([195])
    assert [(process.pid, process.opens) for process in found] == [(pid, (DeviceNumber(195, 0),))]


def test_a_process_in_a_tree_has_its_place(tmp_path: Path) -> None:
    texts = {"/proc/7/comm": "dcgm", "/proc/7/cmdline": "nv-hostengine\0-n\0", "/proc/7/cgroup": CGROUPS["service"][0],
             "/proc/9/status": "gone meanwhile", "/proc/self/comm": "x"}  # fmt: skip
    files = make_tree(tmp_path, texts, {"/proc/7/fd/3": "/dev/full", "/proc/7/fd/4": "/nowhere"})
    found = ProcProcesses(files).holding([FULL_NUMBER.major])
    assert [(process.pid, process.name, process.unit, process.opens) for process in found] == [
        (7, "dcgm", "nvidia-persistenced.service", (FULL_NUMBER,))
    ]


def test_processes_that_may_not_be_seen_are_counted() -> None:
    """As an unprivileged user, in a process of its own: the others' open files are unknown, not nothing."""
    code = (
        "import os, sys\n"
        "from nodeagent.host.files import LocalFiles\n"
        "from nodeagent.host.processes import ProcProcesses\n"
        "if os.getuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "seen = ProcProcesses(LocalFiles())\n"
        "seen.holding([1])\n"
        "print(1 in seen.unreadable)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
