"""Takes down what stands on interfaces, and brings it back after a reload of their driver."""

from __future__ import annotations

import errno
import select
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from nodeagent.errors import GoneError, HostError
from nodeagent.host import link_setup_codec as codec
from nodeagent.host.files import host_errors
from nodeagent.host.link_sysctls import SYSCTL, changed_sysctls, restore_sysctl, sysctls_of
from nodeagent.host.netlink import NETLINK_ROUTE, NO_SUCH_INTERFACE, RouteSocket, route_socket
from nodeagent.host.netlink_codec import NLM_F_CREATE, NLM_F_REPLACE, attribute
from nodeagent.host.paths import SYS_CLASS_NET, SYS_PCI_DEVICES
from nodeagent.host.ports import Clock, Files

RTM_SETLINK = 19
RTMGRP_LINK = 1
APPEARANCE_SECONDS = 60.0  # firmware starts, then udev gives the name
CARRIER_SECONDS = 10.0  # two ports agree on a speed in a few seconds
RECHECK_SECONDS = 1.0  # should an event be lost
RECEIVE_BYTES = 1 << 16

Entries = tuple[tuple[str, str], ...]


def read_setups(files: Files) -> Mapping[str, Entries]:
    """What stands on each interface of this network namespace, in the order in which it can be brought back."""
    with route_socket("read", "addresses and routes") as opened:
        links = opened.dump(codec.RTM_GETLINK, codec.LINK.pack(0, 0, 0, 0, 0))
        addresses = opened.dump(codec.RTM_GETADDR, codec.ADDRESS.pack(0, 0, 0, 0, 0))
        routes = opened.dump(codec.RTM_GETROUTE, codec.ROUTE.pack(*[0] * 9))
        neighbours = opened.dump(codec.RTM_GETNEIGH, codec.NEIGHBOUR.pack(0, 0, 0, 0, 0))
        names = codec.names_of(links)
        usual = sysctls_of(files, "default")
        found = {name: list(changed_sysctls(files, name, usual)) for name in names.values()}
        for name, entry in codec.stacked_entries(links, names):
            found.setdefault(name, []).append(entry)
        for message in addresses:
            address = codec.address_entry(message.body, names)
            if address is not None:
                found.setdefault(address[0], []).append(address[1])
        for message in routes:
            for name, entry in codec.route_entries(message.body, names):
                found.setdefault(name, []).append(entry)
        for message in neighbours:
            neighbour = codec.neighbour_entry(message.body, names)
            if neighbour is not None:
                found.setdefault(neighbour[0], []).append(neighbour[1])
    return {name: tuple(entries) for name, entries in with_stacked(found).items() if entries}


def with_stacked(found: Mapping[str, Sequence[tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
    """What stands on a VLAN stands on the interface below it too: it goes with it and comes back after it."""
    whole: dict[str, list[tuple[str, str]]] = {}

    def collect(name: str, seen: frozenset[str]) -> list[tuple[str, str]]:
        own = list(found.get(name, ()))
        tops = [text.split(" ")[1] for text, data in own if data.startswith("link ")]
        return own + [entry for top in tops if top not in seen for entry in collect(top, seen | {top})]

    for name in found:
        whole[name] = collect(name, frozenset({name}))
    return whole


def restore_entries(files: Files, netdev: str, entries: Entries) -> None:
    """Bring back every entry that is missing; HostError names those that the kernel refused, after trying all.

    GoneError where the interface itself is not there: nothing of it can be brought back then.
    """
    if _index_of(netdev) is None:
        raise GoneError("restore", netdev, NO_SUCH_INTERFACE)
    refused: list[str] = []
    with route_socket("restore", netdev) as opened:
        for text, data in entries:
            try:
                if data.startswith(SYSCTL):
                    restore_sysctl(files, data)
                else:
                    _restore(opened, netdev, data)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    refused.append(f"{text} ({(error.strerror or '').lower()})")
            except HostError as error:
                refused.append(f"{text} ({error.reason})")
    if refused:
        raise not_restored(netdev, refused)


def not_restored(netdev: str, refused: Sequence[str]) -> HostError:
    """What `Links.restore` says of entries, each with its reason, that could not be brought back."""
    return HostError("restore", netdev, f"refused: {', '.join(refused)}", "everything else is back")


def _restore(opened: RouteSocket, netdev: str, data: str) -> None:
    if data.startswith("master "):
        _enslave(opened, netdev, data.split(" ")[1])
        return
    message = codec.replay(data, _index_of)
    if message is not None:  # else a route over several interfaces: whoever of them comes back last restores it
        kind, body = message
        replace = 0 if kind == codec.RTM_NEWLINK else NLM_F_REPLACE
        opened.talk(kind, body, NLM_F_CREATE | replace)


def _enslave(opened: RouteSocket, netdev: str, master: str) -> None:
    """A bond takes only interfaces that are down, and sets them up itself."""
    index, above = _index_of(netdev), _index_of(master)
    if index is None or above is None:
        raise OSError(errno.ENODEV, "no such device")
    down = codec.LINK.pack(0, 0, index, 0, codec.IFF_UP)
    up = codec.LINK.pack(0, 0, index, codec.IFF_UP, codec.IFF_UP)
    opened.talk(RTM_SETLINK, down)
    opened.talk(RTM_SETLINK, down + attribute(codec.IFLA_MASTER, struct.pack("=i", above)))
    opened.talk(RTM_SETLINK, up)


def _index_of(name: str) -> int | None:
    with suppress(OSError):
        return socket.if_nametoindex(name)
    return None


def await_link(files: Files, clock: Clock, netdev: str, pci_address: str) -> None:
    """Wait until the function's interface is there under its name, woken by the kernel's messages about links.

    GoneError after 60 s, with the name that the function's interface has instead.
    """

    def is_there() -> bool:
        """Functions that come at once may get each other's names until udev gives them theirs."""
        path = f"{SYS_CLASS_NET}/{netdev}"
        return files.exists(path) and (not pci_address or files.target(f"{path}/device") == pci_address)

    _await(is_there, clock, "wait for", netdev, APPEARANCE_SECONDS)
    if not is_there():
        others = files.names(f"{SYS_PCI_DEVICES}/{pci_address}/net") if pci_address else ()
        reason = f"not there {APPEARANCE_SECONDS:g} s after its driver"
        raise GoneError("wait for", netdev, reason, f"it is called {', '.join(others)} now" if others else "")


def await_carrier(files: Files, clock: Clock, netdev: str) -> bool:
    """Wait a while for the carrier of an interface that is up; whether it has it."""
    directory = f"{SYS_CLASS_NET}/{netdev}"

    def decided() -> bool:
        carrier = files.read_optional(f"{directory}/carrier")  # no value while the interface is down
        return carrier in (None, "1")

    _await(decided, clock, "wait for the carrier of", netdev, CARRIER_SECONDS)
    return files.read_optional(f"{directory}/carrier") == "1"


def _await(is_so: Callable[[], bool], clock: Clock, operation: str, netdev: str, seconds: float) -> None:
    """Until it is so or the time is over; looked at again with each of the kernel's messages about links."""
    deadline = clock.monotonic() + seconds
    with host_errors(operation, netdev), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE) as events:
        events.bind((0, RTMGRP_LINK))
        events.setblocking(False)
        while not is_so() and clock.monotonic() < deadline:
            select.select([events], [], [], RECHECK_SECONDS)
            with suppress(OSError):  # also when events were lost: it is looked at again in any case
                events.recv(RECEIVE_BYTES)
