"""`ports.Dcb` on the simulated kernel: what mlx5 takes and what it refuses.

Source: drivers/net/ethernet/mellanox/mlx5/core/en_dcbnl.c. Only interfaces of physical functions that
mlx5_core drives have DCB, as there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nodeagent.errors import UnsupportedError
from nodeagent.host.files import host_errors
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.refused import refused
from nodeagent.state.qos import DSCP_SELECTOR, Algorithm, AppEntry, DcbState, Ets, Pfc, PortBuffer

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import Interface, KernelState

DCBX_HOST = 0x01
MOST_KBIT = 255_000_000
BUFFER_TOTAL, BUFFER_CELL = 524_160, 128  # bytes
HUNDRED_MBIT, ONE_GBIT, FINE_UP_TO = 100_000, 1_000_000, 25_500_000


class SimulatedDcb:
    """Quality of service of the simulated interfaces."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def read_all(self, netdevs: Iterable[str]) -> Mapping[str, DcbState]:
        interfaces = self._kernel.state.interfaces
        return {name: dcb_of(interfaces[name]) for name in netdevs if name in interfaces and has_dcb(interfaces[name])}

    def write_dcbx(self, netdev: str, mode: int) -> None:
        """0 hands over to the firmware and keeps the version bits; anything else without HOST is refused."""
        present = self._kernel.state.interfaces.get(netdev)
        shown = mode or (present.dcbx & ~DCBX_HOST if present else 0)
        if mode and not mode & DCBX_HOST:
            raise UnsupportedError("set dcbx mode on", netdev, "the driver refused without a reason")
        self._edit("set dcbx mode on", netdev, dcbx=shown)

    def write_pfc(self, netdev: str, priorities: tuple[int, ...]) -> None:
        self._edit("set pfc on", netdev, pfc=priorities)

    def write_ets(
        self, netdev: str, bandwidth: tuple[int, ...], algorithms: tuple[int, ...], class_of: tuple[int, ...]
    ) -> None:
        shared = [share for share, kind in zip(bandwidth, algorithms, strict=True) if kind == Algorithm.ETS]
        if Algorithm.CREDIT in algorithms:
            raise UnsupportedError("set ets on", netdev, "operation not supported")
        if shared and sum(shared) != 100:
            raise UnsupportedError("set ets on", netdev, "invalid argument")
        self._edit("set ets on", netdev, bandwidth=bandwidth, algorithms=algorithms, class_of=class_of)

    def write_dscp(self, netdev: str, entries: tuple[tuple[int, int], ...]) -> None:
        self._edit("set dscp table on", netdev, dscp=entries)

    def write_max_rate(self, netdev: str, kbit: tuple[int, ...]) -> None:
        """The device has steps of 100 Mb/s up to 25.5 Gb/s, of 1 Gb/s above."""
        operation = "set max rate on"
        if max(kbit) > MOST_KBIT:
            raise UnsupportedError(operation, netdev, "invalid argument")
        rounded = tuple(_rounded(rate) for rate in kbit)
        self._edit(operation, netdev, max_rate=rounded)
        if rounded != kbit:
            raise UnsupportedError(operation, netdev, f"read back as {rounded} after {kbit} was written")

    def write_buffers(self, netdev: str, buffer_of: tuple[int, ...], sizes_bytes: tuple[int, ...]) -> None:
        """Sizes come in cells, and not more than the port has (port_buffer.c)."""
        operation = "set buffers on"
        if sum(sizes_bytes) > BUFFER_TOTAL or max(buffer_of) >= len(sizes_bytes):
            raise UnsupportedError(operation, netdev, "invalid argument")
        cells = tuple(size // BUFFER_CELL * BUFFER_CELL for size in sizes_bytes)
        self._edit(operation, netdev, buffer_of=buffer_of, buffer_bytes=cells)
        if cells != sizes_bytes:
            raise UnsupportedError(operation, netdev, f"read back as {cells} after {sizes_bytes} was written")

    def _edit(self, operation: str, netdev: str, **changes: Any) -> None:
        def edit(state: KernelState) -> KernelState:
            found = state.interfaces.get(netdev)
            if found is None:
                raise refused(errno.ENODEV)
            if not has_dcb(found):
                raise refused(errno.EOPNOTSUPP)
            return replace(state, interfaces=edited(state.interfaces, **{netdev: replace(found, **changes)}))

        with host_errors(operation, netdev):
            self._kernel.change(edit)


def has_dcb(interface: Interface) -> bool:
    return interface.driver == "mlx5_core" and not interface.is_vf


def dcb_of(interface: Interface) -> DcbState:
    return DcbState(
        dcbx=interface.dcbx,
        pfc=Pfc(interface.pfc, delay=7),
        ets=Ets(interface.bandwidth, interface.algorithms, interface.class_of),
        max_rate_kbit=interface.max_rate,
        buffer=PortBuffer(interface.buffer_of, interface.buffer_bytes, BUFFER_TOTAL),
        app=tuple(AppEntry(DSCP_SELECTOR, dscp, priority) for dscp, priority in interface.dscp),
    )


def _rounded(kbit: int) -> int:
    step = HUNDRED_MBIT if kbit <= FINE_UP_TO else ONE_GBIT
    return kbit // step * step
