"""DCB netlink messages as bytes, without the netlink header; pure.

Sources: include/uapi/linux/dcbnl.h and net/dcb/dcbnl.c of Linux 6.1; the layouts were compared with what iproute2's dcb
sends and receives.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any

from nodeagent.host.netlink_codec import attribute, attributes, nest, text
from nodeagent.state.qos import PRIORITIES, AppEntry, DcbState, Eight, Ets, Pfc, PortBuffer

RTM_GETDCB, RTM_SETDCB = 78, 79

_FAMILY = struct.Struct("=BBH")
_ETS = struct.Struct("=BBB8s8s8s8s8s8s8s")
_PFC = struct.Struct("=BBBxHxx8Q8Q")
_MAX_RATE = struct.Struct("=8Q")
_BUFFER = struct.Struct("=8s8II")
_APP = struct.Struct("=BBH")


class Command(IntEnum):
    """enum dcbnl_commands."""

    IEEE_SET = 20
    IEEE_GET = 21
    SET_DCBX = 23
    IEEE_DEL = 27


class Attribute(IntEnum):
    """enum dcbnl_attrs."""

    IFNAME = 1
    IEEE = 13
    DCBX = 14


class Ieee(IntEnum):
    """enum ieee_attrs."""

    ETS = 1
    PFC = 2
    APP_TABLE = 3
    MAXRATE = 7
    BUFFER = 10


APP = 1  # enum ieee_attrs_app


def encode_get(netdev: str) -> bytes:
    """RTM_GETDCB: everything IEEE about an interface."""
    return _head(Command.IEEE_GET, netdev)


def encode_dcbx(netdev: str, mode: int) -> bytes:
    return _head(Command.SET_DCBX, netdev) + attribute(Attribute.DCBX, bytes((mode,)))


def encode_pfc(netdev: str, pfc: Pfc) -> bytes:
    """The whole struct ieee_pfc, so that bypass and delay stay what they are."""
    enabled = sum(1 << priority for priority in pfc.enabled)
    counters = (*pfc.requests, *pfc.indications)
    return _ieee(netdev, Ieee.PFC, _PFC.pack(pfc.capacity, enabled, pfc.bypass, pfc.delay, *counters))


def encode_ets(netdev: str, ets: Ets) -> bytes:
    tables = (ets.bandwidth, ets.receive_bandwidth, ets.algorithms, ets.class_of, *ets.recommended)
    packed = (bytes(table) for table in tables)
    return _ieee(netdev, Ieee.ETS, _ETS.pack(ets.willing, ets.capacity, ets.credit_shaper, *packed))


def encode_max_rate(netdev: str, kbit: Eight) -> bytes:
    return _ieee(netdev, Ieee.MAXRATE, _MAX_RATE.pack(*kbit))


def encode_buffer(netdev: str, buffer: PortBuffer) -> bytes:
    return _ieee(netdev, Ieee.BUFFER, _BUFFER.pack(bytes(buffer.buffer_of), *buffer.sizes_bytes, buffer.total_bytes))


def encode_app(netdev: str, entries: Iterable[AppEntry], *, delete: bool = False) -> bytes:
    """Add or delete rows of the APP table."""
    rows = b"".join(attribute(APP, _APP.pack(row.selector, row.priority, row.protocol)) for row in entries)
    return _ieee(netdev, Ieee.APP_TABLE, rows, Command.IEEE_DEL if delete else Command.IEEE_SET)


def decode_get(body: bytes) -> DcbState:
    """The answer to `encode_get`. ValueError where it is not one; attributes of other kernels are passed over."""
    tops = dict(attributes(_after_head(body)))
    fields: dict[str, Any] = {}
    for kind, payload in attributes(tops.get(Attribute.IEEE, b"")):
        if kind in _READERS:
            name, read = _READERS[kind]
            fields[name] = _sized(read, payload)
    dcbx = tops.get(Attribute.DCBX)
    return DcbState(dcbx=dcbx[0] if dcbx else None, **fields)


def decode_status(body: bytes, command: Command) -> int:
    """The errno that a SET was answered with, 0 for none.

    It is one byte in the attribute that was asked for: 0, or the low byte of a negative errno (0xEA is EINVAL). The
    netlink acknowledgement says 0 in either case. SDCBX answers 1 for a refusal without a reason.
    """
    kind = Attribute.DCBX if command is Command.SET_DCBX else Attribute.IEEE
    payload = dict(attributes(_after_head(body))).get(kind)
    if not payload:
        raise ValueError("a DCB answer without a status")
    return 256 - payload[0] if payload[0] > 127 else payload[0]


def _head(command: Command, netdev: str) -> bytes:
    return _FAMILY.pack(0, command, 0) + attribute(Attribute.IFNAME, text(netdev))


def _ieee(netdev: str, kind: Ieee, payload: bytes, command: Command = Command.IEEE_SET) -> bytes:
    """One attribute in one message: a message stops at the first that is refused, with those before it in force."""
    inner = nest(kind, payload) if kind is Ieee.APP_TABLE else attribute(kind, payload)
    return _head(command, netdev) + nest(Attribute.IEEE, inner)


def _after_head(body: bytes) -> bytes:
    if len(body) < _FAMILY.size:
        raise ValueError(f"a DCB message of {len(body)} bytes")
    return body[_FAMILY.size :]


def _sized(read: Callable[[bytes], object], payload: bytes) -> object:
    try:
        return read(payload)
    except struct.error as error:
        raise ValueError(str(error)) from error


def _read_pfc(payload: bytes) -> Pfc:
    capacity, enabled, bypass, delay, *counters = _PFC.unpack_from(payload)
    priorities = tuple(priority for priority in range(PRIORITIES) if enabled & (1 << priority))
    return Pfc(priorities, capacity, bypass, delay, tuple(counters[:PRIORITIES]), tuple(counters[PRIORITIES:]))


def _read_ets(payload: bytes) -> Ets:
    willing, capacity, shaper, *tables = _ETS.unpack_from(payload)
    transmit, receive, algorithms, class_of, *recommended = map(tuple, tables)
    return Ets(transmit, algorithms, class_of, bool(willing), capacity, bool(shaper), receive, tuple(recommended))


def _read_max_rate(payload: bytes) -> Eight:
    return _MAX_RATE.unpack_from(payload)


def _read_buffer(payload: bytes) -> PortBuffer:
    buffer_of, *sizes, total = _BUFFER.unpack_from(payload)
    return PortBuffer(tuple(buffer_of), tuple(sizes), total)


def _read_app(payload: bytes) -> tuple[AppEntry, ...]:
    return tuple(sorted(_app_rows(payload)))


def _app_rows(payload: bytes) -> Iterator[AppEntry]:
    for kind, row in attributes(payload):
        if kind == APP:
            selector, priority, protocol = _APP.unpack_from(row)
            yield AppEntry(selector, protocol, priority)


_READERS: Mapping[int, tuple[str, Callable[[bytes], object]]] = {
    Ieee.PFC: ("pfc", _read_pfc),
    Ieee.ETS: ("ets", _read_ets),
    Ieee.MAXRATE: ("max_rate_kbit", _read_max_rate),
    Ieee.BUFFER: ("buffer", _read_buffer),
    Ieee.APP_TABLE: ("app", _read_app),
}
