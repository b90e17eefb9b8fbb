"""Addresses, routes and rules as they are compared: one spelling for each, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_interface, ip_network
from types import MappingProxyType

MAIN_TABLE = 254
OUR_PROTOCOL = 110  # rtm_protocol of what the agent makes; /etc/iproute2/rt_protos has it free
EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, order=True)
class Route:
    """A route through one interface. `to` is a network (0.0.0.0/0: default); `metric` 0 is the kernel's own choice."""

    to: str
    via: str = ""
    table: int = MAIN_TABLE
    metric: int = 0
    source: str = ""

    def __str__(self) -> str:
        words = ["default" if self.to in EVERYWHERE.values() else self.to]
        words += [f"via {self.via}"] if self.via else []
        words += [f"table {self.table}"] if self.table != MAIN_TABLE else []
        words += [f"metric {self.metric}"] if self.metric else []
        return " ".join(words + ([f"source {self.source}"] if self.source else []))

    @property
    def place(self) -> tuple[str, int, int]:
        """What there can be one of: two routes of one place exclude each other."""
        return self.to, self.table, self.metric

    @property
    def is_default(self) -> bool:
        return self.to in EVERYWHERE.values()


@dataclass(frozen=True, order=True)
class Rule:
    """Packets from `source` go by `table`; the least `priority` counts."""

    source: str
    table: int
    priority: int

    def __str__(self) -> str:
        return f"from {self.source} table {self.table} priority {self.priority}"


@dataclass(frozen=True)
class Placed:
    """What is on one interface: permanent addresses that are not link-local, routes, and which routes are ours."""

    addresses: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    ours: frozenset[Route] = frozenset()


@dataclass(frozen=True)
class Addressing:
    """Every interface's addresses and routes, and the rules of the node; `our_rules` are those the agent made."""

    placed: Mapping[str, Placed] = field(default_factory=lambda: MappingProxyType({}))
    rules: tuple[Rule, ...] = ()
    our_rules: frozenset[Rule] = frozenset()

    def on(self, netdev: str) -> Placed:
        return self.placed.get(netdev, Placed())


def canonical_address(text: str) -> str:
    """`FD00::01/64` as `fd00::1/64`. ValueError for what is none."""
    return str(ip_interface(text))


def canonical_network(text: str, *, version: int = 4) -> str:
    """`10.0.0.0/16`, an address as its /32 or /128, `default` as 0.0.0.0/0 or ::/0. ValueError for what is none."""
    return EVERYWHERE[version] if text == "default" else str(ip_network(text))
