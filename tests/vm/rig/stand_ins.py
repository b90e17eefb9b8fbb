"""Builds the stand-in modules against the stock kernel's headers and puts them where depmod finds them first."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

from vm.rig.packages import RigError, run

if TYPE_CHECKING:
    from pathlib import Path

    from vm.rig.packages import Kernel

# struct modversion_info: an unsigned long CRC, then the name of the symbol (include/linux/module.h).
CRC_BYTES = 8


def install(kernel: Kernel, sources: Path) -> None:
    """Compile, spoil those that have to be refused, install into updates/ and run depmod; nothing if up to date."""
    stamp = kernel.root.parent / "stand-ins"
    wanted = _fingerprint(sources)
    if stamp.exists() and stamp.read_text() == wanted:
        return
    build = kernel.root.parent / "build"
    shutil.rmtree(build, ignore_errors=True)
    shutil.copytree(sources, build)
    # KBUILD_MODPOST_WARN: one stand-in imports a symbol that nobody exports, and that is its purpose.
    run(
        ["make", "-s", "-C", str(kernel.headers), f"M={build}", "KBUILD_MODPOST_WARN=1", "modules"],
        advice=_compiler_advice(kernel),
    )
    _spoil(build, kernel.release)
    updates = kernel.modules / "updates"
    shutil.rmtree(updates, ignore_errors=True)
    updates.mkdir()
    for module in build.glob("*.ko"):
        shutil.copy(module, updates)
    run(["depmod", "-b", str(kernel.root), kernel.release])
    stamp.write_text(wanted)


def _fingerprint(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(sources.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _compiler_advice(kernel: Kernel) -> str:
    return f"the kernel's compiler (see {kernel.headers}/.kernelvariables) and libelf1 have to be installed"


def _spoil(build: Path, release: str) -> None:
    """What no compiler would make: modules for another kernel, for another build of nvidia, and one that is not GPL."""
    foreign = release.replace(release[0], "9", 1)
    # A kernel with modversions ignores the release in the magic; what follows it has to differ for a refusal.
    for name in ("standin_vermagic.ko", "standin_release.ko"):
        _replace(build / name, f"vermagic={release}".encode(), f"vermagic={foreign}".encode())
    for name in ("standin_vermagic.ko", "standin_flags.ko"):
        _replace(build / name, b" modversions ", b"\0" * len(b" modversions "))
    _replace(build / "standin_proprietary.ko", b"license=Dual MIT/GPL\0", b"license=Proprietary\0\0")
    module = build / "standin_crc.ko"
    content = bytearray(module.read_bytes())
    at = content.find(b"nvidia_standin_attach\0".ljust(32, b"\0")) - CRC_BYTES
    if at < 0:
        raise RigError(f"spoil {module.name}: its __versions section does not name nvidia_standin_attach")
    content[at] ^= 0xFF
    module.write_bytes(bytes(content))


def _replace(module: Path, before: bytes, after: bytes) -> None:
    content = module.read_bytes()
    if before not in content or len(before) != len(after):
        raise RigError(f"spoil {module.name}: {before!r} is not in it")
    module.write_bytes(content.replace(before, after))
