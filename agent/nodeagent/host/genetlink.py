"""Generic netlink: the number of a family by its name, and messages with the family's own header.

Source: include/uapi/linux/genetlink.h, net/netlink/genetlink.c.
"""

from __future__ import annotations

import errno
import os
import struct

from nodeagent.host.netlink import RouteSocket
from nodeagent.host.netlink_codec import Message, attribute, attributes, text

NETLINK_GENERIC = 16
GENL_ID_CTRL = 0x10
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
HEADER_BYTES = 4


def command(number: int, body: bytes, version: int = 1) -> bytes:
    """The body of a generic netlink message."""
    return struct.pack("=BBH", number, version, 0) + body


def body_of(reply: Message) -> bytes:
    """The attributes of a generic netlink message. ValueError where it is cut off."""
    if len(reply.body) < HEADER_BYTES:
        raise ValueError(f"a generic netlink message of {len(reply.body)} bytes")
    return reply.body[HEADER_BYTES:]


def parse_family(replies: tuple[Message, ...]) -> int:
    """The family's number in an answer to GETFAMILY. ValueError where it is not there."""
    for reply in replies:
        for kind, payload in attributes(body_of(reply)):
            if kind == CTRL_ATTR_FAMILY_ID and len(payload) >= 2:
                return int(struct.unpack_from("=H", payload)[0])
    raise ValueError("no family number in the answer")


class FamilySocket:
    """A socket for one family; errors as of `RouteSocket`, ENOENT where the kernel has no such family."""

    def __init__(self, opened: RouteSocket, family: str) -> None:
        self._socket = opened
        body = command(CTRL_CMD_GETFAMILY, attribute(CTRL_ATTR_FAMILY_NAME, text(family)))
        found = opened.talk(GENL_ID_CTRL, body)
        if not found:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._family = parse_family(found)

    def talk(self, number: int, body: bytes) -> tuple[bytes, ...]:
        """Ask and wait for the acknowledgement; the attributes of each answer."""
        return tuple(body_of(reply) for reply in self._socket.talk(self._family, command(number, body)))

    def dump(self, number: int, body: bytes = b"") -> tuple[bytes, ...]:
        return tuple(body_of(reply) for reply in self._socket.dump(self._family, command(number, body)))
