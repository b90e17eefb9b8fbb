"""The distribution's own Podman in a mount namespace that shows a simulated node's driver, device nodes and CDI files.

Device nodes are bind mounts of /dev/null, /dev/zero and /dev/full, so that a container can be asked which it was given.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DRIVER_ROOT = "/run/nvidia/driver"
STAND_IN = {"nvidia-caps": "zero", "infiniband": "full"}  # by folder; all else is /dev/null

_WORLD = r"""
set -eu
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount -t tmpfs none "$WORK"
mkdir -p "$WORK/dev/pts" "$WORK/dev/shm" "$WORK/dev/mqueue" "$WORK/rootfs/bin" "$WORK/rootfs/dev" "$WORK/rootfs/tmp"
for node in null zero full random urandom tty $NODES; do
    mkdir -p "$(dirname "$WORK/dev/${node%%=*}")"
    : > "$WORK/dev/${node%%=*}"
    mount --bind "/dev/${node##*=}" "$WORK/dev/${node%%=*}"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$WORK/dev/pts"
ln -s pts/ptmx "$WORK/dev/ptmx"
mkdir "$WORK/run" && mkdir -p "$WORK/run/nvidia/driver" "$WORK/run/cdi"
mount --rbind "$NODE/run/nvidia/driver" "$WORK/run/nvidia/driver"
mount --rbind "$NODE/var/run/cdi" "$WORK/run/cdi"
mount --rbind "$WORK/run" /run
mount --rbind "$WORK/dev" /dev
cp "$(command -v busybox)" "$WORK/rootfs/bin/busybox"
for name in sh cat ls stat test env; do ln -s busybox "$WORK/rootfs/bin/$name"; done
podman="podman --root $WORK/store --runroot /run/p --storage-driver vfs --cgroup-manager=cgroupfs --runtime crun"
cd "$WORK" && tar -C rootfs -c . | $podman import -q - localhost/busybox:test > /dev/null
exec $podman run --rm --network none --cgroups=disabled --ulimit nofile=1024:1024 --ulimit nproc=512:512 "$@"
"""


@dataclass(frozen=True)
class Podman:
    """A simulated node's directory, and one beside it to work in."""

    node: str
    work: Path

    def run(self, devices: Iterable[str], script: str) -> subprocess.CompletedProcess[str]:
        """A container of busybox alone with these CDI devices; `script` is for its shell."""
        self.work.mkdir(exist_ok=True)
        wanted = [part for name in devices for part in ("--device", name)]
        command = [
            "unshare",
            "--mount",
            "sh",
            "-c",
            _WORLD,
            "sh",
            *wanted,
            "localhost/busybox:test",
            "sh",
            "-c",
            script,
        ]
        prefix = [] if os.geteuid() == 0 else ["sudo", "-n", "--preserve-env=WORK,NODE,NODES"]
        environment = {**os.environ, "WORK": str(self.work), "NODE": self.node, "NODES": " ".join(self._nodes())}
        return subprocess.run(
            [*prefix, *command], env=environment, capture_output=True, text=True, check=False, timeout=120
        )

    def _nodes(self) -> list[str]:
        """NAME=STAND-IN below /dev for every node that a specification of the node names."""
        paths: set[str] = set()
        for file in Path(self.node + "/var/run/cdi").iterdir():
            document = json.loads(file.read_text())
            edits = [document.get("containerEdits", {}), *(one["containerEdits"] for one in document["devices"])]
            paths |= {node["path"] for edit in edits for node in edit.get("deviceNodes", ())}
        names = sorted(path.removeprefix("/dev/") for path in paths)
        return [f"{name}={STAND_IN.get(name.partition('/')[0], 'null')}" for name in names]
