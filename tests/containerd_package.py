"""A containerd that knows CDI: the distribution's, or that of Debian's next release, unpacked and never installed."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nodeagent.host.clock import RealClock
from nodeagent.host.container_runtimes import LocalRuntimes
from nodeagent.host.files import LocalFiles
from nodeagent.host.services import Systemd

CACHE = Path(__file__).parents[1] / ".cache" / "containerd"
CDI_SINCE = (1, 7)
# Debian 12 has containerd 1.6. Its libc runs the next release's containerd, not the next release's runc.
NEXT = {"bookworm": "trixie"}
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"  # of debian-archive-keyring, which has the next release's too


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
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (CACHE / "unpacked").exists():
            _download()
    root = CACHE / "root"
    programs = str(root / "usr/bin")
    return _found(programs, runtimes_in(programs).version("containerd"), root)


def _found(programs: str, version: str, root: Path) -> Containerd:
    file = root / "etc/containerd/config.toml"
    return Containerd(programs, version, file.read_text() if file.exists() else "")


def _download() -> None:
    """By apt with lists and settings of its own: the machine's mirror, the next release, signatures checked as ever."""
    for name in ("root", "apt"):
        shutil.rmtree(CACHE / name, ignore_errors=True)
    apt = CACHE / "apt"
    (apt / "lists/partial").mkdir(parents=True)
    (apt / "status").touch()
    (apt / "sources.list").write_text(f"deb [signed-by={KEYS}] {_mirror()}\n")
    options = {
        "Dir::State": apt,
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # the cache is not open to apt's own user
    }
    command = ["apt-get", "-q", *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))]
    _run([*command, "update", "--error-on=any"], apt)
    _run([*command, "download", "containerd"], apt)
    _run(["dpkg-deb", "-x", *map(str, apt.glob("*.deb")), str(CACHE / "root")])
    shutil.rmtree(apt)
    (CACHE / "unpacked").touch()


def _mirror() -> str:
    """`URI RELEASE main`: where this machine's own Debian packages come from, for the next release."""
    wanted = [
        "apt-get",
        "indextargets",
        "--format",
        "$(LABEL) $(COMPONENT) $(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]
    for found in re.findall(r"(?m)^Debian main (\S+) (\S+)$", _run(wanted)):
        if found[0] in NEXT:
            return f"{found[1]} {NEXT[found[0]]} main"
    known = ", ".join(NEXT)
    raise LookupError(
        f"obtain containerd: apt has no lists of Debian {known}; run apt-get update, or install containerd 1.7"
    )


def _run(command: list[str], folder: Path | None = None) -> str:
    return subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True).stdout


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
