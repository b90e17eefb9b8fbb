"""`ports.LinkAddressing` on the simulated kernel: addresses, routes and rules as the kernel keeps them.

Sources: net/ipv4/fib_semantics.c (a gateway must be on the link, the interface up), net/core/fib_rules.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING

from nodeagent.host.files import host_errors
from nodeagent.simulation.kernel_state import edited
from nodeagent.simulation.refused import refused
from nodeagent.state.addressing import EVERYWHERE, MAIN_TABLE, Addressing, Placed, Route, Rule

if TYPE_CHECKING:
    from nodeagent.simulation.kernel import SimKernel
    from nodeagent.simulation.kernel_state import Interface, KernelState

OURS = "ours"


class SimulatedAddressing:
    """Addresses, routes and rules of the simulated interfaces. A gateway answers while the link has a carrier."""

    def __init__(self, kernel: SimKernel) -> None:
        self._kernel = kernel

    def read(self) -> Addressing:
        with host_errors("read", "addresses, routes and rules"):
            self._kernel.strike("read addressing", "all")
        state = self._kernel.state
        placed = {name: _placed(one) for name, one in state.interfaces.items()}
        rules = {_rule(text): text.endswith(OURS) for text in state.rules}
        return Addressing(placed, tuple(rules), frozenset(rule for rule, ours in rules.items() if ours))

    def add_address(self, netdev: str, address: str) -> None:
        def edit(found: Interface) -> Interface:
            return replace(found, addresses=tuple(dict.fromkeys((*found.addresses, address))))

        self._edit(f"add address {address} to", netdev, edit)

    def remove_address(self, netdev: str, address: str) -> None:
        """Routes through gateways of its network stay: the kernel looks at them only when they are made."""

        def edit(found: Interface) -> Interface:
            return replace(found, addresses=tuple(one for one in found.addresses if one != address))

        self._edit(f"remove address {address} from", netdev, edit)

    def add_route(self, netdev: str, route: Route) -> None:
        def edit(found: Interface) -> Interface:
            if not found.up:
                raise refused(errno.ENETDOWN)
            networks = [ip_interface(one).network for one in found.addresses]
            if route.via and not any(ip_address(route.via) in one for one in networks):
                raise refused(errno.ENETUNREACH)
            if _is_default(route):
                return replace(found, default_route=True, gateway=route.via, default_ours=True)
            kept = tuple(one for one in found.routes if parse_route(one)[0].place != route.place)
            return replace(found, routes=(*kept, route_text(route)))

        self._edit(f"add route {route} through", netdev, edit)

    def remove_route(self, netdev: str, route: Route) -> None:
        def edit(found: Interface) -> Interface:
            if _is_default(route):
                return replace(found, default_route=False, gateway="", default_ours=False)
            return replace(found, routes=tuple(one for one in found.routes if parse_route(one)[0] != route))

        self._edit(f"remove route {route} through", netdev, edit)

    def add_rule(self, rule: Rule) -> None:
        text = f"{rule} {OURS}"
        self._kernel.change(lambda state: replace(state, rules=tuple(dict.fromkeys((*state.rules, text)))))

    def remove_rule(self, rule: Rule) -> None:
        def edit(state: KernelState) -> KernelState:
            return replace(state, rules=tuple(one for one in state.rules if _rule(one) != rule))

        self._kernel.change(edit)

    def answers(self, netdev: str, address: str) -> bool:
        """Whether the gateway is reached: through a link that is up with an address of its network."""
        found = self._kernel.state.interfaces.get(netdev)
        if found is None or not (found.up and found.carrier):
            return False
        return any(ip_address(address) in ip_interface(one).network for one in found.addresses)

    def _edit(self, operation: str, netdev: str, edit: Callable[[Interface], Interface]) -> None:
        def change(state: KernelState) -> KernelState:
            if netdev not in state.interfaces:
                raise refused(errno.ENODEV)
            return replace(state, interfaces=edited(state.interfaces, **{netdev: edit(state.interfaces[netdev])}))

        with host_errors(operation, netdev):
            self._kernel.change(change)


def _is_default(route: Route) -> bool:
    return route.is_default and route.table == MAIN_TABLE and not route.metric


def _placed(found: Interface) -> Placed:
    pairs = [parse_route(text) for text in found.routes]
    if found.default_route:
        pairs.append((Route(EVERYWHERE[6 if ":" in found.gateway else 4], found.gateway), found.default_ours))
    routes = tuple(route for route, _ in pairs)
    return Placed(found.addresses, routes, frozenset(route for route, ours in pairs if ours))


def route_text(route: Route) -> str:
    """As the interface keeps it: `10.9.0.0/16 via 10.0.0.254 table 100 ours`."""
    return f"{route.to}{str(route).removeprefix(route.to).removeprefix('default')} {OURS}"


def parse_route(text: str) -> tuple[Route, bool]:
    """(route, whether the agent made it)."""
    to, *words = text.removesuffix(f" {OURS}").split(" ")
    found = dict(zip(words[::2], words[1::2], strict=True))
    table, metric = int(found.get("table", MAIN_TABLE)), int(found.get("metric", 0))
    return Route(to, found.get("via", ""), table, metric, found.get("source", "")), text.endswith(f" {OURS}")


def _rule(text: str) -> Rule:
    words = text.split(" ")
    return Rule(words[1], int(words[3]), int(words[5]))


def renamed(state: KernelState, netdev: str, name: str) -> KernelState:
    """The interface under another name. OSError ENODEV, EEXIST where the name is taken."""
    if netdev not in state.interfaces:
        raise refused(errno.ENODEV)
    if name in (*state.interfaces, "lo"):
        raise refused(errno.EEXIST)
    changed = replace(state.interfaces[netdev], name=name)
    return replace(state, interfaces=edited(state.interfaces, **{netdev: None, name: changed}))
