"""The kernel as the guest's tests see it, without any code of the agent in between."""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

SYS_DELETE_MODULE = 176  # x86-64, arch/x86/entry/syscalls/syscall_64.tbl
MODPROBE_RULES = Path("/etc/modprobe.d")
# They stay: one has no exit function.
PERMANENT = frozenset({"standin_permanent"})
LIBC = ctypes.CDLL(None, use_errno=True)


def loaded() -> set[str]:
    return {line.split()[0] for line in Path("/proc/modules").read_text().splitlines()}


def in_force() -> dict[str, dict[str, str]]:
    """Every loaded module with the parameters that can be read; for nvidia with what the driver shows itself."""
    found = {name: _texts(Path("/sys/module") / name / "parameters") for name in sorted(loaded())}
    params = Path("/proc/driver/nvidia/params")
    if params.exists():
        found["nvidia"] |= dict(line.split(": ", 1) for line in params.read_text().splitlines())
    return found


def liveness(name: str) -> str:
    """Live, Loading or Unloading by /proc/modules; empty if it is not in."""
    lines = map(str.split, Path("/proc/modules").read_text().splitlines())
    return next((line[4] for line in lines if line[0] == name), "")


def references(name: str) -> int:
    return int(Path(f"/sys/module/{name}/refcnt").read_text())


def rule(text: str) -> None:
    """Add a line to modprobe's configuration for the rest of this test."""
    with (MODPROBE_RULES / "test.conf").open("a") as file:
        file.write(text + "\n")


def let_go(name: str) -> None:
    """Make a stand-in give up the reference it holds on itself."""
    hold = Path(f"/sys/module/{name}/parameters/hold")
    if hold.exists() and hold.read_text().strip() == "Y":
        hold.write_text("0")


def remove_all_but(kept: set[str]) -> None:
    """Take out, leaves first, every module that was not there before; fails if one cannot be removed."""
    while extra := loaded() - kept - PERMANENT:
        for name in extra:
            let_go(name)
        removed = [name for name in extra if references(name) == 0 and _delete(name)]
        assert removed, f"cannot be removed: {sorted(extra)}"


def major(name: str) -> int:
    """Major of a character driver by /proc/devices."""
    lines = Path("/proc/devices").read_text().split("Block devices:")[0].splitlines()
    return next(int(line.split()[0]) for line in lines if line.endswith(f" {name}"))


@contextmanager
def open_device(path: str) -> Iterator[int]:
    """Keep a device open in this process."""
    handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)


def _texts(directory: Path) -> dict[str, str]:
    readable = [path for path in sorted(directory.glob("*")) if path.stat().st_mode & 0o444]
    return {path.name: path.read_text().strip() for path in readable}


def _delete(name: str) -> bool:
    return bool(LIBC.syscall(SYS_DELETE_MODULE, name.encode(), os.O_NONBLOCK) == 0)
