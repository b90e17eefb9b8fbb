"""A Docker that knows CDI: that of Debian's next release, unpacked and never installed, or the distribution's own."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from containerd_package import obtain as obtain_containerd
from containerd_package import runtimes_in
from next_release import Wanted, unpacked

CACHE = Path(__file__).parents[1] / ".cache" / "docker"
CDI_SINCE = (25,)
INSTEAD = "install Docker 25 or later"
DAEMON = Wanted("docker.io", instead=INSTEAD, keep=("usr/sbin/dockerd", "usr/bin/docker-init"))
CLIENT = Wanted("docker-cli", instead=INSTEAD, keep=("usr/bin/docker",))


@dataclass(frozen=True)
class Docker:
    """`path` is where its programs are, and those of the containerd that it starts, as in $PATH."""

    path: str

    @property
    def client(self) -> str:
        found = shutil.which("docker", path=self.path)
        assert found, self.path
        return found


def obtain() -> Docker:
    """The installed one where it is new enough, else from the cache or by download (about 65 MB with containerd)."""
    containerd = obtain_containerd().programs
    installed = runtimes_in(None).version("docker")
    if _release(installed) >= CDI_SINCE and shutil.which("docker"):
        return Docker(os.pathsep.join((containerd, os.environ["PATH"])))
    daemon, client = unpacked(DAEMON, CACHE / "daemon"), unpacked(CLIENT, CACHE / "client")
    return Docker(f"{containerd}:{daemon}/usr/sbin:{daemon}/usr/bin:{client}/usr/bin")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.split(r"[~+]", version)[0].split(".") if part.isdecimal())
