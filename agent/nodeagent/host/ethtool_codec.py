"""Messages of the ethtool generic netlink family as bytes; pure.

Sources: include/uapi/linux/{genetlink,ethtool_netlink}.h, Documentation/networking/ethtool-netlink.rst.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.host.netlink_codec import attribute, attributes, nest, text
from nodeagent.state.link_settings import Group, GroupState, Setting, Values

NETLINK_GENERIC = 16
GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
GENL_HEADER = struct.Struct("=BBH")
STRSET_GET = 1
HEADER = 1  # the ETHTOOL_A_*_HEADER of every message
HEADER_DEV_NAME, HEADER_FLAGS = 2, 3
FLAG_COMPACT_BITSETS = 1
ETH_SS_FEATURES = 4
BITSET_NOMASK, BITSET_SIZE, BITSET_BITS, BITSET_VALUE = 1, 2, 3, 4
BIT_NAME, BIT_VALUE = 2, 3
FEATURES_HW, FEATURES_WANTED, FEATURES_ACTIVE = 2, 3, 4
PRIVFLAGS_FLAGS = 2
NAME_BYTES = 15


@dataclass(frozen=True)
class Field:
    """A number in a message: its attribute, that of its maximum (0: none), its size in bytes."""

    kind: int
    most: int = 0
    size: int = 4


@dataclass(frozen=True)
class Layout:
    """A group's messages: the numbers of GET and SET, and the fields by the names of the node file."""

    get: int
    set: int
    fields: Mapping[str, Field]


LAYOUTS: Mapping[Group, Layout] = MappingProxyType(
    {
        Group.FEATURES: Layout(11, 12, {}),
        Group.PRIVATE_FLAGS: Layout(13, 14, {}),
        Group.RINGS: Layout(15, 16, {"rx": Field(6, 2), "tx": Field(9, 5)}),
        Group.CHANNELS: Layout(17, 18, {"rx": Field(6, 2), "tx": Field(7, 3), "combined": Field(9, 5)}),
        Group.COALESCING: Layout(
            19,
            20,
            {
                "rx_usecs": Field(2),
                "rx_frames": Field(3),
                "tx_usecs": Field(6),
                "tx_frames": Field(7),
                "adaptive_rx": Field(11, size=1),
                "adaptive_tx": Field(12, size=1),
            },
        ),
        Group.PAUSE: Layout(21, 22, {"autoneg": Field(2, size=1), "rx": Field(3, size=1), "tx": Field(4, size=1)}),
    }
)


def encode_family() -> bytes:
    return GENL_HEADER.pack(CTRL_CMD_GETFAMILY, 1, 0) + attribute(CTRL_ATTR_FAMILY_NAME, text("ethtool"))


def decode_family(body: bytes) -> int:
    """The family's message type. ValueError where the answer has none."""
    found = dict(attributes(body[GENL_HEADER.size :])).get(CTRL_ATTR_FAMILY_ID, b"")
    return int(struct.unpack("=H", _exactly(found, 2))[0])


def encode_get(group: Group, netdev: str = "") -> bytes:
    """Ask for one interface, or in a dump for all of them."""
    flags = attribute(HEADER_FLAGS, struct.pack("=I", FLAG_COMPACT_BITSETS if group is Group.FEATURES else 0))
    return GENL_HEADER.pack(LAYOUTS[group].get, 1, 0) + nest(HEADER, _name(netdev) + flags)


def encode_set(group: Group, netdev: str, values: Values) -> bytes:
    layout = LAYOUTS[group]
    head = GENL_HEADER.pack(layout.set, 1, 0) + nest(HEADER, _name(netdev))
    if group is Group.FEATURES:
        return head + nest(FEATURES_WANTED, _bits(values))
    if group is Group.PRIVATE_FLAGS:
        return head + nest(PRIVFLAGS_FLAGS, _bits(values))
    numbers = ((layout.fields[name], value) for name, value in values)
    return head + b"".join(attribute(one.kind, value.to_bytes(one.size, "little")) for one, value in numbers)


def encode_feature_names() -> bytes:
    """Ask for the names of all offloads that this kernel knows (STRSET_GET)."""
    wanted = nest(1, nest(1, attribute(1, struct.pack("=I", ETH_SS_FEATURES))))
    return GENL_HEADER.pack(STRSET_GET, 1, 0) + nest(HEADER, b"") + nest(2, wanted[4:])


def decode_feature_names(body: bytes) -> tuple[str, ...]:
    """Names in the order of their bits."""
    sets = dict(attributes(body[GENL_HEADER.size :])).get(2, b"")
    found: dict[int, str] = {}
    for _, one in attributes(sets):
        for _, item in attributes(dict(attributes(one)).get(3, b"")):
            parts = dict(attributes(item))
            (index,) = struct.unpack("=I", _exactly(parts.get(1, b""), 4))
            found[index] = parts.get(2, b"").rstrip(b"\0").decode()
    return tuple(found.get(index, "") for index in range(max(found, default=-1) + 1))


def decode_get(group: Group, body: bytes, feature_names: tuple[str, ...] = ()) -> tuple[str, GroupState]:
    """(interface, its settings); those that the driver does not offer are left out. ValueError for garbage."""
    tops = dict(attributes(body[GENL_HEADER.size :]))
    name = dict(attributes(tops.get(HEADER, b""))).get(HEADER_DEV_NAME, b"").rstrip(b"\0").decode()
    if group is Group.FEATURES:
        return name, _features(tops, feature_names)
    if group is Group.PRIVATE_FLAGS:
        return name, tuple(Setting(*pair) for pair in _named_bits(tops.get(PRIVFLAGS_FLAGS, b"")))
    return name, tuple(_numbers(LAYOUTS[group], tops))


def _numbers(layout: Layout, tops: Mapping[int, bytes]) -> Iterator[Setting]:
    for name, one in layout.fields.items():
        most = int.from_bytes(tops[one.most], "little") if one.most in tops else None
        if one.kind in tops and most != 0:  # a maximum of 0: there are no such rings or queues
            yield Setting(name, int.from_bytes(tops[one.kind], "little"), most if one.size == 4 else 1)


def _features(tops: Mapping[int, bytes], names: tuple[str, ...]) -> GroupState:
    active, changeable = (_word(tops.get(kind, b"")) for kind in (FEATURES_ACTIVE, FEATURES_HW))
    bits = ((name, 1 << bit) for bit, name in enumerate(names) if name)
    return tuple(Setting(name, int(bool(active & bit)), 1, not changeable & bit) for name, bit in bits)


def _word(bitset: bytes) -> int:
    """A compact bitset as one number: the kernel sends 32-bit words, the lowest first."""
    return int.from_bytes(dict(attributes(bitset)).get(BITSET_VALUE, b""), "little")


def _named_bits(bitset: bytes) -> Iterator[tuple[str, int]]:
    for _, bit in attributes(dict(attributes(bitset)).get(BITSET_BITS, b"")):
        parts = dict(attributes(bit))
        yield parts.get(BIT_NAME, b"").rstrip(b"\0").decode(), int(BIT_VALUE in parts)


def _bits(values: Values) -> bytes:
    """A bitset that names the bits to change; all others stay."""
    items = (attribute(BIT_NAME, text(name)) + (attribute(BIT_VALUE, b"") if value else b"") for name, value in values)
    return nest(BITSET_BITS, b"".join(nest(1, item) for item in items))


def _name(netdev: str) -> bytes:
    """ValueError for what cannot be an interface's name: the kernel's policy would refuse it less clearly."""
    if len(netdev.encode()) > NAME_BYTES:
        raise ValueError(f"an interface's name of {len(netdev.encode())} bytes")
    return attribute(HEADER_DEV_NAME, text(netdev)) if netdev else b""


def _exactly(payload: bytes, size: int) -> bytes:
    if len(payload) != size:
        raise ValueError(f"an attribute of {len(payload)} bytes, not {size}")
    return payload
