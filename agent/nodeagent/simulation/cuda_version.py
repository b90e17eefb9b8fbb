"""Which CUDA version a driver comes with.

Source: CUDA Toolkit Release Notes, table "CUDA Toolkit and Corresponding Driver Versions".
"""

from __future__ import annotations

_OF_BRANCH = (
    (525, 12, 0), (530, 12, 1), (535, 12, 2), (545, 12, 3), (550, 12, 4), (555, 12, 5), (560, 12, 6), (565, 12, 7),
    (570, 12, 8), (575, 12, 9), (580, 13, 0),
)  # fmt: skip


def cuda_of(driver_version: str) -> tuple[int, int]:
    """(major, minor) of CUDA in this driver: that of the newest branch not above it, or of the oldest known."""
    branch = int(driver_version.partition(".")[0])
    known = [(major, minor) for first, major, minor in _OF_BRANCH if first <= branch]
    return known[-1] if known else _OF_BRANCH[0][1:]
