"""RDMA netlink messages as bytes: devices, their new names, and who has objects on them; pure.

Source: include/uapi/rdma/rdma_netlink.h, drivers/infiniband/core/nldev.c of Linux 6.1. Messages have no family header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.host.netlink_codec import Message, attribute, attributes, text, text_of
from nodeagent.state.network import RdmaHolder, RdmaObject

NETLINK_RDMA = 20
NLDEV = 5 << 10  # RDMA_NL_NLDEV as the client in the upper bits of a message's type
GET, SET = NLDEV | 1, NLDEV | 2
DEV_INDEX, DEV_NAME = 1, 2
RES_PID = 28  # only objects of programs have it; those of the kernel have a name instead
LONGEST_NAME = 63  # IB_DEVICE_NAME_MAX with its final NUL is 64
# Command, attribute with the list, attribute of an entry.
OBJECTS: Mapping[RdmaObject, tuple[int, int, int]] = MappingProxyType(
    {
        RdmaObject.CONTEXT: (NLDEV | 22, 86, 87),
        RdmaObject.QUEUE_PAIR: (NLDEV | 10, 19, 20),
        RdmaObject.CONNECTION: (NLDEV | 11, 30, 31),
        RdmaObject.MEMORY_REGION: (NLDEV | 13, 40, 41),
    }
)


@dataclass(frozen=True)
class NamedDevice:
    """An RDMA device as netlink knows it: by a number that it keeps when it is renamed."""

    index: int
    name: str


def encode_device(index: int) -> bytes:
    return attribute(DEV_INDEX, struct.pack("=I", index))


def encode_rename(index: int, name: str) -> bytes:
    """Body of SET. ValueError for a name that the kernel would cut."""
    if not 0 < len(name.encode()) <= LONGEST_NAME:
        raise ValueError(f"expected a name of 1 to {LONGEST_NAME} bytes")
    return encode_device(index) + attribute(DEV_NAME, text(name))


def decode_devices(replies: Iterable[Message]) -> tuple[NamedDevice, ...]:
    """The devices in the answers to GET. ValueError where one is cut off."""
    found = []
    for reply in replies:
        parts = dict(attributes(reply.body)) if reply.kind == GET else {}
        if DEV_INDEX in parts and DEV_NAME in parts:
            found.append(NamedDevice(_number(parts[DEV_INDEX]), text_of(parts[DEV_NAME])))
    return tuple(found)


def decode_pids(kind: RdmaObject, replies: Iterable[Message]) -> tuple[int, ...]:
    """PID of each object of a program, as often as it has one. ValueError where an answer is cut off."""
    command, table, entry = OBJECTS[kind]
    found = []
    for reply in replies:
        parts = dict(attributes(reply.body)) if reply.kind == command else {}
        entries = (dict(attributes(data)) for number, data in attributes(parts.get(table, b"")) if number == entry)
        found += [_number(one[RES_PID]) for one in entries if RES_PID in one]
    return tuple(found)


def holders(pids: Mapping[RdmaObject, tuple[int, ...]]) -> tuple[RdmaHolder, ...]:
    """The programs with what they have, by PID."""
    everyone = sorted({pid for found in pids.values() for pid in found})
    counted = {pid: tuple((kind, found.count(pid)) for kind, found in pids.items() if pid in found) for pid in everyone}
    return tuple(RdmaHolder(pid, counts) for pid, counts in counted.items())


def _number(payload: bytes) -> int:
    if len(payload) < 4:
        raise ValueError(f"{len(payload)} bytes where 4 are needed")
    return int(struct.unpack_from("=I", payload)[0])
