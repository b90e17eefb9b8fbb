"""Which interfaces must not be lost, and how it is seen that one still works; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Step
from nodeagent.resources.link_selection import select_netdevs
from nodeagent.spec.guard import Guard, GuardMode
from nodeagent.state.addressing import MAIN_TABLE
from nodeagent.state.network import DEFAULT_ROUTE
from nodeagent.state.things import Kind, Thing, netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

CONTROL = "control connection"
LISTED = "listed in guard.interfaces"


@dataclass(frozen=True, kw_only=True)
class AwaitConfirmation(Step):
    """Stands for the waiting in reports; it changes nothing."""

    mode: GuardMode
    seconds: float

    def __str__(self) -> str:
        how = "`nodeagent confirm`" if self.mode is GuardMode.MANUAL else "carrier, default route and gateway"
        return f"wait up to {self.seconds:g} s for {how} on {self.subject.name}"

    def apply(self, host: Host) -> None:
        """Nothing to do: it is waited for elsewhere."""

    def satisfied(self, _state: NodeState) -> bool:
        return True  # waiting is never owed


def guarded_by(guard: Guard, state: NodeState) -> Mapping[str, str]:
    """Why each guarded interface is guarded, by name; also members of a guarded bond and what a guarded VLAN is on."""
    found: dict[str, str] = {}
    for match in guard.interfaces:
        found |= dict.fromkeys(select_netdevs(match, state), LISTED)
    for one in state.netdevs.values():
        reason = next((use for use in one.uses if use == DEFAULT_ROUTE or use.startswith(CONTROL)), None)
        found |= {one.name: reason} if reason else {}
    grown = True
    while grown:
        below = {
            one.name: found[upper]
            for one in state.netdevs.values()
            for upper in map(_upper, one.uses)
            if upper in found and one.name not in found
        }
        found |= below
        grown = bool(below)
    return found


def _upper(use: str) -> str:
    """`part of bond0`, `bond0.7 on top` -> the interface above, "" for other uses."""
    return (
        use.removeprefix("part of ")
        if use.startswith("part of ")
        else use[: -len(" on top")]
        if use.endswith(" on top")
        else ""
    )


def touched(step: Step, holders: Iterable[Thing], guarded: Mapping[str, str]) -> tuple[str, ...]:
    """The guarded interfaces that a step changes or takes away."""
    things = (step.subject, *step.claims, *holders)
    return tuple(dict.fromkeys(one.name for one in things if one.kind is Kind.NETDEV and one.name in guarded))


@dataclass(frozen=True)
class Evidence:
    """What must be there again on an interface: its carrier, the default route, gateways that answered before."""

    netdev: str
    carrier: bool
    default_route: bool
    gateways: tuple[str, ...] = ()


def evidence_of(names: Iterable[str], state: NodeState) -> tuple[Evidence, ...]:
    """What holds now of these interfaces; `state.addressing` must have been read."""
    found = (state.netdevs[name] for name in names if name in state.netdevs)
    return tuple(
        Evidence(one.name, one.carrier, DEFAULT_ROUTE in one.uses, _gateways(one.name, state)) for one in found
    )


def _gateways(name: str, state: NodeState) -> tuple[str, ...]:
    routes = (one for one in state.addressing.on(name).routes if one.is_default and one.table == MAIN_TABLE and one.via)
    return tuple(dict.fromkeys(one.via for one in routes))


def waiting(names: tuple[str, ...], guard: Guard) -> AwaitConfirmation:
    return AwaitConfirmation(subject=netdev(names[0]), unit="guard", mode=guard.changes, seconds=guard.seconds)
