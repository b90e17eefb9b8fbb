"""Writes through rtnetlink(7) by pyroute2, which is imported when something is to be changed, not before.

It costs 25 MB and a fifth of a second, and a pass that changes nothing needs none of it: what is read in every pass
goes by `host/netlink.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from nodeagent.errors import GoneError, HostError
from nodeagent.host.files import ADVICE, ERROR_OF_ERRNO, host_errors
from nodeagent.host.netlink import NO_SUCH_INTERFACE

if TYPE_CHECKING:
    from pyroute2 import IPRoute


@contextmanager
def rtnl(operation: str, subject: str, harmless: tuple[int, ...] = ()) -> Iterator[IPRoute]:
    """A socket for the block. A refusal in it becomes the agent's error, in the kernel's own words where it has some.

    A refusal with one of the `harmless` errnos ends the block without an error.
    """
    from pyroute2 import IPRoute  # noqa: PLC0415 - see the head of the file
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        # Extended acknowledgements: the kernel then says in words why it refuses.
        with host_errors(operation, subject), IPRoute(ext_ack=True) as route:
            yield route
    except NetlinkError as error:
        code, reason = error.args
        if code not in harmless:
            kind = ERROR_OF_ERRNO.get(code, HostError)
            raise kind(operation, subject, str(reason).lower(), ADVICE.get(code, "")) from error


@contextmanager
def rtnl_on(operation: str, netdev: str, harmless: tuple[int, ...] = ()) -> Iterator[tuple[IPRoute, int]]:
    """The same with the index of an interface. GoneError where there is none of this name."""
    with rtnl(operation, netdev, harmless) as route:
        try:
            index = socket.if_nametoindex(netdev)
        except OSError as error:
            raise GoneError(operation, netdev, NO_SUCH_INTERFACE) from error
        yield route, index
