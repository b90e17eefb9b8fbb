"""Changes of interfaces, addresses, routes and rules that give no uevent, by rtnetlink's multicast groups.

Sources: rtnetlink(7), netlink(7) (ENOBUFS), include/uapi/linux/rtnetlink.h (RTMGRP_).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress

from nodeagent.host import addressing_codec as addressing
from nodeagent.host import link_setup_codec as setup
from nodeagent.host.netlink_codec import Message, attributes, messages
from nodeagent.state.addressing import OUR_PROTOCOL

RTM_DELLINK, RTM_DELADDR, RTM_DELROUTE = 17, 21, 25
GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400  # links, IPv4 addresses, routes, rules, IPv6 addresses, routes
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000
IFLA_OPERSTATE = 16
BUFFER_BYTES, RECEIVE_BYTES = 1 << 20, 1 << 16
SO_RCVBUFFORCE = 33
PROTOCOL_OFFSET = 5  # in struct rtmsg


class LinkWatch:
    """An event source for the loop. Routes of others are many on a router and none of our business: they do not count.

    Where the socket cannot be had, `degraded` says why and `descriptor` is None: the loop then has its timer only.
    """

    def __init__(self, buffer_bytes: int = BUFFER_BYTES) -> None:
        self._socket: socket.socket | None = None
        self._links: dict[int, tuple[object, ...]] = {}
        self.degraded = ""
        try:
            self._socket = _open(buffer_bytes)
        except OSError as error:
            self.degraded = f"no events of interfaces: {(error.strerror or str(error)).lower()}"

    @property
    def descriptor(self) -> int | None:
        """File descriptor to wait on for reading."""
        return self._socket.fileno() if self._socket is not None else None

    def drain(self) -> tuple[str, ...]:
        """What has changed since, such as `link ens1`; does not wait.

        When the kernel's queue ran over, events are lost: `overrun` stands for them, and the node is to be looked at.
        """
        found: dict[str, None] = {}
        while self._socket is not None:
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found["overrun"] = None
                continue
            with suppress(ValueError, struct.error):  # a message of a kind that this kernel writes otherwise
                found |= dict.fromkeys(text for one in messages(data) for text in self._events(one))
        return tuple(found)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _events(self, message: Message) -> Iterator[str]:
        kind, body = message.kind, message.body
        if kind in (setup.RTM_NEWLINK, RTM_DELLINK):
            yield from self._link(kind, body)
        elif kind in (setup.RTM_NEWADDR, RTM_DELADDR):
            index = setup.ADDRESS.unpack_from(body)[4]
            found = addressing.decode_address(body, {index: f"interface {index}"})
            if found is not None:  # neither link-local nor refreshed by a router all the time
                yield f"address {found[1]}"
        elif kind == RTM_DELROUTE and body[PROTOCOL_OFFSET] == OUR_PROTOCOL:
            yield "route"
        elif kind == addressing.RTM_DELRULE:
            yield "rule"

    def _link(self, kind: int, body: bytes) -> Iterator[str]:
        """Statistics and the like give messages too: only what differs from the last one counts."""
        index, flags = setup.LINK.unpack_from(body)[2:4]
        tops = dict(attributes(body[setup.LINK.size :]))
        name = tops.get(setup.IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")
        kept = (setup.IFLA_MTU, setup.IFLA_MASTER, IFLA_OPERSTATE)
        now = (name, flags & (IFF_UP | IFF_LOWER_UP), *(tops.get(one) for one in kept))
        if kind == RTM_DELLINK:
            self._links.pop(index, None)
            yield f"link {name}"
        elif self._links.get(index) != now:
            self._links[index] = now
            yield f"link {name}"


def _open(buffer_bytes: int) -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    try:
        with suppress(PermissionError):
            opened.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, struct.pack("i", buffer_bytes))
        opened.bind((0, GROUPS))
    except OSError:
        opened.close()
        raise
    return opened
