"""Section `links`: what network interfaces shall be, from name and state to routes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from nodeagent.resources.base import LinkStep, Obstacle, Step, Wish
from nodeagent.resources.link_addressing import Wanted, address_steps, route_steps, stale_rules, wanted_addressing
from nodeagent.resources.link_names import renames, wanted_name
from nodeagent.resources.link_selection import LOOPBACK, select_netdevs, what_there_is
from nodeagent.resources.link_settings import settings_obstacles, settings_steps, wanted_settings
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.schema import NodeSpec, Policy
from nodeagent.state.link_settings import Group
from nodeagent.state.network import DEFAULT_ROUTE, Netdev
from nodeagent.state.node import ADDRESSING, NodeState, settings_of
from nodeagent.state.rails import rails_of
from nodeagent.state.things import Kind, Thing, netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

WAIT = "the next pass looks again"
WANTED = "the node file wants it so"
NOTHING_WANTED = Wanted()


@dataclass(frozen=True, kw_only=True)
class SetLinkMtu(LinkStep):
    """Set the MTU in bytes; `disturbed` is what stands on the interface while it is up."""

    mtu: int
    before: int

    def __str__(self) -> str:
        return f"set mtu of {self.subject.name} to {self.mtu} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.set_mtu(self.subject.name, self.mtu)

    def undo(self) -> Step:
        return SetLinkMtu(subject=self.subject, unit=self.unit, reason="undo", mtu=self.before, before=self.mtu)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and found.mtu == self.mtu


@dataclass(frozen=True, kw_only=True)
class SetLinkUp(LinkStep):
    """Set the administrative state; `disturbed` is what stands on the interface that goes down."""

    up: bool

    def __str__(self) -> str:
        return f"set {self.subject.name} {'up' if self.up else 'down'}"

    def apply(self, host: Host) -> None:
        host.links.set_up(self.subject.name, self.up)

    def undo(self) -> Step:
        return SetLinkUp(subject=self.subject, unit=self.unit, reason="undo", up=not self.up)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and found.up == self.up


@dataclass(frozen=True)
class LinkWish:
    """What the file's entries come to for one interface; None: not mentioned."""

    up: bool | None = None
    mtu: int | None = None
    settings: Mapping[tuple[Group, str], int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """What one interface comes to."""

    steps: tuple[Step, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    placed: Wanted = NOTHING_WANTED


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every matched interface, by name; obstacles for entries that match nothing or contradict each other.

    What an interface is called decides about all else, so one that gets another name waits for the next round.
    """
    lost = tuple(unmatched(entry, spec, state) for entry in spec.links if not select_netdevs(entry.match, state))
    named = _entries_by_name(spec, state)
    rails = {rail.address: rail.number for rail in rails_of(state)}
    numbers = {name: rails.get(state.netdevs[name].pci_address) for name in named}
    naming, unnamed = _renames(named, numbers, state)
    renamed = {step.subject.name for step in naming}
    parts = {
        name: _part(state.netdevs[name], entries, numbers[name], (spec, state))
        for name, entries in named.items()
        if name not in renamed
    }
    rivals = _rival_routes(parts)
    steps = (*naming, *(step for name, part in parts.items() if name not in rivals for step in part.steps))
    if any(entry.rules is not None for entry in spec.links) and not state.why_unknown(ADDRESSING):
        subject = netdev(next(iter(named), LOOPBACK))
        steps = (*steps, *stale_rules((part.placed for part in parts.values()), state.addressing, subject))
    obstacles = (*lost, *unnamed, *rivals.values(), *(one for part in parts.values() for one in part.obstacles))
    return Wish(steps, obstacles, decided=tuple(netdev(name) for name in named))


def _renames(
    named: Mapping[str, tuple[LinkEntry, ...]], rails: Mapping[str, int | None], state: NodeState
) -> tuple[tuple[Step, ...], tuple[Obstacle, ...]]:
    wanted: dict[str, str] = {}
    obstacles: list[Obstacle] = []
    for name, entries in named.items():
        try:
            wanted |= {name: new} if (new := wanted_name(entries, rails[name])) else {}
        except ValueError as error:
            obstacles.append(_obstacle(name, f"its name is not possible: {error}", "narrow `match`"))
    found = tuple(renames(wanted, state.netdevs))
    steps = tuple(one for one in found if isinstance(one, Step))
    return steps, (*obstacles, *(one for one in found if isinstance(one, Obstacle)))


def _part(found: Netdev, entries: tuple[LinkEntry, ...], rail: int | None, whole: tuple[NodeSpec, NodeState]) -> _Part:
    spec, state = whole
    wish = merge(entries)
    problem = clash(found.name, entries) if wish is None else refusal(found, wish, spec.disruption.nic)
    if wish is None or problem is not None:
        return _Part(obstacles=(problem,) if problem else ())
    unread = tuple(_unread(found.name, wish, state))
    wish = _without(wish, {group for group, _ in wish.settings if state.why_unknown(settings_of(group))})
    try:
        placed = wanted_addressing(entries, rail)
    except ValueError as error:
        problem = _obstacle(found.name, f"addresses or routes are not possible: {error}", "correct them in the file")
        placed = NOTHING_WANTED
    if why := state.why_unknown(ADDRESSING) if placed != NOTHING_WANTED else "":
        problem = _obstacle(found.name, f"its {ADDRESSING} are not known: {why}", WAIT, waits=True)
        placed = NOTHING_WANTED
    steps = (*link_steps(found, wish), *address_steps(found, placed, state.addressing))
    routes = tuple(route_steps(found, placed, state.addressing))
    is_up = found.up if wish.up is None else wish.up
    obstacles = (*([problem] if problem else []), *settings_obstacles(found, wish.settings), *unread)
    if routes and not is_up:
        idle = _obstacle(found.name, "routes need it up", "add up: true", waits=True)
        return _Part(steps, (*obstacles, idle), placed)
    return _Part((*steps, *routes), obstacles, placed)


def _unread(name: str, wish: LinkWish, state: NodeState) -> Iterator[Obstacle]:
    """What is wished of groups that could not be read: nothing may be concluded, so nothing is written."""
    for group in dict.fromkeys(group for group, _ in wish.settings):
        if why := state.why_unknown(settings_of(group)):
            unit = f"{_unit(name)}/{group}"
            yield Obstacle(unit, netdev(name), f"its {group} are not known: {why}", WAIT, waits=True)


def _without(wish: LinkWish, groups: set[Group]) -> LinkWish:
    return replace(wish, settings={key: value for key, value in wish.settings.items() if key[0] not in groups})


def _rival_routes(parts: Mapping[str, _Part]) -> Mapping[str, Obstacle]:
    """Interfaces that want the same route: each would take it from the other in every pass."""
    owners: dict[object, list[str]] = {}
    for name, part in parts.items():
        for route in part.placed.routes or ():
            owners.setdefault(route.place, []).append(name)
    found: dict[str, Obstacle] = {}
    for names in owners.values():
        for name in names if len(names) > 1 else ():
            problem = f"{' and '.join(names)} want a route of the same destination, table and metric"
            found[name] = _obstacle(name, problem, "give each rail a table or a metric of its own")
    return found


def _entries_by_name(spec: NodeSpec, state: NodeState) -> Mapping[str, tuple[LinkEntry, ...]]:
    claimed = [(entry, frozenset(select_netdevs(entry.match, state))) for entry in spec.links]
    names = sorted({name for _, found in claimed for name in found})
    return {name: tuple(entry for entry, found in claimed if name in found) for name in names}


def merge(entries: Iterable[LinkEntry]) -> LinkWish | None:
    """One wish from all entries that match an interface, None if they contradict each other."""
    entries = tuple(entries)
    ups = {entry.up for entry in entries if entry.up is not None}
    mtus = {entry.mtu for entry in entries if entry.mtu is not None}
    if len(ups) > 1 or len(mtus) > 1 or _contradictions(entries):
        return None
    settings = {key: value for entry in entries for key, value in wanted_settings(entry).items()}
    return LinkWish(next(iter(ups), None), next(iter(mtus), None), settings)


def _contradictions(entries: Iterable[LinkEntry]) -> frozenset[tuple[Group, str]]:
    seen: dict[tuple[Group, str], set[int]] = {}
    for entry in entries:
        for setting, value in wanted_settings(entry).items():
            seen.setdefault(setting, set()).add(value)
    return frozenset(setting for setting, values in seen.items() if len(values) > 1)


def link_steps(found: Netdev, wish: LinkWish) -> Iterator[Step]:
    """What restarts the device happens while the interface is down where the wish allows it: before up, after down."""
    to_up = wish.up is True and not found.up
    to_down = wish.up is False and found.up
    disturbed = found.uses if found.up else ()
    subject, unit = netdev(found.name), _unit(found.name)
    if to_down:
        yield SetLinkUp(subject=subject, unit=unit, reason=WANTED, up=False, disturbed=disturbed)
    yield from settings_steps(found, wish.settings)
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
    entries = tuple(entries)
    doubtful = _contradictions(entries)
    told = ((entry.match, _in_words(entry, doubtful)) for entry in entries)
    wishes = [f"`{match}` wants {words}" for match, words in told if words]
    advice = "narrow one of the two so that the interface gets one wish"
    return _obstacle(name, "entries contradict each other: " + ", ".join(wishes), advice)


def _in_words(entry: LinkEntry, doubtful: frozenset[tuple[Group, str]]) -> str:
    up = {True: ["up"], False: ["down"], None: []}[entry.up]
    mtu = [f"mtu {entry.mtu}"] if entry.mtu is not None else []
    settings = sorted(one for one in wanted_settings(entry).items() if one[0] in doubtful)
    return " and ".join((*up, *mtu, *(f"{group}.{name} {value}" for (group, name), value in settings)))


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
