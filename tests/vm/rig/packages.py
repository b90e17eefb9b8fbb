"""The stock kernel of Debian or Ubuntu, its headers and busybox: downloaded with apt, unpacked, never installed."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAMS = {
    "apt-get": "apt (the kernel packages are Debian's or Ubuntu's, so is the machine that runs these tests)",
    "apt-cache": "apt",
    "dpkg": "dpkg",
    "make": "make",
    "depmod": "kmod",
    "qemu-system-x86_64": "qemu-system-x86",
    "strace": "strace",
    "ip": "iproute2",
    "rdma": "iproute2",
    "ethtool": "ethtool",
    "busybox": "busybox-static",
    "systemd-analyze": "systemd",
    "zstd": "zstd",
    "podman": "podman",
    "crun": "crun",
    "dbus-daemon": "dbus-daemon",
    "lspci": "pciutils",
}


class RigError(Exception):
    """The virtual machine cannot be built or started; the message says what is missing."""


@dataclass(frozen=True)
class Distribution:
    """How a distribution names its kernel: `meta` depends on the newest image, `parts` hold it and its modules."""

    name: str
    meta: str
    parts: tuple[str, ...]

    def release(self, depends: str) -> str:
        """The kernel's release from `apt-cache depends META`, empty where apt does not know the package."""
        found = re.search(r"Depends: linux-image-(\d\S*)", depends)
        return found.group(1) if found else ""

    def packages(self, release: str, depends: str) -> list[str]:
        """All to be unpacked; `depends` is `apt-cache depends` of the headers, which come in several packages."""
        headers = re.findall(r"Depends: (linux-\S+)", depends)
        return [*(part.format(release) for part in self.parts), HEADERS.format(release), *headers, "busybox-static"]


HEADERS = "linux-headers-{}"
DISTRIBUTIONS = (
    Distribution("Debian", "linux-image-amd64", ("linux-image-{}",)),
    # The RDMA drivers lie in the extra modules.
    Distribution("Ubuntu", "linux-image-generic", ("linux-image-{}", "linux-modules-{}", "linux-modules-extra-{}")),
)


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
    distribution, release = choose(_depends)
    kernel = Kernel(release, cache / release / "root")
    stamp = cache / release / "unpacked"
    if not stamp.exists():
        for outdated in (cache / release, *(path.parent for path in cache.glob("*/unpacked"))):
            shutil.rmtree(outdated, ignore_errors=True)
        kernel.root.mkdir(parents=True)
        wanted = distribution.packages(release, _depends(HEADERS.format(release)))
        _unpack(wanted, cache / release / "packages", kernel.root)
        _make_relocatable(kernel)
        stamp.touch()
    return kernel


def choose(depends: Callable[[str], str]) -> tuple[Distribution, str]:
    """The distribution whose kernel apt knows, and the kernel's release; `depends` answers as `apt-cache depends`."""
    for distribution in DISTRIBUTIONS:
        release = distribution.release(depends(distribution.meta))
        if release:
            return distribution, release
    known = " nor ".join(distribution.meta for distribution in DISTRIBUTIONS)
    raise RigError(f"look up kernel: apt knows neither {known}; use Debian or Ubuntu and run apt-get update")


def _depends(package: str) -> str:
    """Empty for a package that apt does not know."""
    command = ["apt-cache", "depends", package]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _unpack(names: list[str], downloads: Path, root: Path) -> None:
    downloads.mkdir(parents=True)
    run(["apt-get", "download", *names], cwd=downloads, advice="run apt-get update; the machine needs a Debian mirror")
    for package in sorted(downloads.glob("*.deb")):
        run(["dpkg", "-x", str(package), str(root)])
    shutil.rmtree(downloads)


def _make_relocatable(kernel: Kernel) -> None:
    """Paths as they are on a system with this kernel installed, here below the root."""
    if not (kernel.root / "lib").exists():  # packages of a merged /usr, and depmod looks into /lib
        (kernel.root / "lib").symlink_to("usr/lib")
    # Debian's Makefile of the headers includes its other half by absolute path.
    makefile = kernel.headers / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{kernel.root}/usr/src/"))


def run(command: list[str], cwd: Path | None = None, advice: str = "") -> str:
    """Output of a program; RigError with its own words when it fails."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise RigError(f"run {' '.join(command)}: exit {done.returncode}: {said}" + (f"; {advice}" if advice else ""))
    return done.stdout
