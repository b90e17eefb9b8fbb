"""The distribution's own Podman in a mount namespace that shows a simulated node as its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from container_world import WORLD, as_root, environment

_RUN = r"""
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
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
        image = ("localhost/busybox:test", "sh", "-c", script)
        return subprocess.run(
            as_root(["unshare", "--mount", "sh", "-c", WORLD + _RUN, "sh", *wanted, *image]),
            env=environment(self.node, self.work),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
