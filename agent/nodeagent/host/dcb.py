"""DCB of an interface by netlink: read, and written with a proof.

Neither the netlink acknowledgement nor the status in the answer proves a write: an attribute whose driver callback is
missing is passed over in silence (net/dcb/dcbnl.c). So every write is read back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from dataclasses import replace

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host import dcb_codec as codec
from nodeagent.host.dcb_codec import RTM_GETDCB, RTM_SETDCB, Command
from nodeagent.host.netlink import RouteSocket, refusal, route_socket
from nodeagent.state.qos import DSCP_SELECTOR, AppEntry, DcbState, Eight, Ets, Pfc, PortBuffer

NO_DCB = frozenset({errno.EOPNOTSUPP, errno.ENODEV})
REFUSED_WITHOUT_REASON = 1  # what SDCBX answers


class NetlinkDcb:
    """`ports.Dcb` in the agent's own network namespace: DCB knows interfaces by name only."""

    def read_all(self, netdevs: Iterable[str]) -> dict[str, DcbState]:
        """The interfaces among these that have DCB, by name; one request for each."""
        found: dict[str, DcbState] = {}
        with route_socket("read dcb of", "the interfaces") as opened:
            for netdev in netdevs:
                state = _get(opened, netdev)
                if state is not None:
                    found[netdev] = state
        return found

    def read(self, netdev: str) -> DcbState | None:
        """As the port says; None also where there is no such interface (any more)."""
        with route_socket("read dcb of", netdev) as opened:
            return _get(opened, netdev)

    def write_dcbx(self, netdev: str, mode: int) -> None:
        def wrong(state: DcbState) -> str:
            return "" if state.dcbx == mode else f"the mode is {state.dcbx}"

        self._set(f"set dcbx mode {mode} on", netdev, codec.encode_dcbx(netdev, mode), wrong)

    def write_pfc(self, netdev: str, priorities: tuple[int, ...]) -> None:
        operation = f"set pfc {_numbers(priorities)} on"

        def wrong(state: DcbState) -> str:
            if state.pfc is None:
                return "the driver has no priority flow control"
            return "" if state.pfc.enabled == priorities else f"pfc is {_numbers(state.pfc.enabled)}"

        present = self._offered(operation, netdev, lambda state: state.pfc)
        body = codec.encode_pfc(netdev, replace(present, enabled=priorities))
        self._set(operation, netdev, body, wrong)

    def write_ets(self, netdev: str, bandwidth: Eight, algorithms: Eight, class_of: Eight) -> None:
        operation = "set ets on"

        def wrong(state: DcbState) -> str:
            found = state.ets and (state.ets.bandwidth, state.ets.algorithms, state.ets.class_of)
            return "" if found == (bandwidth, algorithms, class_of) else f"ets is {found}"

        present: Ets = self._offered(operation, netdev, lambda state: state.ets)
        body = codec.encode_ets(
            netdev,
            replace(present, bandwidth=bandwidth, algorithms=algorithms, class_of=class_of, willing=False),
        )
        self._set(operation, netdev, body, wrong)

    def write_max_rate(self, netdev: str, kbit: Eight) -> None:
        operation = "set max rate on"

        def wrong(state: DcbState) -> str:
            return "" if state.max_rate_kbit == kbit else f"max rate is {state.max_rate_kbit} kbit/s"

        self._offered(operation, netdev, lambda state: state.max_rate_kbit)
        self._set(operation, netdev, codec.encode_max_rate(netdev, kbit), wrong)

    def write_buffer(self, netdev: str, buffer_of: Eight, sizes_bytes: Eight) -> None:
        operation = "set buffers on"

        def wrong(state: DcbState) -> str:
            found = state.buffer and (state.buffer.buffer_of, state.buffer.sizes_bytes)
            return "" if found == (buffer_of, sizes_bytes) else f"buffers are {found}"

        present: PortBuffer = self._offered(operation, netdev, lambda state: state.buffer)
        wanted = replace(present, buffer_of=buffer_of, sizes_bytes=sizes_bytes)
        self._set(operation, netdev, codec.encode_buffer(netdev, wanted), wrong)

    def write_dscp(self, netdev: str, entries: tuple[tuple[int, int], ...]) -> None:
        operation = "set dscp table on"

        def wrong(state: DcbState) -> str:
            return "" if state.dscp == entries else f"the table is {state.dscp}"

        with route_socket(operation, netdev) as opened:
            state = _get(opened, netdev)
            if state is None:
                raise _no_dcb(operation, netdev)
            for delete, entry in dscp_changes(state.dscp, entries):
                command = Command.IEEE_DEL if delete else Command.IEEE_SET
                row = AppEntry(DSCP_SELECTOR, *entry)
                _put(opened, (operation, netdev), codec.encode_app(netdev, (row,), delete=delete), command)
            _prove(opened, operation, netdev, wrong)

    def _offered[T](self, operation: str, netdev: str, pick: Callable[[DcbState], T | None]) -> T:
        raise NotImplementedError

    def _set(self, operation: str, netdev: str, body: bytes, wrong: Callable[[DcbState], str]) -> None:
        raise NotImplementedError
