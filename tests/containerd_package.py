"""A containerd that knows CDI: the distribution's, or that of Debian's next release, unpacked and never installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import next_release
from next_release import Wanted
from nodeagent.host.clock import RealClock
from nodeagent.host.container_runtimes import LocalRuntimes
from nodeagent.host.files import LocalFiles
from nodeagent.host.services import Systemd

CACHE = Path(__file__).parents[1] / ".cache" / "containerd"
CDI_SINCE = (1, 7)
# Debian 12 has containerd 1.6. Its libc runs the next release's containerd, not the next release's runc.
WANTED = Wanted("containerd", instead="install containerd 1.7 or later")


@dataclass(frozen=True)
class Containerd:
    """`programs` holds containerd, its shims and ctr; `shipped` is the configuration that the package brings, or ""."""

    programs: str
    version: str
    shipped: str

    @property
    def runtimes(self) -> LocalRuntimes:
        """The agent's real adapter, with this containerd."""
        return runtimes_in(self.programs)

    @property
    def default(self) -> str:
        """Its own default configuration."""
        return _run([f"{self.programs}/containerd", "config", "default"])

    def read(self, text: str) -> str:
        """What it makes of a configuration, all defaults included."""
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
            file.write(text)
            file.flush()
            return self.dump(Path(file.name))

    def dump(self, file: Path) -> str:
        """The same of a configuration file and all that it imports."""
        return _run([f"{self.programs}/containerd", "--config", str(file), "config", "dump"])


def runtimes_in(path: str | None) -> LocalRuntimes:
    """The agent's adapter that looks for programs there, by default as the shell does."""
    return LocalRuntimes(Systemd(LocalFiles(), RealClock()), path)


def obtain() -> Containerd:
    """The installed one where it is new enough, else from the cache or by download (about 35 MB)."""
    installed = runtimes_in(None).version("containerd")
    program = shutil.which("containerd")
    if program and _release(installed) >= CDI_SINCE:
        return _found(os.path.dirname(program), installed, Path("/"))
    root = next_release.unpacked(WANTED, CACHE)
    programs = str(root / "usr/bin")
    return _found(programs, runtimes_in(programs).version("containerd"), root)


def _found(programs: str, version: str, root: Path) -> Containerd:
    file = root / "etc/containerd/config.toml"
    return Containerd(programs, version, file.read_text() if file.exists() else "")


def _run(command: list[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
