"""Which real processes have device nodes of the simulated node open.

A node is a placeholder file; a process that opens it is found through the real /proc, by what the open file says about
itself. So a node that was replaced meanwhile still counts as the device it was when it was opened. Looking at a node
must not open it, or two agents at work would take each other for holders: therefore the number stands in the file's
modification time as well (major in seconds, minor in nanoseconds since 1970), where stat(2) finds it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.host import paths
from nodeagent.state.processes import DeviceNode, DeviceNumber

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nodeagent.simulation.kernel_state import KernelState

_LONGEST = 64
_SECOND = 1_000_000_000
_OWNED = 1 << 12  # majors have 12 bits; above them: owner and group are not root's and stand in the text


@dataclass(frozen=True)
class OpenDevice:
    """One open file descriptor of a real process on a simulated device."""

    pid: int
    number: DeviceNumber


def format_node(node: DeviceNode) -> str:
    """Text of a placeholder: `c MAJOR MINOR MODE UID GID`, mode in octal."""
    return f"c {node.major} {node.minor} {node.mode:04o} {node.uid} {node.gid}\n"


def parse_node(path: str, text: str) -> DeviceNode | None:
    """The device that a placeholder stands for, None if the text is not one."""
    words = text.split()
    if len(words) != 6 or words[0] != "c":
        return None
    try:
        return DeviceNode(path, int(words[1]), int(words[2]), int(words[3], 8), int(words[4]), int(words[5]))
    except ValueError:
        return None


def write_node(path: str, node: DeviceNode, scratch: str) -> None:
    """Create or replace the placeholder in one rename, written at `scratch` first. OSError."""
    with suppress(FileNotFoundError):
        os.unlink(scratch)
    with open(scratch, "w", encoding="ascii") as file:
        file.write(format_node(node))
    os.chmod(scratch, node.mode)
    owned = _OWNED if (node.uid, node.gid) != (0, 0) else 0
    stamp = (node.major + owned) * _SECOND + node.minor
    os.utime(scratch, ns=(stamp, stamp))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.rename(scratch, path)


def read_node(path: str, name: str) -> DeviceNode | None:
    """The device that the placeholder at `path` stands for, called `name`; None if it is none. OSError if absent."""
    found = os.lstat(path)
    number = _stamped(found)
    if number is not None and found.st_mtime_ns // _SECOND < _OWNED:
        return DeviceNode(name, number.major, number.minor, stat.S_IMODE(found.st_mode))
    return _parsed(path, name) if stat.S_ISREG(found.st_mode) else None


def open_devices(directory: str) -> tuple[OpenDevice, ...]:
    """Every descriptor that a real process has open on a placeholder below DIRECTORY/dev.

    Processes of other users are invisible without privileges, as they are to the agent.
    """
    pids = (int(name) for name in os.listdir(paths.PROC) if name.isdigit())
    return tuple(found for pid in pids for found in _of_process(pid, directory))


def references(state: KernelState, opened: tuple[OpenDevice, ...]) -> dict[str, int]:
    """Open files by the module that each of them holds."""
    count: dict[str, int] = {}
    for device in opened:
        region = state.region_of(device.number)
        if region is not None:
            count[region.module] = count.get(region.module, 0) + 1
    return count


def device_behind(link: str, directory: str) -> DeviceNumber | None:
    """The simulated device that an entry of a real /proc/PID/fd leads to. OSError if the descriptor is gone."""
    target = os.readlink(link)
    if not target.startswith(f"{directory}{paths.DEV}/"):
        return None
    found = os.stat(link)
    if not stat.S_ISREG(found.st_mode):
        return None
    number = _stamped(found)
    if number is not None:
        return number
    node = _parsed(link, target)
    return None if node is None else DeviceNumber(node.major, node.minor)


def _of_process(pid: int, directory: str) -> Iterator[OpenDevice]:
    folder = f"{paths.PROC}/{pid}/fd"
    try:
        descriptors = os.listdir(folder)
    except OSError:  # it ended, or it is another user's
        return
    for descriptor in descriptors:
        try:
            number = device_behind(f"{folder}/{descriptor}", directory)
        except OSError:
            continue
        if number is not None:
            yield OpenDevice(pid, number)


def _stamped(found: os.stat_result) -> DeviceNumber | None:
    seconds, minor = divmod(found.st_mtime_ns, _SECOND)
    return DeviceNumber(seconds % _OWNED, minor) if 0 < seconds < 2 * _OWNED else None


def _parsed(path: str, name: str) -> DeviceNode | None:
    """From the text: for placeholders that somebody else wrote, and for owners other than root."""
    with open(path, "rb") as file:
        return parse_node(name, file.read(_LONGEST).decode(errors="replace"))
