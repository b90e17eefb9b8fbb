"""A real containerd with its CRI plugin, on a socket, in namespaces that show a simulated node as its own.

Pods use the node's network, so no CNI is needed. All ends with the box: its first process takes orders until we close.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from container_world import WORLD, as_root, environment
from kubelet import made_by_protoc
from unit_box import UNIT, UnitBox

# Of kubernetes/cri-api pkg/apis/runtime/v1/api.proto, what a kubelet needs to run a pod on the node's network.
DEFINITION = """
syntax = "proto3";
package runtime.v1;
service RuntimeService {
  rpc RunPodSandbox(RunPodSandboxRequest) returns (RunPodSandboxResponse) {}
  rpc StopPodSandbox(PodSandbox) returns (Empty) {}
  rpc RemovePodSandbox(PodSandbox) returns (Empty) {}
  rpc CreateContainer(CreateContainerRequest) returns (Container) {}
  rpc StartContainer(Container) returns (Empty) {}
  rpc ExecSync(ExecSyncRequest) returns (ExecSyncResponse) {}
}
message Empty {}
message PodSandboxMetadata { string name = 1; string uid = 2; string namespace = 3; }
enum NamespaceMode { POD = 0; CONTAINER = 1; NODE = 2; }
message NamespaceOption { NamespaceMode network = 1; NamespaceMode pid = 2; NamespaceMode ipc = 3; }
message LinuxSandboxSecurityContext { NamespaceOption namespace_options = 1; }
message LinuxPodSandboxConfig { string cgroup_parent = 1; LinuxSandboxSecurityContext security_context = 2; }
message PodSandboxConfig { PodSandboxMetadata metadata = 1; LinuxPodSandboxConfig linux = 8; }
message RunPodSandboxRequest { PodSandboxConfig config = 1; }
message RunPodSandboxResponse { string pod_sandbox_id = 1; }
message PodSandbox { string pod_sandbox_id = 1; }
message ContainerMetadata { string name = 1; }
message ImageSpec { string image = 1; }
message CDIDevice { string name = 1; }
message LinuxContainerSecurityContext { NamespaceOption namespace_options = 3; }
message LinuxContainerConfig { LinuxContainerSecurityContext security_context = 2; }
message ContainerConfig {
  ContainerMetadata metadata = 1; ImageSpec image = 2; repeated string command = 3;
  map<string, string> annotations = 10; LinuxContainerConfig linux = 15; repeated CDIDevice CDI_devices = 17;
}
message CreateContainerRequest {
  string pod_sandbox_id = 1; ContainerConfig config = 2; PodSandboxConfig sandbox_config = 3;
}
message Container { string container_id = 1; }
message ExecSyncRequest { string container_id = 1; repeated string cmd = 2; int64 timeout = 3; }
message ExecSyncResponse { bytes stdout = 1; bytes stderr = 2; int32 exit_code = 3; }
"""
MESSAGES, STUBS = made_by_protoc(DEFINITION, "cri_api")
DEADLINE_SECONDS = 60
IMAGE = "localhost/busybox:test"
GROUP = f"nodeagent-test-{os.getpid()}"

_ON_THE_NODE = {"network": "NODE"}

# The packages' configurations name directories in /opt and /var/lib, where a plugin makes more.
_SERVE = r"""
mkdir "$WORK/programs"
mount --bind "$PROGRAMS" "$WORK/programs"
PATH="$WORK/programs:$PATH"
socket="$OUT/s"
serve() { exec containerd --config "$CONFIG" --root "$WORK/c" --state /run/containerd --address "$socket"; }
answers() { ctr --address "$socket" version && chmod 666 "$socket"; }
begin
tar -C "$WORK/rootfs" -cf "$WORK/layer.tar" .
cat > "$WORK/image.json" <<END
{"architecture": "$(dpkg --print-architecture)", "os": "linux", "config": {"Cmd": ["/bin/sleep", "100000"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$(sha256sum < "$WORK/layer.tar" | cut -d' ' -f1)"]}}
END
cat > "$WORK/manifest.json" <<END
[{"Config": "image.json", "RepoTags": ["$IMAGE", "$PAUSE"], "Layers": ["layer.tar"]}]
END
tar -C "$WORK" -cf "$WORK/image.tar" manifest.json image.json layer.tar
ctr --address "$socket" --namespace k8s.io images import "$WORK/image.tar" > /dev/null
echo ready
obey
close
"""


@dataclass(frozen=True)
class Box:
    """A running containerd: `unit` stands for its systemd unit, `pod` is its one pod."""

    unit: UnitBox
    stub: Any
    pod: str
    sandbox: Any

    def start(self, name: str, devices: Sequence[str], annotations: Mapping[str, str] | None = None) -> str:
        """A container of busybox alone with these CDI devices; its id. grpc.RpcError if containerd refuses."""
        config = MESSAGES.ContainerConfig(
            metadata={"name": name},
            image={"image": IMAGE},
            command=["/bin/sleep", "100000"],
            annotations=annotations or {},
            linux={"security_context": {"namespace_options": _ON_THE_NODE}},
            CDI_devices=[MESSAGES.CDIDevice(name=device) for device in devices],
        )
        wanted = MESSAGES.CreateContainerRequest(pod_sandbox_id=self.pod, config=config, sandbox_config=self.sandbox)
        made = self.stub.CreateContainer(wanted, timeout=DEADLINE_SECONDS)
        self.stub.StartContainer(made, timeout=DEADLINE_SECONDS)
        return str(made.container_id)

    def ask(self, container: str, script: str) -> str:
        """What a shell in the container prints."""
        wanted = MESSAGES.ExecSyncRequest(
            container_id=container, cmd=["/bin/sh", "-c", script], timeout=DEADLINE_SECONDS
        )
        said = self.stub.ExecSync(wanted, timeout=DEADLINE_SECONDS)
        assert said.exit_code == 0, said.stderr
        return str(said.stdout.decode())


@dataclass(frozen=True)
class Site:
    """What a containerd starts with: its programs and configuration, a simulated node with CDI files, room to work.

    `file` is where the configuration is, by default a copy of `config`.
    """

    programs: str
    config: str
    pause: str
    node: str
    directory: str
    work: Path
    file: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Box]:
    """containerd with a pod, until the block ends."""
    unit = UnitBox(site.work / "o")
    out = unit.out
    (site.work / "w").mkdir(parents=True)
    (out / "config.toml").write_text(site.config)
    own = {"PROGRAMS": site.programs, "OUT": str(out), "IMAGE": IMAGE, "PAUSE": site.pause, "GROUP": GROUP}
    own["CONFIG"] = site.file or str(out / "config.toml")
    command = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", WORLD + UNIT + _SERVE]
    variables = {**environment(site.node, site.work / "w", site.directory), **own}
    with subprocess.Popen(
        as_root(command, list(own)), env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "ready\n", unit.log
            with grpc.insecure_channel(f"unix://{out}/s") as channel:
                yield from _with_pod(unit, STUBS.RuntimeServiceStub(channel))
        finally:
            unit.close()


def _with_pod(unit: UnitBox, stub: Any) -> Iterator[Box]:
    """Stopped in order, so that no control group is left behind."""
    sandbox = MESSAGES.PodSandboxConfig(
        metadata={"name": "pod", "uid": "1", "namespace": "test"},
        linux={"cgroup_parent": f"/{GROUP}", "security_context": {"namespace_options": _ON_THE_NODE}},
    )
    wanted = MESSAGES.RunPodSandboxRequest(config=sandbox)
    pod = stub.RunPodSandbox(wanted, timeout=DEADLINE_SECONDS).pod_sandbox_id
    try:
        yield Box(unit, stub, pod, sandbox)
    finally:
        stub.StopPodSandbox(MESSAGES.PodSandbox(pod_sandbox_id=pod), timeout=DEADLINE_SECONDS)
        stub.RemovePodSandbox(MESSAGES.PodSandbox(pod_sandbox_id=pod), timeout=DEADLINE_SECONDS)
