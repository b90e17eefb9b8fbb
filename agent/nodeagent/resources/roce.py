"""Section `roce`: rdma_cm's defaults, the forced traffic class, and the network namespace mode of the RDMA stack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, Step, Wish
from nodeagent.resources.link_selection import select_rdma, what_there_is
from nodeagent.resources.rdma_access import node_steps
from nodeagent.resources.rdma_names import name_steps
from nodeagent.spec.roce import RdmaNetns, RoceEntry, RoceMode
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gids import ROCE_V1, ROCE_V2
from nodeagent.state.network import RdmaPort
from nodeagent.state.node import NodeState
from nodeagent.state.things import Kind, Thing, module

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

ETHERNET = "Ethernet"
WANTED = "the node file wants it so"
MODES: Mapping[RoceMode, str] = MappingProxyType({RoceMode.V1: ROCE_V1, RoceMode.V2: ROCE_V2})
RDMA_STACK = Thing(Kind.NODE, "rdma stack")


@dataclass(frozen=True, kw_only=True)
class SetRoceMode(Step):
    """Set the mode that rdma_cm uses by default on a port, in the kernel's spelling."""

    port: int
    mode: str
    before: str

    def __str__(self) -> str:
        return f"set roce mode of {self.subject.name} port {self.port} to {self.mode} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.set_roce_mode(self.subject.name, self.port, self.mode)

    def undo(self) -> Step:
        return SetRoceMode(
            subject=self.subject, unit=self.unit, reason="undo", port=self.port, mode=self.before, before=self.mode
        )

    def satisfied(self, state: NodeState) -> bool:
        found = port_of(state, self.subject.name, self.port)
        return found is not None and found.roce_mode == self.mode

    @property
    def after(self) -> tuple[Thing, ...]:
        return (module("rdma_cm"),)


@dataclass(frozen=True, kw_only=True)
class SetRoceTos(Step):
    """Set the type of service that rdma_cm uses by default on a port."""

    port: int
    tos: int
    before: int

    def __str__(self) -> str:
        return f"set roce tos of {self.subject.name} port {self.port} to {self.tos} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.set_roce_tos(self.subject.name, self.port, self.tos)

    def undo(self) -> Step:
        return SetRoceTos(
            subject=self.subject, unit=self.unit, reason="undo", port=self.port, tos=self.before, before=self.tos
        )

    def satisfied(self, state: NodeState) -> bool:
        found = port_of(state, self.subject.name, self.port)
        return found is not None and found.roce_tos == self.tos

    @property
    def after(self) -> tuple[Thing, ...]:
        return (module("rdma_cm"),)


@dataclass(frozen=True, kw_only=True)
class SetTrafficClass(Step):
    """Force a traffic class on every queue pair of a port; 0 forces none."""

    port: int
    traffic_class: int
    before: int

    def __str__(self) -> str:
        was = f"(is {self.before})"
        return f"set traffic class of {self.subject.name} port {self.port} to {self.traffic_class} {was}"

    def apply(self, host: Host) -> None:
        host.links.set_traffic_class(self.subject.name, self.port, self.traffic_class)

    def undo(self) -> Step:
        return SetTrafficClass(
            subject=self.subject,
            unit=self.unit,
            reason="undo",
            port=self.port,
            traffic_class=self.before,
            before=self.traffic_class,
        )

    def satisfied(self, state: NodeState) -> bool:
        found = port_of(state, self.subject.name, self.port)
        return found is not None and found.traffic_class == self.traffic_class


@dataclass(frozen=True, kw_only=True)
class SetRdmaNetns(Step):
    """Share RDMA devices between network namespaces, or not; the kernel refuses while there is another namespace."""

    shared: bool

    def __str__(self) -> str:
        return f"set network namespace mode of the rdma stack to {'shared' if self.shared else 'exclusive'}"

    def apply(self, host: Host) -> None:
        host.links.set_rdma_netns_shared(self.shared)

    def undo(self) -> Step:
        return SetRdmaNetns(subject=self.subject, unit=self.unit, reason="undo", shared=not self.shared)

    def satisfied(self, state: NodeState) -> bool:
        return state.rdma_netns_shared is self.shared


def port_of(state: NodeState, device: str, number: int) -> RdmaPort | None:
    found = state.rdma.get(device)
    return next((port for port in found.ports if port.port == number), None) if found is not None else None


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every Ethernet port of the matched devices; obstacles for entries that match nothing or clash."""
    if spec.roce is None:
        return Wish()
    steps: list[Step] = []
    obstacles = [unmatched(entry, state) for entry in spec.roce.devices if not select_rdma(entry.match, state)]
    claimed = _entries_by_device(spec.roce.devices, state)
    for device, entries in claimed.items():
        if len(entries) > 1:
            obstacles.append(claimed_twice(device, entries))
            continue
        for port in state.rdma[device].ports:
            refusal = refused(device, port, entries[0], state)
            if refusal is not None:
                obstacles.append(refusal)
            elif port.link_layer == ETHERNET:
                steps += port_steps(device, port, entries[0])
    netns, problem = netns_wish(spec.roce.netns, state)
    alone = {device: entries[0] for device, entries in claimed.items() if len(entries) == 1}
    renamed, unnamed = name_steps(alone, state)
    moved = {step.subject for step in renamed}  # they are set up in the next pass, under their new names
    kept = tuple(step for step in steps if step.subject not in moved)
    access = node_steps(state) if spec.roce.user_access else ()
    return Wish((*netns, *renamed, *kept, *access), (*obstacles, *unnamed, *problem))


def _entries_by_device(entries: tuple[RoceEntry, ...], state: NodeState) -> Mapping[str, tuple[RoceEntry, ...]]:
    claimed = {entry: select_rdma(entry.match, state) for entry in entries}
    names = sorted({name for found in claimed.values() for name in found})
    return {name: tuple(entry for entry in entries if name in claimed[entry]) for name in names}


def port_steps(device: str, port: RdmaPort, entry: RoceEntry) -> Iterator[Step]:
    """Only what differs."""
    subject, unit = Thing(Kind.RDMA, device), _unit(device)
    mode = MODES[entry.mode] if entry.mode is not None else port.roce_mode
    if mode != port.roce_mode:
        yield SetRoceMode(subject=subject, unit=unit, reason=WANTED, port=port.port, mode=mode, before=port.roce_mode)
    if entry.tos is not None and port.roce_tos is not None and entry.tos != port.roce_tos:
        yield SetRoceTos(subject=subject, unit=unit, reason=WANTED, port=port.port, tos=entry.tos, before=port.roce_tos)
    wanted, before = entry.traffic_class, port.traffic_class
    if wanted is not None and before is not None and wanted != before:
        yield SetTrafficClass(
            subject=subject, unit=unit, reason=WANTED, port=port.port, traffic_class=wanted, before=before
        )


def refused(device: str, port: RdmaPort, entry: RoceEntry, state: NodeState) -> Obstacle | None:
    """Why an entry cannot become steps on a port."""
    if port.link_layer != ETHERNET and (entry.mode, entry.tos, entry.traffic_class) == (None, None, None):
        return None
    if port.link_layer != ETHERNET:
        advice = "match Ethernet devices only; InfiniBand has service levels instead"
        return _obstacle(device, f"port {port.port} is {port.link_layer}, which has no RoCE", advice)
    if (entry.mode is not None or entry.tos is not None) and not port.roce_mode:
        return _no_defaults(device, state)
    if entry.traffic_class is not None and port.traffic_class is None:
        advice = "only OFED's drivers have it; set tos, and NCCL_IB_TC or UCX_IB_TRAFFIC_CLASS for applications"
        return _obstacle(device, "its driver cannot force a traffic class", advice)
    return None


def _no_defaults(device: str, state: NodeState) -> Obstacle:
    if not state.is_loaded("rdma_cm"):
        advice = "it is looked at again once the module is there; modules.rdma loads it"
        return _obstacle(device, "rdma_cm is not loaded", advice, waits=True)
    advice = "mount configfs at its usual place and run as root"
    return _obstacle(device, "the defaults of rdma_cm cannot be read", advice)


def claimed_twice(device: str, entries: tuple[RoceEntry, ...]) -> Obstacle:
    matches = " and ".join(f"`{entry.match}`" for entry in entries)
    return _obstacle(device, f"{matches} both match it", "narrow one of the two so that one entry is left")


def unmatched(entry: RoceEntry, state: NodeState) -> Obstacle:
    """An entry without a device: a mistake, unless there is no RDMA device at all yet."""
    if not state.rdma:
        return _obstacle(entry.match, "there are no rdma devices", "their driver has yet to be loaded", waits=True)
    return _obstacle(entry.match, "no rdma device matches", what_there_is(entry.match, state))


def netns_wish(wanted: RdmaNetns | None, state: NodeState) -> tuple[tuple[Step, ...], tuple[Obstacle, ...]]:
    """The running mode is compared, not a file: a mode that is set already is never written again."""
    if wanted is None:
        return (), ()
    if state.rdma_netns_shared is None:
        problem = "there is no rdma stack"
        advice = "it is looked at again once ib_core is loaded"
        return (), (Obstacle("roce/netns", RDMA_STACK, problem, advice, waits=True),)
    shared = wanted is RdmaNetns.SHARED
    if state.rdma_netns_shared is shared:
        return (), ()
    return (SetRdmaNetns(subject=RDMA_STACK, unit="roce/netns", reason=WANTED, shared=shared),), ()


def _unit(device: str) -> str:
    return f"roce/{device}"


def _obstacle(device: str, problem: str, advice: str, waits: bool = False) -> Obstacle:
    return Obstacle(_unit(device), Thing(Kind.RDMA, device), problem, advice, waits)
