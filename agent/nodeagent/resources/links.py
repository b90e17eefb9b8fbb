"""Section `links`: administrative state and MTU of network interfaces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, Obstacle, Step, Wish
from nodeagent.resources.link_selection import select_netdevs, what_there_is
from nodeagent.spec.schema import LinkEntry, NodeSpec, Policy
from nodeagent.state.network import Netdev
from nodeagent.state.node import NodeState
from nodeagent.state.things import Kind, Thing, netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

DEFAULT_ROUTE = "default route"
WANTED = "the node file wants it so"


@dataclass(frozen=True, kw_only=True)
class SetLinkMtu(Step):
    """Set the MTU in bytes; `disturbed` is what stands on the interface while it is up."""

    mtu: int
    before: int
    disturbed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"set mtu of {self.subject.name} to {self.mtu} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.set_mtu(self.subject.name, self.mtu)

    def undo(self) -> Step:
        return SetLinkMtu(subject=self.subject, unit=self.unit, reason="undo", mtu=self.before, before=self.mtu)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and found.mtu == self.mtu

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC if self.disturbed else Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,) if self.disturbed else ()


@dataclass(frozen=True, kw_only=True)
class SetLinkUp(Step):
    """Set the administrative state; `disturbed` is what stands on the interface that goes down."""

    up: bool
    disturbed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"set {self.subject.name} {'up' if self.up else 'down'}"

    def apply(self, host: Host) -> None:
        host.links.set_up(self.subject.name, self.up)

    def undo(self) -> Step:
        return SetLinkUp(subject=self.subject, unit=self.unit, reason="undo", up=not self.up)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and found.up == self.up

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC if self.disturbed else Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,) if self.disturbed else ()


@dataclass(frozen=True)
class LinkWish:
    """What the file's entries come to for one interface; None: not mentioned."""

    up: bool | None = None
    mtu: int | None = None


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every matched interface, by name; obstacles for entries that match nothing or contradict each other."""
    obstacles = [unmatched(entry, spec, state) for entry in spec.links if not select_netdevs(entry.match, state)]
    steps: list[Step] = []
    named = _entries_by_name(spec, state)
    for name, entries in named.items():
        wish = merge(entries)
        problem = clash(name, entries) if wish is None else refusal(state.netdevs[name], wish, spec.disruption.nic)
        if problem is not None:
            obstacles.append(problem)
        elif wish is not None:
            steps += link_steps(state.netdevs[name], wish)
    return Wish(tuple(steps), tuple(obstacles), decided=tuple(netdev(name) for name in named))


def _entries_by_name(spec: NodeSpec, state: NodeState) -> Mapping[str, tuple[LinkEntry, ...]]:
    claimed = {entry: select_netdevs(entry.match, state) for entry in spec.links}
    names = sorted({name for found in claimed.values() for name in found})
    return {name: tuple(entry for entry in spec.links if name in claimed[entry]) for name in names}


def merge(entries: Iterable[LinkEntry]) -> LinkWish | None:
    """One wish from all entries that match an interface, None if they contradict each other."""
    ups = {entry.up for entry in entries if entry.up is not None}
    mtus = {entry.mtu for entry in entries if entry.mtu is not None}
    if len(ups) > 1 or len(mtus) > 1:
        return None
    return LinkWish(next(iter(ups), None), next(iter(mtus), None))


def link_steps(found: Netdev, wish: LinkWish) -> Iterator[Step]:
    """The MTU changes while the interface is down where the wish allows it: before it goes up, after it went down."""
    to_up = wish.up is True and not found.up
    to_down = wish.up is False and found.up
    disturbed = found.uses if found.up else ()
    subject, unit = netdev(found.name), _unit(found.name)
    if to_down:
        yield SetLinkUp(subject=subject, unit=unit, reason=WANTED, up=False, disturbed=disturbed)
    if wish.mtu is not None and wish.mtu != found.mtu:
        yield SetLinkMtu(subject=subject, unit=unit, reason=WANTED, mtu=wish.mtu, before=found.mtu, disturbed=disturbed)
    if to_up:
        yield SetLinkUp(subject=subject, unit=unit, reason=WANTED, up=True)


def refusal(found: Netdev, wish: LinkWish, policy: Policy) -> Obstacle | None:
    """Why a wish cannot become steps: an MTU the device does not have, or a change under the default route."""
    if wish.mtu is not None and not found.min_mtu <= wish.mtu <= found.max_mtu:
        problem = f"mtu {wish.mtu} is not possible"
        return _obstacle(found.name, problem, f"it takes {found.min_mtu} to {found.max_mtu} bytes")
    changes = wish.mtu not in (None, found.mtu) or (wish.up is False and found.up)
    if changes and found.up and DEFAULT_ROUTE in found.uses and policy is not Policy.ALLOW:
        problem = "it has the default route, and the node could become unreachable"
        return _obstacle(found.name, problem, "set disruption.nic to allow if that is meant")
    return None


def clash(name: str, entries: Iterable[LinkEntry]) -> Obstacle:
    """Two entries that want different things of one interface."""
    wishes = [f"`{entry.match}` wants {_in_words(entry)}" for entry in entries if (entry.up, entry.mtu) != (None, None)]
    advice = "narrow one of the two so that the interface gets one wish"
    return _obstacle(name, "entries contradict each other: " + ", ".join(wishes), advice)


def _in_words(entry: LinkEntry) -> str:
    up = {True: ["up"], False: ["down"], None: []}[entry.up]
    return " and ".join(up + ([f"mtu {entry.mtu}"] if entry.mtu is not None else []))


def unmatched(entry: LinkEntry, spec: NodeSpec, state: NodeState) -> Obstacle:
    """An entry without an interface: a mistake, unless the driver that brings the interface has yet to be loaded."""
    missing = [driver for driver in _drivers(entry, spec) if not state.is_loaded(driver)]
    if missing:
        problem = f"no interface matches, and {', '.join(missing)} is not loaded"
        return _obstacle(entry.match, problem, "it is looked for again once the driver is there", waits=True)
    return _obstacle(entry.match, "no interface matches", what_there_is(entry.match, state))


def _drivers(entry: LinkEntry, spec: NodeSpec) -> tuple[str, ...]:
    """Drivers the node file loads that could bring the interface; with `driver:` the one it names."""
    kind, _, driver = entry.match.partition(":")
    wanted = spec.modules.rdma.drivers if spec.modules and spec.modules.rdma else ()
    named = spec.modules.named if spec.modules else {}
    known = tuple(name.replace("-", "_") for name in (*wanted, *named))
    return tuple(name for name in known if name == driver) if kind == "driver" else known


def _unit(name: str) -> str:
    return f"links/{name}"


def _obstacle(name: str, problem: str, advice: str, waits: bool = False) -> Obstacle:
    return Obstacle(_unit(name), Thing(Kind.NETDEV, name), problem, advice, waits)
