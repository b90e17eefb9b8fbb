"""The programs of a cluster: what each is started with, and when it is up."""

from __future__ import annotations

import http
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

NEEDED = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl",
    "crio", "pinns", "conmon", "runc", "podman", "openssl",
)  # fmt: skip
PATIENCE_SECONDS = 60.0
ADMIN, KUBELET = "admin-token", "kubelet-token"
NODE, ADDRESS = "node1", "10.99.0.1"
API = f"https://{ADDRESS}:6443"
PAUSE = "localhost/pause:1"
RUNC = Path(__file__).with_name("modest_runc")


class StartError(Exception):
    """A program is missing, or did not come up; the message has the end of its log."""


def check() -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        raise StartError(f"not on PATH: {', '.join(missing)} (tests/cluster/run says what is needed)")


def until(what: Callable[[], object], told: Callable[[], object] = lambda: "") -> None:
    """Wait for it; StartError with what is told after a while."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        if time.monotonic() > end:
            raise StartError(str(told()))
        time.sleep(0.1)


@dataclass
class Program:
    """One that runs in the background until it is stopped; its log is its name's."""

    work: Path
    command: list[str]
    is_up: Callable[[], bool]
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def log(self) -> Path:
        return self.work / f"{self.command[0]}.log"

    @property
    def pid(self) -> int:
        assert self.process
        return self.process.pid

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out, cwd=self.work)
        until(lambda: self._ended() or self.is_up(), self.end_of_log)
        if self._ended():
            raise StartError(f"{self.command[0]} ended: {self.end_of_log()}")

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)

    def end_of_log(self) -> str:
        return self.log.read_text()[-4000:]

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None


def answers(url: str) -> bool:
    """Whether it says 200."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {ADMIN}"})
    try:
        with urllib.request.urlopen(request, timeout=5, context=context) as answer:
            return int(answer.status) == http.HTTPStatus.OK
    except (urllib.error.URLError, OSError):
        return False


def listens(path: Path) -> bool:
    """Whether somebody accepts connections there."""
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def etcd(work: Path) -> Program:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    listen = ["--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer]
    return Program(work, ["etcd", "--data-dir", str(work / "etcd"), *listen], lambda: answers(f"{client}/health"))


def api_server(work: Path) -> Program:
    """With two fixed tokens, the rights of a node for the kubelet's, and keys that openssl makes."""
    key, public = str(work / "sa.key"), str(work / "sa.pub")
    subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    subprocess.run(["openssl", "rsa", "-in", key, "-pubout", "-out", public], check=True, capture_output=True)
    tokens = work / "tokens.csv"
    tokens.write_text(f'{ADMIN},admin,1,"system:masters"\n{KUBELET},system:node:{NODE},2,"system:nodes"\n')
    flags = {
        "etcd-servers": "http://127.0.0.1:2379",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": public,
        "service-account-signing-key-file": key,
        "cert-dir": str(work / "api"),
        "token-auth-file": str(tokens),
        "authorization-mode": "Node,RBAC",
        "service-cluster-ip-range": "10.98.0.0/16",
        "allow-privileged": "true",
        "bind-address": ADDRESS,
        "advertise-address": ADDRESS,
    }
    words = [f"--{name}={value}" for name, value in flags.items()]
    return Program(work, ["kube-apiserver", *words], lambda: answers(f"{API}/readyz"))


def access(work: Path, name: str, token: str) -> str:
    """Path of a kubeconfig with this token."""
    file = work / f"{name}.kubeconfig"
    file.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
        f"clusters: [{{name: k, cluster: {{server: '{API}', insecure-skip-tls-verify: true}}}}]\n"
        f"users: [{{name: u, user: {{token: {token}}}}}]\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
    )
    return str(file)


def controllers(work: Path) -> tuple[Program, Program]:
    admin = ["--kubeconfig", access(work, "admin", ADMIN), "--leader-elect=false"]
    manager = ["kube-controller-manager", *admin, f"--service-account-private-key-file={work / 'sa.key'}"]
    manager.append(f"--root-ca-file={work / 'api' / 'apiserver.crt'}")
    return (
        Program(work, manager, lambda: answers("https://127.0.0.1:10257/healthz")),
        Program(work, ["kube-scheduler", *admin], lambda: answers("https://127.0.0.1:10259/healthz")),
    )


CRIO = """\
[crio]
root = "{work}/storage"
runroot = "/run/containers/storage"
storage_driver = "overlay"
log_dir = "{work}/pods"
[crio.runtime]
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
default_runtime = "runc"
[crio.runtime.runtimes.runc]
runtime_path = "{runc}"
monitor_path = "{conmon}"
[crio.image]
signature_policy = "{work}/policy.json"
pause_image = "{pause}"
[crio.network]
plugin_dirs = ["/usr/lib/cni"]
network_dir = "{work}/cni"
"""


def crio(work: Path) -> Program:
    """With a configuration of ours where its own would be; that directory is the node's."""
    (work / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    (work / "cni").mkdir()
    (work / "cni" / "1.conflist").write_text('{"cniVersion": "1.0.0", "name": "lo", "plugins": [{"type": "loopback"}]}')
    text = CRIO.format(work=work, pause=PAUSE, runc=RUNC, conmon=shutil.which("conmon"))
    Path("/etc/crio/crio.conf").write_text(text)
    place = Path("/run/crio/crio.sock")
    return Program(work, ["crio", "--listen", str(place)], lambda: listens(place))


KUBELET_FILE = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix:///run/crio/crio.sock
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: ""}}
authorization: {mode: AlwaysAllow}
readOnlyPort: 10255
enforceNodeAllocatable: []
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", memory.available: 50Mi}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 1s
syncFrequency: 1s
"""


def kubelet(work: Path) -> Program:
    file = work / "kubelet.yaml"
    file.write_text(KUBELET_FILE)
    place = ["--hostname-override", NODE, "--node-ip", ADDRESS]
    command = ["kubelet", "--config", str(file), "--kubeconfig", access(work, "kubelet", KUBELET), *place]
    return Program(work, command, lambda: answers("http://127.0.0.1:10248/healthz"))
