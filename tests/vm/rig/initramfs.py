"""The initramfs: busybox, the modules that reach the host's file tree, and an init that puts an overlay on it."""

from __future__ import annotations

import lzma
import stat
from typing import TYPE_CHECKING

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
    entries.append(_entry("modules/order", "\n".join(_plain(path) for path in modules).encode(), stat.S_IFREG | 0o644))
    entries += [_entry(f"modules/{_plain(path)}", _content(path), stat.S_IFREG | 0o644) for path in modules]
    target.write_bytes(b"".join([*entries, _entry("TRAILER!!!", b"", 0)]))


def load_order(tree: Path, names: tuple[str, ...]) -> list[Path]:
    """Files of the modules and all they need, each once, needed ones first, by modules.dep (last one first)."""
    depends = {}
    for line in (tree / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[path.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")] = [*reversed(needs.split()), path]
    ordered = dict.fromkeys(path for name in names for path in depends[name])
    return [tree / path for path in ordered]


def _plain(path: Path) -> str:
    return path.name.removesuffix(".xz")


def _content(path: Path) -> bytes:
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def _entry(name: str, content: bytes, mode: int) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (0, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
