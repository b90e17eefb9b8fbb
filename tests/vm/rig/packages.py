"""The stock Debian kernel, its headers and a static busybox: downloaded with apt and unpacked, never installed."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

META_PACKAGE = "linux-image-amd64"
PROGRAMS = {
    "apt-get": "apt (the kernel packages are Debian's, so is the machine that runs these tests)",
    "apt-cache": "apt",
    "dpkg": "dpkg",
    "make": "make",
    "depmod": "kmod",
    "qemu-system-x86_64": "qemu-system-x86",
    "strace": "strace",
    "ip": "iproute2",
    "rdma": "iproute2",
}


class RigError(Exception):
    """The virtual machine cannot be built or started; the message says what is missing."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel: `release` as uname -r says it, `root` the directory the packages were unpacked into."""

    release: str
    root: Path

    @property
    def image(self) -> Path:
        return self.root / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self) -> Path:
        return self.root / "lib" / "modules" / self.release

    @property
    def headers(self) -> Path:
        return self.root / "usr" / "src" / f"linux-headers-{self.release}"

    @property
    def busybox(self) -> Path:
        merged = self.root / "usr" / "bin" / "busybox"
        return merged if merged.exists() else self.root / "bin" / "busybox"


def require_programs() -> None:
    """Raise RigError that names every missing program with its Debian package."""
    missing = [f"{name} (package {package})" for name, package in PROGRAMS.items() if shutil.which(name) is None]
    if missing:
        raise RigError(f"prepare vm: programs not found: {', '.join(missing)}; install the packages of the README")


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """One preparation at a time: a second run of the tests waits here."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def obtain(cache: Path) -> Kernel:
    """The newest stock kernel that apt knows, from the cache or by download (about 85 MB, 500 MB unpacked)."""
    release = _release()
    kernel = Kernel(release, cache / release / "root")
    stamp = cache / release / "unpacked"
    if not stamp.exists():
        for outdated in (cache / release, *(path.parent for path in cache.glob("*/unpacked"))):
            shutil.rmtree(outdated, ignore_errors=True)
        kernel.root.mkdir(parents=True)
        _unpack(_wanted(release), cache / release / "packages", kernel.root)
        _make_relocatable(kernel)
        stamp.touch()
    return kernel


def _release() -> str:
    found = re.search(r"Depends: linux-image-(\S+)", run(["apt-cache", "depends", META_PACKAGE]))
    if found is None:
        raise RigError(f"look up kernel: apt knows no package {META_PACKAGE}; use Debian and run apt-get update")
    return found.group(1)


def _wanted(release: str) -> list[str]:
    headers = f"linux-headers-{release}"
    needed = re.findall(r"Depends: (linux-\S+)", run(["apt-cache", "depends", headers]))
    return [f"linux-image-{release}", headers, *needed, "busybox-static"]


def _unpack(names: list[str], downloads: Path, root: Path) -> None:
    downloads.mkdir(parents=True)
    run(["apt-get", "download", *names], cwd=downloads, advice="run apt-get update; the machine needs a Debian mirror")
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg", "-x", str(package), str(root)])
    shutil.rmtree(downloads)


def _make_relocatable(kernel: Kernel) -> None:
    """The headers' Makefile includes its other half by absolute path; point it to where we unpacked."""
    makefile = kernel.headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{kernel.root}/usr/src/"))


def run(command: list[str], cwd: Path | None = None, advice: str = "") -> str:
    """Output of a program; RigError with its own words when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise RigError(f"run {' '.join(command)}: exit {done.returncode}: {said}" + (f"; {advice}" if advice else ""))
    return done.stdout
