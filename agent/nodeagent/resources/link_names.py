"""Names of interfaces as the node file wants them; a name that another interface has is waited for or swapped; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nodeagent.resources.base import LinkStep, Obstacle, Step
from nodeagent.resources.link_addressing import expand
from nodeagent.spec.links import LinkEntry
from nodeagent.state.network import Netdev
from nodeagent.state.things import netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

WANTED = "the node file wants it so"
NAME_BYTES = 15  # IFNAMSIZ with its final zero is 16


@dataclass(frozen=True, kw_only=True)
class RenameLink(LinkStep):
    """Give an interface another name; `disturbed` is what stands on it while it is up."""

    name: str
    pci_address: str = ""

    def __str__(self) -> str:
        return f"rename {self.subject.name} to {self.name}"

    def apply(self, host: Host) -> None:
        host.links.rename(self.subject.name, self.name)

    def undo(self) -> Step:
        return replace(self, subject=netdev(self.name), name=self.subject.name, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.name)
        return found is not None and found.pci_address == self.pci_address


def wanted_name(entries: tuple[LinkEntry, ...], rail: int | None) -> str:
    """The name that the entries want, "" for none. ValueError where it cannot be."""
    found = {expand(entry.name, rail) for entry in entries if entry.name}
    name = next(iter(found), "")
    if len(found) > 1:
        raise ValueError(f"it shall be called {' and '.join(sorted(found))}")
    if len(name.encode()) > NAME_BYTES:
        raise ValueError(f"{name} has more than {NAME_BYTES} bytes")
    return name


def renames(wanted: Mapping[str, str], netdevs: Mapping[str, Netdev]) -> Iterator[Step | Obstacle]:
    """Steps for `wanted` names by present name.

    A name whose owner gets another one is free in the next round. In a ring, as when two NICs swap their names, the
    first gives its own up for a name that nobody has.
    """
    doubled = {name for name in wanted.values() if list(wanted.values()).count(name) > 1}
    for present, name in wanted.items():
        owner = netdevs.get(name)
        if name in doubled:
            rivals = ", ".join(sorted(one for one in wanted if wanted[one] == name))
            yield _obstacle(
                present, f"{rivals} shall all be called {name}", "use {rail} in the name, or narrow `match`"
            )
        elif name == present:
            continue
        elif owner is None:
            yield _step(netdevs[present], name)
        elif wanted.get(name, name) == name:
            yield _obstacle(
                present, f"another interface is called {name}", f"rename that one as well ({_where(owner)})"
            )
        elif present == min(ring := _ring(present, wanted)) and ring[-1] == present:
            yield _step(netdevs[present], f"tmp-{netdevs[present].pci_address[-9:].replace(':', '')}"[:NAME_BYTES])


def _ring(start: str, wanted: Mapping[str, str]) -> tuple[str, ...]:
    """The interfaces from `start` along the names they want, up to one seen before; it is a ring if that is `start`."""
    seen: list[str] = []
    at = start
    while at in wanted and at not in seen:
        seen.append(at)
        at = wanted[at]
    return (*seen[1:], at)


def _step(found: Netdev, name: str) -> Step:
    return RenameLink(
        subject=netdev(found.name),
        unit=f"links/{found.name}",
        reason=WANTED,
        name=name,
        pci_address=found.pci_address,
        disturbed=found.uses if found.up else (),
    )


def _where(found: Netdev) -> str:
    return found.pci_address or "a software device"


def _obstacle(name: str, problem: str, advice: str) -> Obstacle:
    return Obstacle(f"links/{name}", netdev(name), problem, advice)
