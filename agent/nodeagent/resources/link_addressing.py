"""Addresses, routes and rules as the node file wants them: expanded for each rail, compared, made and removed; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from nodeagent.resources.base import LinkStep, Step
from nodeagent.spec.links import RAIL, LinkEntry
from nodeagent.spec.links import Route as WantedRoute
from nodeagent.state.addressing import Addressing, Route, Rule, canonical_address, canonical_network
from nodeagent.state.network import Netdev
from nodeagent.state.things import Thing, netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

WANTED = "the node file wants it so"


@dataclass(frozen=True, kw_only=True)
class AddAddress(Step):
    """Give the interface an address."""

    address: str

    def __str__(self) -> str:
        return f"add address {self.address} to {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.addressing.add_address(self.subject.name, self.address)

    def undo(self) -> Step:
        return RemoveAddress(subject=self.subject, unit=self.unit, reason="undo", address=self.address)

    def satisfied(self, state: NodeState) -> bool:
        return self.address in state.addressing.on(self.subject.name).addresses


@dataclass(frozen=True, kw_only=True)
class RemoveAddress(LinkStep):
    """Take an address away; `disturbed` is what stands on the interface then."""

    address: str

    def __str__(self) -> str:
        return f"remove address {self.address} from {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.addressing.remove_address(self.subject.name, self.address)

    def undo(self) -> Step:
        return AddAddress(subject=self.subject, unit=self.unit, reason="undo", address=self.address)

    def satisfied(self, state: NodeState) -> bool:
        return self.address not in state.addressing.on(self.subject.name).addresses


@dataclass(frozen=True, kw_only=True)
class AddRoute(Step):
    """Make a route, marked as ours; it takes the place of another one with the same destination, table and metric."""

    route: Route

    def __str__(self) -> str:
        return f"add route {self.route} through {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.addressing.add_route(self.subject.name, self.route)

    def undo(self) -> Step:
        return RemoveRoute(subject=self.subject, unit=self.unit, reason="undo", route=self.route)

    def satisfied(self, state: NodeState) -> bool:
        return self.route in state.addressing.on(self.subject.name).routes


@dataclass(frozen=True, kw_only=True)
class RemoveRoute(Step):
    """Remove a route that the agent made."""

    route: Route

    def __str__(self) -> str:
        return f"remove route {self.route} through {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.addressing.remove_route(self.subject.name, self.route)

    def undo(self) -> Step:
        return AddRoute(subject=self.subject, unit=self.unit, reason="undo", route=self.route)

    def satisfied(self, state: NodeState) -> bool:
        return self.route not in state.addressing.on(self.subject.name).routes


@dataclass(frozen=True, kw_only=True)
class AddRule(Step):
    """Make a rule, marked as ours; the subject is the interface whose entry wants it."""

    rule: Rule

    def __str__(self) -> str:
        return f"add rule {self.rule}"

    def apply(self, host: Host) -> None:
        host.links.addressing.add_rule(self.rule)

    def undo(self) -> Step:
        return RemoveRule(subject=self.subject, unit=self.unit, reason="undo", rule=self.rule)

    def satisfied(self, state: NodeState) -> bool:
        return self.rule in state.addressing.rules


@dataclass(frozen=True, kw_only=True)
class RemoveRule(Step):
    """Remove a rule that the agent made."""

    rule: Rule

    def __str__(self) -> str:
        return f"remove rule {self.rule}"

    def apply(self, host: Host) -> None:
        host.links.addressing.remove_rule(self.rule)

    def undo(self) -> Step:
        return AddRule(subject=self.subject, unit=self.unit, reason="undo", rule=self.rule)

    def satisfied(self, state: NodeState) -> bool:
        return self.rule not in state.addressing.rules


@dataclass(frozen=True)
class Wanted:
    """What the entries want of one interface, expanded; None: not mentioned."""

    addresses: tuple[str, ...] | None = None
    routes: tuple[Route, ...] | None = None
    rules: tuple[Rule, ...] | None = None


def wants_addressing(entry: LinkEntry) -> bool:
    """Whether addresses, routes and rules must be read to plan the entry."""
    return (entry.addresses, entry.routes, entry.rules) != (None, None, None)


def wanted_addressing(entries: Iterable[LinkEntry], rail: int | None) -> Wanted:
    """All entries together. ValueError says what cannot be expanded or is no address, network or table."""
    found = Wanted()
    for entry in entries:
        if entry.addresses is not None:
            own = tuple(canonical_address(expand(text, rail)) for text in entry.addresses)
            found = replace(found, addresses=_together(found.addresses, own))
        if entry.routes is not None:
            routes = tuple(_route(one, rail) for one in entry.routes)
            found = replace(found, routes=_together(found.routes, routes))
        if entry.rules is not None:
            rules = tuple(
                Rule(canonical_network(expand(one.source, rail)), int(expand(one.table, rail)), one.priority)
                for one in entry.rules
            )
            found = replace(found, rules=_together(found.rules, rules))
    return found


def _together(first: tuple[Any, ...] | None, more: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys((*(first or ()), *more)))


def _route(one: WantedRoute, rail: int | None) -> Route:
    texts = {name: expand(getattr(one, name), rail) for name in ("to", "via", "table", "source")}
    told = texts["via"] or texts["source"]
    version = ip_address(told).version if told else 4
    via, source = (str(ip_address(texts[name])) if texts[name] else "" for name in ("via", "source"))
    return Route(canonical_network(texts["to"], version=version), via, int(texts["table"]), one.metric, source)


def expand(text: str, rail: int | None) -> str:
    """The text with the rail's number. ValueError where the interface is no rail."""
    if RAIL in text and rail is None:
        raise ValueError(f"{text}: the interface is no rail")
    return text.replace(RAIL, str(rail))


def address_steps(found: Netdev, wanted: Wanted, addressing: Addressing) -> Iterator[Step]:
    """New addresses come before old ones go, so that the interface is never without one."""
    subject, unit = netdev(found.name), f"links/{found.name}"
    present = addressing.on(found.name).addresses
    if wanted.addresses is not None:
        for address in wanted.addresses:
            if address not in present:
                yield AddAddress(subject=subject, unit=unit, reason=WANTED, address=address)
        for address in present:
            if address not in wanted.addresses:
                uses = found.uses if found.up else ()
                yield RemoveAddress(subject=subject, unit=unit, reason=WANTED, address=address, disturbed=uses)


def route_steps(found: Netdev, wanted: Wanted, addressing: Addressing) -> Iterator[Step]:
    """Routes of the interface; of those that are there only the agent's own are removed."""
    subject, unit = netdev(found.name), f"links/{found.name}"
    placed = addressing.on(found.name)
    if wanted.routes is not None:
        places = {route.place for route in wanted.routes}
        for route in sorted(placed.ours - set(wanted.routes)):
            if route.place not in places:
                yield RemoveRoute(subject=subject, unit=unit, reason=WANTED, route=route)
        for route in wanted.routes:
            if route not in placed.routes:
                yield AddRoute(subject=subject, unit=unit, reason=WANTED, route=route)
    for rule in wanted.rules or ():
        if rule not in addressing.rules:
            yield AddRule(subject=subject, unit=unit, reason=WANTED, rule=rule)


def stale_rules(wanted: Iterable[Wanted], addressing: Addressing, subject: Thing) -> Iterator[Step]:
    """Rules that the agent made and that no entry wants any more."""
    kept = {rule for one in wanted for rule in one.rules or ()}
    for rule in sorted(addressing.our_rules - kept):
        yield RemoveRule(subject=subject, unit="links/rules", reason=WANTED, rule=rule)
