"""Netlink messages and attributes as bytes; pure. Source: netlink(7), include/uapi/linux/netlink.h, lib/nlattr.c."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_DUMP = 0x1, 0x4, 0x10, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_APPEND = 0x100, 0x200, 0x400, 0x800
NLM_F_CAPPED, NLM_F_ACK_TLVS = 0x100, 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
TYPE_MASK = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True)
class Message:
    """One netlink message without its header; `body` begins with the family's own header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. ValueError where one is cut off."""
    while len(data) >= _HEADER.size:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            raise ValueError(f"a netlink message of {length} bytes in {len(data)} bytes")
        yield Message(kind, flags, sequence, data[_HEADER.size : length])
        data = data[_aligned(length) :]


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute with its padding."""
    length = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(length, kind) + payload + b"\0" * (_aligned(length) - length)


def nest(kind: int, payload: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, payload)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(type without flags, payload) of each attribute. ValueError where one is cut off."""
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            raise ValueError(f"a netlink attribute of {length} bytes in {len(data)} bytes")
        yield kind & TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def text(value: str) -> bytes:
    """A string attribute's payload."""
    return value.encode() + b"\0"


def text_of(payload: bytes) -> str:
    """The string in an attribute's payload."""
    return payload.partition(b"\0")[0].decode(errors="replace")


def error_of(reply: Message) -> tuple[int, str]:
    """(errno, the kernel's own words or "") of an NLMSG_ERROR; errno 0 is an acknowledgement."""
    (number,) = struct.unpack_from("=i", reply.body)
    if not reply.flags & NLM_F_ACK_TLVS:
        return -number, ""
    (length,) = struct.unpack_from("=I", reply.body, 4)
    capped = reply.flags & NLM_F_CAPPED or not number
    start = 4 + (_HEADER.size if capped else _aligned(length))
    words = next((payload for kind, payload in attributes(reply.body[start:]) if kind == NLMSGERR_ATTR_MSG), b"")
    return -number, words.rstrip(b"\0").decode(errors="replace")


def _aligned(length: int) -> int:
    return (length + 3) & ~3
