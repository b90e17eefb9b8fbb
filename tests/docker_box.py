"""A real dockerd, with a containerd of its own, in namespaces that show a simulated node as its own.

Containers have no network. All ends with the box: its first process takes orders from a FIFO until we close it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from container_world import WORLD, as_root, environment
from unit_box import UNIT, UnitBox

IMAGE = "test:1"
GROUP = f"nodeagent-docker-{os.getpid()}"
START_SECONDS = 60.0

_SERVE = r"""
export DOCKER_HOST="unix://$OUT/s" DOCKER_CONFIG="$WORK/client" PATH="$PROGRAMS:$PATH"
serve() {
    exec dockerd --config-file "$CONFIG" --data-root "$WORK/d" --exec-root /run/docker --pidfile "$WORK/pid" \
        -H "$DOCKER_HOST" \
        --bridge=none --ip-forward=false --iptables=false --ip6tables=false --storage-driver vfs \
        --cgroup-parent "/$GROUP" $FLAGS
}
answers() { docker version && chmod 666 "$OUT/s"; }
begin
tar -C "$WORK/rootfs" -c . | docker import - "$IMAGE"
echo ready
obey
docker rm -f $(docker ps -aq) || true
close
"""


@dataclass(frozen=True)
class Box:
    """A running dockerd."""

    unit: UnitBox
    client: str

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The real client with these words, to its end."""
        command = [self.client, "-H", f"unix://{self.unit.out}/s", *words]
        variables = {**os.environ, "DOCKER_CONFIG": str(self.unit.out / "client")}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=False)

    def run(self, *words: str, devices: tuple[str, ...] = ()) -> str:
        """What a container prints that is made for these words; AssertionError with dockerd's reason if it refuses."""
        asked = [word for device in devices for word in ("--device", device)]
        done = self.docker("run", "--rm", "--network", "none", *asked, IMAGE, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, name: str) -> None:
        """A container that runs until it is ended."""
        done = self.docker("run", "-d", "--network", "none", "--name", name, IMAGE, "/bin/sleep", "100000")
        assert done.returncode == 0, done.stderr

    def running(self, name: str) -> tuple[bool, str]:
        """Whether it runs, and since when."""
        form = "{{.State.Running}} {{.State.StartedAt}}"
        running, since = self.docker("inspect", "-f", form, name).stdout.split()
        return running == "true", since


@contextmanager
def serving(node: str, work: Path, path: str, client: str, flags: str = "") -> Iterator[Box]:
    """dockerd with the node's daemon.json, found in `path`, until the block ends. `flags` are those of its unit."""
    unit = UnitBox(work / "o")
    (work / "w").mkdir()
    own = {"PROGRAMS": path, "OUT": str(unit.out), "IMAGE": IMAGE, "GROUP": GROUP, "FLAGS": flags}
    own["CONFIG"] = f"{node}/etc/docker/daemon.json"
    script = WORLD + UNIT + _SERVE
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
    variables = {**environment(node, work / "w"), **own}
    with subprocess.Popen(
        as_root(command, list(own)), env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout
            assert process.stderr
            lines = iter(process.stdout.readline, "")
            if "ready\n" not in lines:
                raise AssertionError(f"{process.stderr.read()}\n{unit.log[-4000:]}")
            yield Box(unit, client)
        finally:
            unit.close()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
