"""The steps around what takes an interface away: keep what stands on it, and bring that back once it is there again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.errors import HostError
from nodeagent.resources.base import Step
from nodeagent.resources.link_settings import ORDER
from nodeagent.state.link_settings import Group, GroupState, SettingsState, Values, find, fulfils
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

    def satisfied(self, _state: NodeState) -> bool:
        return True  # keeping is never owed


@dataclass(frozen=True, kw_only=True)
class RestoreLink(Step):
    """Bring an interface back to what it was: MTU, state, bond, VLANs, addresses, routes (`entries`: text and data).

    `settings` are rings, queues, offloads and the like by group. Most of them come with the driver: those that differ
    are written, while the interface is down for its queues to be made once.
    """

    pci_address: str = ""
    mtu: int
    up: bool
    entries: tuple[tuple[str, str], ...] = ()
    settings: tuple[tuple[str, Values], ...] = ()
    needs: tuple[Thing, ...] = ()

    def __str__(self) -> str:
        words = [f"mtu {self.mtu}", "up" if self.up else "down"]
        words += [*(["settings"] if self.settings else []), *(text for text, _ in self.entries)]
        return f"restore {self.subject.name}: {', '.join(words)}"

    def apply(self, host: Host) -> None:
        name = self.subject.name
        host.links.await_link(name, self.pci_address)
        refused = _restore_settings(host, name, self.settings)
        host.links.set_mtu(name, self.mtu)
        host.links.set_up(name, self.up)
        host.links.restore(name, self.entries)
        if refused is not None:
            raise refused

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        if found is None or (found.mtu, found.up) != (self.mtu, self.up):
            return False
        present = found.settings
        if any(missing(present.get(Group(group), ()), Group(group), values) for group, values in self.settings):
            return False
        texts = {text for text, _ in state.link_setups.get(self.subject.name, ())}
        return all(text in texts for text, _ in self.entries)

    @property
    def irreplaceable(self) -> bool:
        """The node file may say an interface's MTU, and not the addresses and offloads that others gave it."""
        return bool(self.entries or self.settings)

    @property
    def after(self) -> tuple[Thing, ...]:
        return tuple(thing for thing in self.needs if thing.kind in (Kind.MODULE, Kind.PCI))


@dataclass(frozen=True, kw_only=True)
class RestoreRdmaName(Step):
    """Give a function's RDMA device the name it had, where neither its driver nor udev did."""

    pci_address: str

    def __str__(self) -> str:
        return f"restore the name {self.subject.name} of the rdma device of {self.pci_address}"

    def apply(self, host: Host) -> None:
        present = host.links.rdma.await_device(self.pci_address)
        if present != self.subject.name:
            host.links.rdma.rename(present, self.subject.name)

    def satisfied(self, state: NodeState) -> bool:
        found = state.rdma.get(self.subject.name)
        return found is not None and found.pci_address == self.pci_address


# What each group decides about comes after it; sysctls are among an interface's entries.
KEPT_GROUPS = tuple(group for group in ORDER if group is not Group.IPV4)
MODERATED = {f"{way}_{unit}": f"adaptive_{way}" for way in ("rx", "tx") for unit in ("usecs", "frames")}


def kept_settings(present: SettingsState) -> tuple[tuple[str, Values], ...]:
    """What can be brought back of an interface's settings; not the numbers that the driver finds out by itself."""
    groups = ((group, tuple(_kept(present.get(group, ())))) for group in KEPT_GROUPS)
    return tuple((group.value, values) for group, values in groups if values)


def _kept(present: GroupState) -> Iterator[tuple[str, int]]:
    for one in present:
        moderated = find(present, MODERATED.get(one.name, ""))
        if not one.fixed and not (moderated is not None and moderated.value):
            yield one.name, one.value


def missing(present: GroupState, group: Group, values: Values) -> Values:
    """Those that are not in force and can be; a newer driver may lack what an older one had."""
    found = ((find(present, name), name, value) for name, value in values)
    return tuple(
        (name, value)
        for one, name, value in found
        if one is not None and not one.fixed and not fulfils(group, one.value, value)
    )


def _restore_settings(host: Host, netdev: str, kept: tuple[tuple[str, Values], ...]) -> HostError | None:
    """Write what differs, group by group; the first refusal is given back after all were tried."""
    settings, refused = host.links.settings, None
    for group, values in kept:
        try:
            lost = missing(settings.read(netdev, Group(group)), Group(group), values)
            if lost:
                settings.write(netdev, Group(group), lost)
        except HostError as error:
            refused = refused or error
    return refused
