"""What a network driver counts by itself (`ethtool -S`), through the ETHTOOL ioctl: the only way to driver-own names.

Names are fixed-size records that the driver hands out in the order of the values; both are asked for each time the
number of them changes, as when flow control is switched on for a priority.
Source: include/uapi/linux/ethtool.h (ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ETHTOOL_GSTATS), netdevice(7).
"""

from __future__ import annotations

import fcntl
import socket
import struct
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSTATS, _GSSET_INFO = 0x1B, 0x1D, 0x37
_SS_STATS = 1  # enum ethtool_stringset: ETH_SS_STATS
_NAME_BYTES = 32  # ETH_GSTRING_LEN
_SET_INFO = struct.Struct("=IIQI")  # cmd, reserved, mask, one count
_STRINGS = struct.Struct("=III")  # cmd, set, count
_STATS = struct.Struct("=II")  # cmd, count
_IFREQ = struct.Struct("16sQ16x")  # name, pointer, and the rest of the union


class DriverStatistics:
    """Reads the statistics of interfaces; keeps the names and which of them are wanted.

    `wanted` says which names matter: drivers have hundreds.
    """

    def __init__(self, wanted: Callable[[str], bool]) -> None:
        self._wanted = wanted
        self._names: dict[str, tuple[tuple[int, str], ...]] = {}
        self._counts: dict[str, int] = {}

    def __call__(self, netdevs: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """Values by interface and name. An interface that is gone or has no such statistics is left out."""
        found = {}
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            for netdev in netdevs:
                try:
                    values = self._read(asked, netdev)
                except OSError:
                    continue
                if values:
                    found[netdev] = values
        return found

    def _read(self, asked: socket.socket, netdev: str) -> dict[str, int]:
        count = _count(asked, netdev)
        if not count:
            return {}
        if self._counts.get(netdev) != count:
            names = _names(asked, netdev, count)
            self._names[netdev] = tuple((place, name) for place, name in enumerate(names) if self._wanted(name))
            self._counts[netdev] = count
        buffer = _ask(asked, netdev, _STATS.pack(_GSTATS, count) + bytes(8 * count))
        values = struct.unpack_from(f"={count}Q", buffer, _STATS.size)
        return {name: values[place] for place, name in self._names[netdev]}


def _count(asked: socket.socket, netdev: str) -> int:
    """How many statistics there are; the driver clears the bit of a set it does not have."""
    answer = _ask(asked, netdev, _SET_INFO.pack(_GSSET_INFO, 0, 1 << _SS_STATS, 0))
    _, _, mask, count = _SET_INFO.unpack(answer)
    return int(count) if mask else 0


def _names(asked: socket.socket, netdev: str, count: int) -> list[str]:
    buffer = _ask(asked, netdev, _STRINGS.pack(_GSTRINGS, _SS_STATS, count) + bytes(_NAME_BYTES * count))
    starts = range(_STRINGS.size, _STRINGS.size + _NAME_BYTES * count, _NAME_BYTES)
    return [buffer[start : start + _NAME_BYTES].split(b"\0")[0].decode(errors="replace") for start in starts]


def _ask(asked: socket.socket, netdev: str, request: bytes) -> bytes:
    """One ETHTOOL call: the kernel reads the request from our memory and writes the answer over it."""
    buffer = array("B", request)
    address, _ = buffer.buffer_info()
    fcntl.ioctl(asked, _SIOCETHTOOL, _IFREQ.pack(netdev.encode(), address))
    return buffer.tobytes()
