"""The ports below `Links`: settings of interfaces, addresses and routes. Every method raises HostError kinds only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from nodeagent.state.addressing import Addressing, Route, Rule
from nodeagent.state.link_settings import Group, GroupState, SettingsState, Values


class LinkSettings(Protocol):
    """Rings, queues, coalescing, offloads and the like. Every write is read back."""

    def read_all(self, groups: Iterable[Group]) -> Mapping[str, SettingsState]:
        """These groups of every interface, by name; what a driver does not offer is left out."""

    def read(self, netdev: str, group: Group) -> GroupState:
        """One group of one interface, empty where the driver does not offer it. GoneError without the interface."""

    def write(self, netdev: str, group: Group, values: Values) -> None:
        """Set some of a group's settings. UnsupportedError where the device refuses or makes something else of it.

        BusyError while the driver is at something else, GoneError without the interface.
        """


class LinkAddressing(Protocol):
    """Addresses, routes and rules; what is there already stays, and what is gone already is no error."""

    def read(self) -> Addressing:
        """Of every interface; routes of the local table and those that come by themselves are left out."""

    def add_address(self, netdev: str, address: str) -> None:
        """Such as 10.0.0.1/24; IPv6 without duplicate address detection. GoneError without the interface."""

    def remove_address(self, netdev: str, address: str) -> None:
        """The other addresses of its network stay."""

    def add_route(self, netdev: str, route: Route) -> None:
        """In place of another of the same destination, table and metric. HostError while the interface is down."""

    def remove_route(self, netdev: str, route: Route) -> None: ...

    def add_rule(self, rule: Rule) -> None: ...

    def remove_rule(self, rule: Rule) -> None: ...

    def answers(self, netdev: str, address: str) -> bool:
        """Whether a neighbour on the link answers for this address now; takes up to a second."""
