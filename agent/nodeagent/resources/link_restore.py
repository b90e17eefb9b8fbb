"""The steps around what takes an interface away: keep what stands on it, and bring that back once it is there again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Step
from nodeagent.state.things import Kind, Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


@dataclass(frozen=True, kw_only=True)
class KeepSetup(Step):
    """Marks in the journal that the set-up of an interface or function goes away with its driver; what comes back is in
    the steps that restore it, which are written down before the first step is taken.
    """

    def __str__(self) -> str:
        return f"keep the set-up of {self.subject.name}"

    def apply(self, host: Host) -> None:
        """Nothing to do: the journal has it."""

    def satisfied(self, state: NodeState) -> bool:  # noqa: ARG002 - keeping is never owed
        return True


@dataclass(frozen=True, kw_only=True)
class RestoreLink(Step):
    """Bring an interface back to what it was: MTU, state, bond, VLANs, addresses, routes (`entries`: text and data)."""

    pci_address: str = ""
    mtu: int
    up: bool
    entries: tuple[tuple[str, str], ...] = ()
    needs: tuple[Thing, ...] = ()

    def __str__(self) -> str:
        words = [f"mtu {self.mtu}", "up" if self.up else "down", *(text for text, _ in self.entries)]
        return f"restore {self.subject.name}: {', '.join(words)}"

    def apply(self, host: Host) -> None:
        name = self.subject.name
        host.links.await_link(name, self.pci_address)
        host.links.set_mtu(name, self.mtu)
        host.links.set_up(name, self.up)
        host.links.restore(name, self.entries)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        if found is None or (found.mtu, found.up) != (self.mtu, self.up):
            return False
        texts = {text for text, _ in state.link_setups.get(self.subject.name, ())}
        return all(text in texts for text, _ in self.entries)

    @property
    def irreplaceable(self) -> bool:
        return bool(self.entries)

    @property
    def after(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.needs if thing.kind in (Kind.MODULE, Kind.PCI))
