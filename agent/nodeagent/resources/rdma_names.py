"""Names of RDMA devices: what the node file wants them to be called, and in which order they can be renamed; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import NicStep, Obstacle, Step
from nodeagent.spec.roce import RoceEntry
from nodeagent.state.network import RdmaDevice
from nodeagent.state.node import NodeState
from nodeagent.state.rails import rails_of
from nodeagent.state.things import Kind, Thing

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

UNIT = "roce/names"
WANTED = "the node file wants it so"
ON_THE_WAY = "renaming"


@dataclass(frozen=True, kw_only=True)
class RenameRdma(NicStep):
    """Give an RDMA device another name. Programs that have it open keep it; a look-up by the old name fails."""

    name: str

    def __str__(self) -> str:
        return f"rename rdma device {self.subject.name} to {self.name}"

    def apply(self, host: Host) -> None:
        host.links.rdma.rename(self.subject.name, self.name)

    def undo(self) -> Step:
        subject = Thing(Kind.RDMA, self.name)
        return RenameRdma(subject=subject, unit=self.unit, reason="undo", name=self.subject.name)

    def satisfied(self, state: NodeState) -> bool:
        return self.name in state.rdma and self.subject.name not in state.rdma


def name_steps(entries: Mapping[str, RoceEntry], state: NodeState) -> tuple[tuple[Step, ...], tuple[Obstacle, ...]]:
    """Steps for the devices whose entry names them, or why they cannot have the name."""
    wanted: dict[str, str] = {}
    obstacles: list[Obstacle] = []
    for device, entry in entries.items():
        name = wanted_name(entry, state.rdma[device], state) if entry.name else device
        if name is None:
            problem = f"its name cannot be made of `{entry.name}`"
            advice = "it has no rail; see `nodeagent topology`" if "{rail}" in entry.name else "it has no interface"
            obstacles.append(_obstacle(device, problem, advice))
        elif name != device:
            wanted[device] = name
    clashes = list(_clashes(wanted, state))
    if obstacles or clashes:
        return (), (*obstacles, *clashes)
    return tuple(_renamed(device, name) for device, name in in_order(wanted)), ()


def wanted_name(entry: RoceEntry, device: RdmaDevice, state: NodeState) -> str | None:
    """The template with its blanks filled in, None where there is nothing to fill them with."""
    rail = next((str(one.number) for one in rails_of(state) if one.address == device.pci_address), "")
    netdev = next((port.netdev for port in device.ports if port.netdev), "")
    name = entry.name
    for blank, value in (("{rail}", rail), ("{netdev}", netdev)):
        if blank in name and not value:
            return None
        name = name.replace(blank, value)
    return name


def in_order(wanted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each rename when its name is free; two that want each other's go by way of a third name."""
    left = dict(wanted)
    while left:
        free = [device for device, name in left.items() if name not in left]
        if free:
            for device in free:
                yield device, left.pop(device)
        else:
            device = next(iter(left))
            yield device, f"{ON_THE_WAY}-{device}"
            left[f"{ON_THE_WAY}-{device}"] = left.pop(device)


def _clashes(wanted: Mapping[str, str], state: NodeState) -> Iterator[Obstacle]:
    staying = {device: device for device in state.rdma if device not in wanted}
    taken: dict[str, str] = staying
    for device, name in wanted.items():
        other = taken.setdefault(name, device)
        if other != device:
            yield _obstacle(device, f"its name {name} would also be that of {other}", "use {rail} or {netdev} in it")


def _renamed(device: str, name: str) -> RenameRdma:
    return RenameRdma(subject=Thing(Kind.RDMA, device), unit=UNIT, reason=WANTED, name=name)


def _obstacle(device: str, problem: str, advice: str) -> Obstacle:
    return Obstacle(UNIT, Thing(Kind.RDMA, device), problem, advice)
