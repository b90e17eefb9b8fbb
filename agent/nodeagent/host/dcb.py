"""DCB of an interface by netlink: read, and written with a proof.

Neither the netlink acknowledgement nor the status in the answer proves a write: an attribute whose driver callback is
missing is passed over in silence (net/dcb/dcbnl.c). So every write is read back.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from nodeagent.errors import GoneError, HostError, UnsupportedError
from nodeagent.host import dcb_codec as codec
from nodeagent.host.dcb_codec import RTM_GETDCB, RTM_SETDCB, Command
from nodeagent.host.netlink import RouteSocket, refusal, route_socket
from nodeagent.state.qos import DSCP_SELECTOR, AppEntry, DcbState, Eight, Ets, Pfc, PortBuffer

NO_DCB = frozenset({errno.EOPNOTSUPP, errno.ENODEV})
DCBX_HOST = 0x01
REFUSED_WITHOUT_REASON = 1  # what SDCBX answers
ADVICE = "the driver decides what it offers; on mlx5 only a physical function that manages its port has it"

DscpMap = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Change:
    """One attribute: what it is called, how it is found in a state, how it is encoded from what is there."""

    name: str
    wanted: object
    pick: Callable[[DcbState], object]
    encode: Callable[[DcbState], bytes]
    command: Command = Command.IEEE_SET


class NetlinkDcb:
    """`ports.Dcb` in the agent's own network namespace: DCB knows interfaces by name only."""

    def read_all(self, netdevs: Iterable[str]) -> dict[str, DcbState]:
        """As the port says; one request for each interface."""
        found: dict[str, DcbState] = {}
        with route_socket("read dcb of", "the interfaces") as opened:
            for netdev in netdevs:
                state = _get(opened, netdev)
                if state is not None:
                    found[netdev] = state
        return found

    def write_dcbx(self, netdev: str, mode: int) -> None:
        """As the port says. What is proved is the HOST bit: mlx5 keeps version bits when control goes back to it."""
        encoded = codec.encode_dcbx(netdev, mode)

        def pick(state: DcbState) -> object:
            return None if state.dcbx is None else state.dcbx & DCBX_HOST

        _write(netdev, _Change("dcbx mode", mode & DCBX_HOST, pick, lambda _: encoded, Command.SET_DCBX))

    def write_pfc(self, netdev: str, priorities: tuple[int, ...]) -> None:
        def encode(state: DcbState) -> bytes:
            return codec.encode_pfc(netdev, replace(state.pfc or Pfc(), enabled=priorities))

        _write(netdev, _Change("pfc", priorities, lambda state: state.pfc and state.pfc.enabled, encode))

    def write_ets(self, netdev: str, bandwidth: Eight, algorithms: Eight, class_of: Eight) -> None:
        def encode(state: DcbState) -> bytes:
            present = state.ets or Ets(bandwidth, algorithms, class_of)
            wanted = replace(present, bandwidth=bandwidth, algorithms=algorithms, class_of=class_of, willing=False)
            return codec.encode_ets(netdev, wanted)

        def pick(state: DcbState) -> object:
            return state.ets and (state.ets.bandwidth, state.ets.algorithms, state.ets.class_of)

        _write(netdev, _Change("ets", (bandwidth, algorithms, class_of), pick, encode))

    def write_max_rate(self, netdev: str, kbit: Eight) -> None:
        encode = codec.encode_max_rate(netdev, kbit)
        _write(netdev, _Change("max rate", kbit, lambda state: state.max_rate_kbit, lambda _: encode))

    def write_buffers(self, netdev: str, buffer_of: Eight, sizes_bytes: Eight) -> None:
        """As the port says. The total goes back as it came: the kernel's struct has it, no driver takes it."""

        def encode(state: DcbState) -> bytes:
            total = state.buffer.total_bytes if state.buffer else 0
            return codec.encode_buffer(netdev, PortBuffer(buffer_of, sizes_bytes, total))

        def pick(state: DcbState) -> object:
            return state.buffer and (state.buffer.buffer_of, state.buffer.sizes_bytes)

        _write(netdev, _Change("buffers", (buffer_of, sizes_bytes), pick, encode))

    def write_dscp(self, netdev: str, entries: DscpMap) -> None:
        operation = "set dscp table on"
        with route_socket(operation, netdev) as opened:
            before = _get(opened, netdev)
            if before is None:
                raise UnsupportedError(operation, netdev, "it offers no dcb", ADVICE)
            for delete, entry in dscp_changes(before.dscp, entries):
                command = Command.IEEE_DEL if delete else Command.IEEE_SET
                row = AppEntry(DSCP_SELECTOR, *entry)
                _put(opened, (operation, netdev), codec.encode_app(netdev, (row,), delete=delete), command)
            after = _get(opened, netdev)
        if after is None or after.dscp != entries:
            found = None if after is None else after.dscp
            raise UnsupportedError(operation, netdev, f"read back as {found} after {entries} was written", ADVICE)


def dscp_changes(before: DscpMap, wanted: DscpMap) -> Iterator[tuple[bool, tuple[int, int]]]:
    """(delete, (DSCP, priority)) in an order that never empties a table on the way, which would flip mlx5's trust.

    A DSCP that changes its priority loses the old row first: adding beside it leaves two rows on some drivers, and
    deleting afterwards sets the DSCP to priority 0 on mlx5.
    """
    priorities = dict(wanted)
    known = {dscp for dscp, _ in before}
    yield from ((False, row) for row in wanted if row[0] not in known)
    for row in before:
        if row[0] in priorities and row not in wanted:
            yield True, row
            yield False, (row[0], priorities[row[0]])
    yield from ((True, row) for row in before if row[0] not in priorities)


def _write(netdev: str, change: _Change) -> None:
    operation = f"set {change.name} on"
    with route_socket(operation, netdev) as opened:
        before = _get(opened, netdev)
        if before is None or change.pick(before) is None:
            raise UnsupportedError(operation, netdev, "the driver does not offer it", ADVICE)
        _put(opened, (operation, netdev), change.encode(before), change.command)
        after = _get(opened, netdev)
    if after is None:
        raise GoneError(operation, netdev, "the interface or its dcb is gone")
    if change.pick(after) != change.wanted:
        reason = f"read back as {change.pick(after)} after {change.wanted} was written"
        raise UnsupportedError(operation, netdev, reason, ADVICE)


def _get(opened: RouteSocket, netdev: str) -> DcbState | None:
    """None where the interface has no DCB, or is not there (any more)."""
    try:
        replies = opened.talk(RTM_GETDCB, codec.encode_get(netdev))
    except OSError as error:
        if error.errno in NO_DCB:
            return None
        raise
    return codec.decode_get(replies[0].body) if replies else None


def _put(opened: RouteSocket, what: tuple[str, str], body: bytes, command: Command) -> None:
    replies = opened.talk(RTM_SETDCB, body)
    status = codec.decode_status(replies[0].body, command) if replies else 0
    if command is Command.SET_DCBX and status == REFUSED_WITHOUT_REASON:
        raise HostError(*what, "the driver refused without a reason")
    if status:
        raise refusal(*what, status)
