"""A cluster of one node, a simulated one: its sockets, CDI files and device nodes are what the kubelet sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cluster import programs
from cluster.programs import ADDRESS, NODE, PAUSE, Program, until
from container_world import DRIVER_ROOT, STAND_IN
from nodeagent.host.paths import NVIDIA_RUNTIME

TOOLS = "localhost/tools:1"
SHOWN = ("/var/lib/kubelet", "/var/run/cdi", "/etc/crio", DRIVER_ROOT)  # the node's directories, seen at the same place
Document = dict[str, Any]


@dataclass
class Cluster:
    """A running cluster; `node` is the directory of its node."""

    work: Path
    node: Path
    admin: str
    kubelet: Program
    crio: Program
    shown: set[str] = field(default_factory=set)

    def kubectl(self, *words: str, given: object = None) -> str:
        """What it prints; AssertionError with what it says if it fails. `given` becomes its standard input."""
        done = self.try_kubectl(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_kubectl(self, *words: str, given: object = None) -> subprocess.CompletedProcess[str]:
        text = given if isinstance(given, str | None) else yaml.safe_dump(given)
        command = ["kubectl", "--kubeconfig", self.admin, *words]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=300, check=False)

    def get(self, *words: str) -> Document:
        found: Document = json.loads(self.kubectl("get", *words, "-o", "json"))
        return found

    def allocatable(self, resource: str) -> int:
        """How many the scheduler may give away."""
        return int(self.get("node", NODE)["status"]["allocatable"].get(resource, "0"))

    def run(self, name: str, limits: dict[str, int], script: str = "sleep 100000", **spec: object) -> None:
        """Ask for a pod of busybox with these resources; it need not start."""
        self.show_devices()
        wanted = {name: str(count) for name, count in limits.items()}
        container = {"name": "c", "image": TOOLS, "command": ["sh", "-c", script], "resources": {"limits": wanted}}
        pod = {"containers": [container], "restartPolicy": "Never", "hostNetwork": True, **spec}
        pod.setdefault("terminationGracePeriodSeconds", 0)
        self.kubectl("apply", "-f", "-", given=_object("Pod", name, pod))

    def phase(self, name: str) -> str:
        return str(self.get("pod", name)["status"].get("phase"))

    def wait(self, name: str, phase: str = "Running") -> None:
        until(lambda: self.phase(name) == phase, lambda: self.kubectl("describe", "pod", name))

    def printed(self, name: str) -> list[str]:
        """The words that a pod printed that is over."""
        self.wait(name, "Succeeded")
        (log,) = Path("/var/log/pods").glob(f"default_{name}_*/c/0.log")  # the kubelet's directory, CRI's format
        return [word for line in log.read_text().splitlines() for word in line.split(" ", 3)[3].split()]

    def end(self, *names: str) -> None:
        """Delete pods, and wait until they are gone."""
        self.kubectl("delete", "pod", "--now", "--ignore-not-found", *names)

    def nvidia_runtime(self) -> Path:
        """Put an nvidia-container-runtime where its package does, runc in fact; the log of how it was called."""
        log, upper = self.work / "nvidia-runtime.log", self.work / "usr"
        (upper / "over").mkdir(parents=True)
        (upper / "work").mkdir()
        _mount(
            "-t", "overlay", "-o", f"lowerdir=/usr/bin,upperdir={upper}/over,workdir={upper}/work", "none", "/usr/bin"
        )
        for place in (Path(NVIDIA_RUNTIME), self.node / NVIDIA_RUNTIME.lstrip("/")):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {programs.RUNC} "$@"\n')
            place.chmod(0o755)
        return log

    def show_devices(self) -> None:
        """Stand-ins below /dev for every device node that the node's CDI files name; see container_world."""
        for file in (self.node / "var/run/cdi").glob("*.json"):
            for path in _nodes(json.loads(file.read_text())):
                self.show(path)

    def show(self, path: str) -> None:
        """A stand-in at this path below /dev."""
        if path not in self.shown:
            self.shown.add(path)
            stand_in = STAND_IN.get(path.removeprefix("/dev/").partition("/")[0], "null")
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).touch()
            _mount("--bind", f"/dev/{stand_in}", path)


def _nodes(document: Document) -> set[str]:
    edits = [document.get("containerEdits", {}), *(device["containerEdits"] for device in document["devices"])]
    return {str(node["path"]) for edit in edits for node in edit.get("deviceNodes", ())}


def _object(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, "spec": spec}


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


@contextmanager
def running(work: Path, node: Path) -> Iterator[Cluster]:
    """A cluster until the block ends, in the directories that `world` gave."""
    _show_node(node)
    make_images(work)
    kubelet, crio = programs.kubelet(work), programs.crio(work)
    with ExitStack() as stack:
        first = (programs.etcd(work), programs.api_server(work))
        for make in (lambda: first, lambda: programs.controllers(work), lambda: (crio, kubelet)):
            for program in make():
                stack.callback(program.stop)
                program.start()
        cluster = Cluster(work, node, str(work / "admin.kubeconfig"), kubelet, crio)
        until(lambda: cluster.kubectl("get", "serviceaccounts", "-o", "name"), lambda: "no service account")
        until(lambda: _is_ready(cluster), kubelet.end_of_log)
        yield cluster
        cluster.kubectl("delete", "pods,daemonsets", "--all", "--all-namespaces", "--now")


def _is_ready(cluster: Cluster) -> bool:
    found = json.loads(cluster.kubectl("get", "nodes", "-o", "json"))["items"]
    return any(
        one["type"] == "Ready" and one["status"] == "True" for node in found for one in node["status"]["conditions"]
    )


def world() -> Path:
    """An empty directory to work in, in namespaces of our own, with the node's address on a wire to nowhere.

    All that is mounted or written from now on is in memory and gone with the namespaces: nothing has to be removed, and
    nothing that removes a directory can come upon a mount of the machine's.
    """
    if not os.environ.get("NODEAGENT_CLUSTER"):
        raise programs.StartError("these tests mount over the machine's directories: start them with tests/cluster/run")
    programs.check()
    for words in ("link set lo up", "link add up0 type veth peer name up1", f"addr add {ADDRESS}/24 dev up0",
                  "link set up0 up", "link set up1 up", "route add default via 10.99.0.2"):  # fmt: skip
        subprocess.run(["ip", *words.split()], check=True)
    for place in ("/run", "/var/log", "/lib/modules"):
        Path(place).mkdir(exist_ok=True)
        _mount("-t", "tmpfs", "none", place)
    _own_dev(Path("/run/machine"))
    _own_cgroups(Path("/sys/fs/cgroup"))
    work = Path("/run/k")
    work.mkdir()
    return work


def _show_node(node: Path) -> None:
    """The node's directories where the kubelet and CRI-O look for them."""
    for place in SHOWN:
        own = node / place.lstrip("/")
        own.mkdir(parents=True, exist_ok=True)
        Path(place).mkdir(parents=True, exist_ok=True)
        _mount("--bind", str(own), place)


def _own_dev(machine: Path) -> None:
    """A /dev in memory with what containers need of the machine's, so that nodes can be added to it."""
    machine.mkdir()
    _mount("--rbind", "/dev", str(machine))
    _mount("-t", "tmpfs", "none", "/dev")
    for name in ("null", "zero", "full", "random", "urandom", "tty", "kmsg"):
        Path("/dev", name).touch()
        _mount("--bind", str(machine / name), f"/dev/{name}")
    for name in ("pts", "shm", "mqueue"):
        Path("/dev", name).mkdir()
    _mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "/dev/pts")
    Path("/dev/ptmx").symlink_to("pts/ptmx")
    Path("/dev/fd").symlink_to("/proc/self/fd")


def _own_cgroups(place: Path) -> None:
    """Where controllers are mounted one by one (cgroup v1), all that there are: runc wants each that CRI-O sets."""
    if (place / "cgroup.controllers").exists():
        return
    found = [line.split() for line in Path("/proc/cgroups").read_text().splitlines()[1:]]
    _mount("-t", "tmpfs", "none", str(place))
    hierarchies = {words[0]: words[0] for words in found if words[3] == "1"} | {"systemd": "none,name=systemd"}
    for name, option in hierarchies.items():
        (place / name).mkdir()
        _mount("-t", "cgroup", "-o", option, "none", str(place / name))


def make_images(work: Path) -> None:
    """What holds a pod's namespaces, and busybox, in CRI-O's storage."""
    root = work / "rootfs"
    (root / "bin").mkdir(parents=True)
    (root / "tmp").mkdir()
    shutil.copy(shutil.which("busybox") or "busybox", root / "bin/busybox")
    for name in ("sh", "cat", "ls", "env", "sleep", "stat", "test", "echo", "cut", "sort", "wget"):
        (root / "bin" / name).symlink_to("busybox")
    import_image(work, root, TOOLS)
    import_image(work, root, PAUSE, 'CMD ["/bin/sleep", "1000000"]')


def import_image(work: Path, root: Path, name: str, *changes: str) -> None:
    """A file tree as an image of one layer; `changes` are those of `podman import`."""
    storage = ["--root", str(work / "storage"), "--runroot", "/run/containers/storage", "--storage-driver", "overlay"]
    words = [part for change in changes for part in ("--change", change)]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
        subprocess.run(["podman", *storage, "import", "-q", *words, "-", name], stdin=archive.stdout, check=True)


def devices_in(names: Sequence[str]) -> set[str]:
    return {name for name in names if name.startswith("/dev/")}
