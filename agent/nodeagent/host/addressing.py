"""Addresses, routes and rules through rtnetlink: read in three dumps whatever their number, written by pyroute2.

Its `replace` takes the place of what is there already, its `add` is refused then; they and `del` add nothing to what is
named here but the family of an address.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from nodeagent.errors import GoneError
from nodeagent.host import addressing_codec as codec
from nodeagent.host import link_setup_codec as setup
from nodeagent.host.link_setup_codec import NDA_DST, NEIGHBOUR, NUD_PERMANENT, RTM_GETNEIGH
from nodeagent.host.netlink import NO_SUCH_INTERFACE, RouteSocket, route_socket
from nodeagent.host.netlink_codec import attribute, attributes
from nodeagent.host.paths import PROC_NET_IPV4_CONF
from nodeagent.host.ports import Clock, Files
from nodeagent.host.rtnl import rtnl, rtnl_on
from nodeagent.state.addressing import OUR_PROTOCOL, Addressing, Placed, Route, Rule

RTM_DELNEIGH = 29
NUD_INCOMPLETE, NUD_REACHABLE, NUD_FAILED, NUD_NOARP = 0x01, 0x02, 0x20, 0x40
ANSWERED = NUD_REACHABLE | NUD_NOARP | NUD_PERMANENT
DISCARD_PORT = 9  # RFC 863; what matters is that the kernel has to find the neighbour for the packet
ANSWER_SECONDS, LOOK_SECONDS = 1.0, 0.02
THERE, GONE = (errno.EEXIST,), (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT)


class RtnlAddressing:
    """`ports.LinkAddressing` in the agent's own network namespace."""

    def __init__(self, files: Files, clock: Clock) -> None:
        self._files, self._clock = files, clock

    def read(self) -> Addressing:
        with route_socket("read", "addresses, routes and rules") as opened:
            names = setup.names_of(opened.dump(setup.RTM_GETLINK, setup.LINK.pack(0, 0, 0, 0, 0)))
            addresses = opened.dump(setup.RTM_GETADDR, setup.ADDRESS.pack(0, 0, 0, 0, 0))
            routes = opened.dump(setup.RTM_GETROUTE, setup.ROUTE.pack(*[0] * 9))
            rules = opened.dump(codec.RTM_GETRULE, setup.ROUTE.pack(*[0] * 9))
            on_netdev = [found for reply in addresses if (found := codec.decode_address(reply.body, names))]
            through = [route for reply in routes if (route := codec.decode_route(reply.body, names))]
            by_source = [rule for reply in rules if (rule := codec.decode_rule(reply.body))]
        placed = {
            name: Placed(
                tuple(address for netdev, address in on_netdev if netdev == name),
                tuple(one for netdev, one, _ in through if netdev == name),
                frozenset(one for netdev, one, ours in through if netdev == name and ours),
            )
            for name in {netdev for netdev, _ in on_netdev} | {netdev for netdev, _, _ in through}
        }
        our_rules = frozenset(one for one, is_ours in by_source if is_ours)
        return Addressing(placed, tuple(one for one, _ in by_source), our_rules)

    def add_address(self, netdev: str, address: str) -> None:
        with rtnl_on(f"add address {address} to", netdev, THERE) as (route, index):
            route.addr("replace", index=index, **_address(address))

    def remove_address(self, netdev: str, address: str) -> None:
        """As the port says; without promote_secondaries the kernel takes the network's other addresses with it."""
        promote = f"{PROC_NET_IPV4_CONF}/{netdev}/promote_secondaries"
        before = self._files.read_optional(promote)
        if before == "0":
            self._files.write(promote, "1")
        try:
            with rtnl_on(f"remove address {address} from", netdev, GONE) as (route, index):
                route.addr("del", index=index, **_address(address))
        finally:
            if before == "0" and self._files.exists(promote):
                self._files.write(promote, before)

    def add_route(self, netdev: str, route: Route) -> None:
        with rtnl_on(f"add route {route} through", netdev, THERE) as (opened, index):
            opened.route("replace", oif=index, **_route(route))

    def remove_route(self, netdev: str, route: Route) -> None:
        with rtnl_on(f"remove route {route} through", netdev, GONE) as (opened, index):
            opened.route("del", oif=index, **_route(route))

    def add_rule(self, rule: Rule) -> None:
        with rtnl("add rule", str(rule), THERE) as opened:
            opened.rule("add", **_rule(rule))  # refused where it is there, which would else be there twice

    def remove_rule(self, rule: Rule) -> None:
        with rtnl("remove rule", str(rule), GONE) as opened:
            opened.rule("del", **_rule(rule))

    def answers(self, netdev: str, address: str) -> bool:
        """As the port says. What is known of the neighbour is forgotten first: only a fresh answer proves anything."""
        packed = ip_address(address).packed
        with _asked(f"ask for {address} on", netdev) as (opened, index):
            family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
            if self._look(opened, index, packed) & (NUD_NOARP | NUD_PERMANENT):
                return True
            with _harmless((errno.ENOENT,)):  # by the socket that looks: the guard asks where nothing is to be changed
                opened.talk(RTM_DELNEIGH, NEIGHBOUR.pack(family, index, 0, 0, 0) + attribute(NDA_DST, packed))
            _poke(netdev, address, family)
            until = self._clock.monotonic() + ANSWER_SECONDS
            while not (state := self._look(opened, index, packed)) & ANSWERED:
                if state & NUD_FAILED or self._clock.monotonic() >= until:
                    return False
                self._clock.sleep(LOOK_SECONDS)
            return True

    def _look(self, opened: RouteSocket, index: int, packed: bytes) -> int:
        """The neighbour's NUD_ state, 0 where nothing is known of it."""
        for reply in opened.dump(RTM_GETNEIGH, NEIGHBOUR.pack(0, 0, 0, 0, 0)):
            _, on, state, _, _ = NEIGHBOUR.unpack_from(reply.body)
            if on == index and dict(attributes(reply.body[NEIGHBOUR.size :])).get(NDA_DST) == packed:
                return int(state)
        return 0


def _address(address: str) -> dict[str, Any]:
    """IPv6 without duplicate address detection: the file says whose it is, and routes need it at once."""
    found = ip_interface(address)
    flags = codec.IFA_F_NODAD if found.version == 6 else 0
    return {"address": str(found.ip), "prefixlen": found.network.prefixlen, "flags": flags}


def _route(route: Route) -> dict[str, Any]:
    network = ip_network(route.to)
    found: dict[str, Any] = {
        "family": codec.FAMILY[network.version],
        "dst": route.to,
        "table": route.table,
        "proto": OUR_PROTOCOL,
        "type": codec.RTN_UNICAST,
        "scope": 0 if route.via or network.version == 6 else setup.LINK_SCOPE,
    }
    more = {"gateway": route.via, "priority": route.metric, "prefsrc": route.source}
    return found | {key: value for key, value in more.items() if value}


def _rule(rule: Rule) -> dict[str, Any]:
    network = ip_network(rule.source)
    source = {"src": str(network.network_address)} if network.prefixlen else {}
    return source | {
        "family": codec.FAMILY[network.version],
        "src_len": network.prefixlen,
        "table": rule.table,
        "priority": rule.priority,
        "action": codec.FR_ACT_TO_TBL,
        "protocol": OUR_PROTOCOL,
    }


def _poke(netdev: str, address: str, family: int) -> None:
    """One empty datagram makes the kernel ask for the neighbour; whether it gets anywhere does not matter."""
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as poking:
        poking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, netdev.encode())
        poking.setblocking(False)
        poking.sendto(b"", (address, DISCARD_PORT))


@contextmanager
def _asked(operation: str, netdev: str) -> Iterator[tuple[RouteSocket, int]]:
    with route_socket(operation, netdev) as opened:
        try:
            index = socket.if_nametoindex(netdev)
        except OSError as error:
            raise GoneError(operation, netdev, NO_SUCH_INTERFACE) from error
        yield opened, index


@contextmanager
def _harmless(numbers: tuple[int, ...]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in numbers:
            raise
