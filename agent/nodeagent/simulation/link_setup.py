"""Addresses and routes of the simulated interfaces, as they are seen, kept and brought back; pure."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from dataclasses import replace

from nodeagent.errors import GoneError
from nodeagent.host.netlink import NO_SUCH_INTERFACE
from nodeagent.simulation.kernel_state import Interface, KernelState, edited
from nodeagent.simulation.link_settings import shown
from nodeagent.simulation.refused import refused
from nodeagent.state.link_settings import Group
from nodeagent.state.network import DEFAULT_ROUTE

OURS = " ours"


def setup_of(interface: Interface) -> tuple[tuple[str, str], ...]:
    """(text, data) for each address and route; here the data is the text, and whether the agent made the route."""
    texts = [*_sysctls(interface), *(f"address {address}" for address in interface.addresses)]
    texts += [f"route {route}" for route in interface.routes]
    neighbours = (f"neighbour {one}" for one in interface.neighbours)
    return tuple((text.removesuffix(OURS), text) for text in (*texts, *_default(interface), *neighbours))


def _sysctls(interface: Interface) -> tuple[str, ...]:
    """Those that differ from what a new interface has (host.link_sysctls)."""
    fresh = shown(replace(interface, settings={}), (Group.IPV4,))[Group.IPV4]
    now = shown(interface, (Group.IPV4,))[Group.IPV4]
    return tuple(f"{Group.IPV4} {one.name} {one.value}" for one, usual in zip(now, fresh, strict=True) if one != usual)


def _default(interface: Interface) -> tuple[str, ...]:
    if not interface.default_route:
        return ()
    via = f" via {interface.gateway}" if interface.gateway else ""
    return (f"{DEFAULT_ROUTE}{via}{OURS if interface.default_ours else ''}",)


def uses_of(interface: Interface) -> tuple[str, ...]:
    """What would be disturbed if it went down; a link that is down carries nothing (host.link_facts.read_uses)."""
    if not interface.up:
        return ()
    addresses = sorted(interface.addresses, key=lambda address: ":" in address)  # IPv4 first
    through = (route for route in interface.routes if " table " not in route)  # those of the main table are seen
    routes = (f"route {route.partition(' ')[0]}" for route in through if " via " in route)
    default = (DEFAULT_ROUTE,) if interface.default_route else ()
    return (*default, *(f"address {address}" for address in addresses), *routes)


def with_setup(
    state: KernelState, name: str, entries: Iterable[tuple[str, str]]
) -> tuple[KernelState, tuple[str, ...]]:
    """With everything that is missing, and what was refused with its reason. GoneError without the interface."""
    found, refused = state.interfaces.get(name), []
    if found is None:
        raise GoneError("restore", name, NO_SUCH_INTERFACE)
    for text, data in entries:
        try:
            found = _with_entry(found, data)
        except OSError as error:
            refused.append(f"{text} ({str(error.strerror).lower()})")
    return replace(state, interfaces=edited(state.interfaces, **{name: found})), tuple(refused)


def _with_entry(found: Interface, data: str) -> Interface:
    kind, _, value = data.partition(" ")
    if kind == "address":
        return replace(found, addresses=(*(one for one in found.addresses if one != value), value))
    if kind == Group.IPV4:
        name, _, number = value.partition(" ")
        return replace(found, settings={**found.settings, f"{kind}.{name}": int(number)})
    if kind == "neighbour":
        return replace(found, neighbours=(*(one for one in found.neighbours if one != value), value))
    if not found.up:
        raise refused(errno.ENETDOWN)
    if data.startswith(DEFAULT_ROUTE):
        gateway = data.removeprefix(DEFAULT_ROUTE).removesuffix(OURS).removeprefix(" via ")
        return replace(found, default_route=True, gateway=gateway, default_ours=data.endswith(OURS))
    return replace(found, routes=(*(one for one in found.routes if one != value), value))
