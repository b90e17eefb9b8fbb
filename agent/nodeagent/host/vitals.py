"""The real clock and disks.

Sources: adjtimex(2) and linux/timex.h (struct timex: modes, offset, freq, maxerror, esterror, status ...; STA_UNSYNC
0x40, STA_NANO 0x2000), statvfs(3).
"""

from __future__ import annotations

import ctypes
import os

from nodeagent.errors import HostError
from nodeagent.host.files import host_error, rooted
from nodeagent.state.vitals import ClockFacts, DiskFacts

_LONGS = 26  # struct timex is 208 bytes on 64-bit machines
_OFFSET, _MAXERROR, _STATUS = 1, 3, 5  # places of these members, in longs; `modes` and `status` are ints with padding
_UNSYNCHRONIZED, _NANOSECONDS = 0x40, 0x2000
_MICROSECOND, _NANOSECOND = 1e-6, 1e-9


class RealVitals:
    """`ports.Vitals` of this machine; disks below `root`."""

    def __init__(self, root: str = "/") -> None:
        self._root = root

    def clock(self) -> ClockFacts:
        timex = (ctypes.c_long * _LONGS)()  # all zero: nothing is changed, only read
        if ctypes.CDLL(None, use_errno=True).adjtimex(timex) < 0:
            raise HostError("read", "clock", os.strerror(ctypes.get_errno()).lower())
        status = timex[_STATUS] & 0xFFFFFFFF
        unit = _NANOSECOND if status & _NANOSECONDS else _MICROSECOND
        return ClockFacts(not status & _UNSYNCHRONIZED, timex[_OFFSET] * unit, timex[_MAXERROR] * _MICROSECOND)

    def disk(self, path: str) -> DiskFacts:
        try:
            found = os.statvfs(rooted(self._root, path))
        except OSError as error:
            raise host_error("look at", path, error) from error
        return DiskFacts(
            path, found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, bool(found.f_flag & os.ST_RDONLY)
        )
