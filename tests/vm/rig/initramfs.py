"""The initramfs: busybox, the modules that reach the host's file tree, and an init that puts an overlay on it."""

from __future__ import annotations

import lzma
import stat
import subprocess
from typing import TYPE_CHECKING

from vm.rig.packages import RigError

if TYPE_CHECKING:
    from pathlib import Path

    from vm.rig.packages import Kernel

ROOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
HOST_OPTIONS = "trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro"
RESULT_OPTIONS = "trans=virtio,version=9p2000.L,msize=524288,cache=none"
INIT = """#!/bin/busybox sh
set -e
/bin/busybox mkdir -p /proc /sys /dev /lower /upper /new
/bin/busybox mount -t devtmpfs devtmpfs /dev
exec < /dev/console > /dev/console 2>&1
/bin/busybox mount -t proc proc /proc
for module in $(/bin/busybox cat /modules/order); do /bin/busybox insmod /modules/$module; done
/bin/busybox mount -t 9p -o {host} host /lower
/bin/busybox mount -t tmpfs -o size=1g tmpfs /upper
/bin/busybox mkdir /upper/changes /upper/work
/bin/busybox mount -t overlay -o lowerdir=/lower,upperdir=/upper/changes,workdir=/upper/work,xino=off overlay /new
/bin/busybox mkdir -p /new/vm/results /new/proc /new/sys /new/dev /new/run
/bin/busybox mount -t 9p -o {results} results /new/vm/results
/bin/busybox umount /proc
/bin/busybox mount -o move /dev /new/dev
exec /bin/busybox switch_root /new /bin/sh /vm/results/guest.sh
"""


def write(kernel: Kernel, target: Path) -> None:
    """Write the archive in the kernel's newc format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
    modules = load_order(kernel.modules, ROOT_MODULES)
    init = INIT.format(host=HOST_OPTIONS, results=RESULT_OPTIONS)
    entries = [_entry("bin", b"", stat.S_IFDIR | 0o755), _entry("modules", b"", stat.S_IFDIR | 0o755)]
    entries.append(_entry("bin/busybox", kernel.busybox.read_bytes(), stat.S_IFREG | 0o755))
    entries.append(_entry("init", init.encode(), stat.S_IFREG | 0o755))
    entries.append(_entry("modules/order", "\n".join(plain(path) for path in modules).encode(), stat.S_IFREG | 0o644))
    entries += [_entry(f"modules/{plain(path)}", content(path), stat.S_IFREG | 0o644) for path in modules]
    target.write_bytes(b"".join([*entries, _entry("TRAILER!!!", b"", 0)]))


def load_order(tree: Path, names: tuple[str, ...]) -> list[Path]:
    """Files of the modules and all they need, each once, needed ones first, by modules.dep (last one first).

    What is built into this kernel has no file. RigError for a module that the kernel has neither way.
    """
    builtin = {_name(line) for line in (tree / "modules.builtin").read_text().splitlines()}
    depends: dict[str, list[str]] = {name: [] for name in builtin}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[_name(path)] = [*reversed(needs.split()), path]
    missing = [name for name in names if name not in depends]
    if missing:
        raise RigError(f"write initramfs: {tree} has no module {', '.join(missing)}")
    ordered = dict.fromkeys(path for name in names for path in depends[name])
    return [tree / path for path in ordered]


def plain(path: Path) -> str:
    """Name of a module's file without the suffix of its compression."""
    return path.name.partition(".ko")[0] + ".ko"


def content(path: Path) -> bytes:
    """A module's file, unpacked: Debian 12 does not compress them, later ones use xz, Ubuntu uses zstd."""
    if path.suffix == ".zst":  # Python has no zstd before 3.14
        return subprocess.run(["zstd", "-dc", str(path)], capture_output=True, check=True).stdout
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].partition(".")[0].replace("-", "_")


def _entry(name: str, content: bytes, mode: int) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
