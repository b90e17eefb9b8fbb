"""A QEMU that has a device model: the installed one, or that of Debian's next release, unpacked and never installed."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from next_release import Wanted, unpacked
from vm.rig.packages import PROGRAMS, RigError

if TYPE_CHECKING:
    from pathlib import Path

PROGRAM = "qemu-system-x86_64"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
# About 35 MB to download for 100 MB unpacked; with its own C library, which is newer than the machine's.
WANTED = Wanted(
    PROGRAMS[PROGRAM],
    instead="install QEMU 8.0 or later",
    with_needs=True,
    keep=(f"usr/bin/{PROGRAM}", "usr/lib64/ld-*", f"{LIBRARIES}/*.so*", "usr/share/qemu/*.bin", "usr/share/seabios/*"),
)


def obtain(model: str, cache: Path) -> tuple[str, ...]:
    """First words of the command. RigError where neither QEMU has the model."""
    if _has((PROGRAM,), model):
        return (PROGRAM,)
    command = _command(unpacked(WANTED, cache / "qemu"))
    if not _has(command, model):
        raise RigError(f"obtain QEMU: neither the installed one nor that of the next release has device {model}")
    return command


def _command(root: Path) -> tuple[str, ...]:
    """Through its own loader, so that nothing has to be installed; QEMU looks for firmware in each -L in turn."""
    loader = (str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(root / LIBRARIES))
    firmware = ("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios"))
    return (*loader, str(root / "usr/bin" / PROGRAM), *firmware)


def _has(command: tuple[str, ...], model: str) -> bool:
    """Asked for this one alone: for a list of all, QEMU loads modules, and finds those of the installed one."""
    asked = subprocess.run([*command, "-device", f"{model},help"], capture_output=True, text=True, check=False)
    return f"{model} options:" in asked.stdout
