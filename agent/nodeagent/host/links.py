"""Network interfaces through rtnetlink(7); pyroute2 is imported when something is to be changed, not before.

It costs 24 MB and a quarter of a second, and a pass that changes nothing needs none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nodeagent.errors import GoneError, HostError
from nodeagent.host.files import ADVICE, ERROR_OF_ERRNO, host_errors
from nodeagent.host.link_facts import read_uses
from nodeagent.host.ports import Files

if TYPE_CHECKING:
    from pyroute2 import IPRoute


class RtnlLinks:
    """`ports.Links` in the agent's own network namespace; `files` must be the same machine's tree."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def uses(self) -> dict[str, tuple[str, ...]]:
        return read_uses(self._files)

    def set_up(self, netdev: str, up: bool) -> None:
        """Set or clear IFF_UP. GoneError if there is no such interface, DeniedError without CAP_NET_ADMIN."""
        state = "up" if up else "down"
        _set_link(f"set {state}", netdev, state=state)

    def set_mtu(self, netdev: str, mtu: int) -> None:
        """Set the MTU in bytes. UnsupportedError in the kernel's own words where the device cannot have it."""
        _set_link(f"set mtu {mtu} on", netdev, mtu=mtu)


def _set_link(operation: str, netdev: str, **attributes: Any) -> None:
    with _netlink(operation, netdev) as route:
        found = route.link_lookup(ifname=netdev)
        if not found:
            raise GoneError(operation, netdev, "no such interface")
        route.link("set", index=found[0], **attributes)


@contextmanager
def _netlink(operation: str, netdev: str) -> Iterator[IPRoute]:
    """A socket with extended acknowledgements: the kernel then says in words why it refuses."""
    from pyroute2 import IPRoute  # noqa: PLC0415 - see the head of the file
    from pyroute2.netlink.exceptions import NetlinkError  # noqa: PLC0415

    try:
        with host_errors(operation, netdev), IPRoute(ext_ack=True) as route:
            yield route
    except NetlinkError as error:
        code, reason = error.args
        kind = ERROR_OF_ERRNO.get(code, HostError)
        raise kind(operation, netdev, str(reason).lower(), ADVICE.get(code, "")) from error
