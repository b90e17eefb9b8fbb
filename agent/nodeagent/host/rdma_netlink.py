"""RDMA netlink: the network namespace mode of the RDMA stack.

Source: include/uapi/rdma/rdma_netlink.h, drivers/infiniband/core/nldev.c and device.c (rdma_compatdev_set). Messages
have no family header: attributes follow the netlink header. Reading the mode needs no netlink: ib_core shows the
variable that this command sets as its parameter netns_mode.
"""

from __future__ import annotations

import errno

from nodeagent.errors import UnsupportedError
from nodeagent.host.files import host_errors
from nodeagent.host.netlink import RouteSocket
from nodeagent.host.netlink_codec import Message, attribute, attributes
from nodeagent.host.paths import SYS_RDMA_NETNS_MODE
from nodeagent.host.ports import Files

NETLINK_RDMA = 20
NLDEV = 5 << 10  # RDMA_NL_NLDEV as the client in the upper bits of a message's type
SYS_GET, SYS_SET = NLDEV | 6, NLDEV | 7
ATTR_SYS_NETNS_MODE = 66  # u8: 1 shared, 0 exclusive


def read_netns_shared(files: Files) -> bool | None:
    """Whether RDMA devices are shared between network namespaces, None without an RDMA stack."""
    text = files.read_optional(SYS_RDMA_NETNS_MODE)
    return None if text is None else text.strip() in {"Y", "1"}


def set_netns_shared(shared: bool) -> None:
    """Set the mode. BusyError while another network namespace exists, UnsupportedError without an RDMA stack."""
    operation, subject = "set network namespace mode of", "the rdma stack"
    with host_errors(operation, subject):
        try:
            with RouteSocket(NETLINK_RDMA) as socket:
                socket.talk(SYS_SET, netns_mode(shared))
        except OSError as error:
            if error.errno != errno.EPROTONOSUPPORT:
                raise
            raise UnsupportedError(operation, subject, "there is none", "load ib_core") from error


def get_netns_shared() -> bool | None:
    """The mode as netlink tells it, None where the answer lacks it. OSError as of the socket."""
    with RouteSocket(NETLINK_RDMA) as socket:
        return parse_netns_shared(socket.talk(SYS_GET, b""))


def netns_mode(shared: bool) -> bytes:
    """Body of SYS_SET."""
    return attribute(ATTR_SYS_NETNS_MODE, bytes([shared]))


def parse_netns_shared(replies: tuple[Message, ...]) -> bool | None:
    """The mode from the answers to SYS_GET. ValueError where one is cut off."""
    for reply in replies:
        for kind, payload in attributes(reply.body) if reply.kind == SYS_GET else ():
            if kind == ATTR_SYS_NETNS_MODE and payload:
                return payload[0] != 0
    return None
