"""GPUs, RDMA NICs and rails among the observed PCI functions: which there are, how near each other, with which number.

Sources: `nvidia-smi topo -m` (the legend of its matrix), NCCL src/graph/topo.cc (the same classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.topology import Relation

NVIDIA, MELLANOX = "10de", "15b3"  # pci.ids
DISPLAY, NETWORK = "03", "02"  # base classes
SWITCHED = Relation.PXB.distance  # up to here traffic does not reach the CPU's root complex


@dataclass(frozen=True)
class Rail:
    """A compute NIC with its number; `gpus` are the PCI addresses of the GPUs it is nearest to, `relation` how near."""

    number: int
    address: str
    gpus: tuple[str, ...]
    relation: Relation

    @property
    def is_switched(self) -> bool:
        """Whether traffic to its GPUs stays below the CPU's root complex."""
        return self.relation.distance <= SWITCHED


def relation(one: PciFunction, other: PciFunction) -> Relation:
    """What lies between two functions, by the part of their paths that they have in common."""
    if one.address == other.address:
        return Relation.SELF
    common = _common(one.path, other.path)
    if common == 0:
        return _between_root_buses(one.numa_node, other.numa_node)
    if common == 1:
        return Relation.PHB
    below = max(len(one.path), len(other.path)) - common - 1  # bridges under the nearest common one
    return Relation.PIX if below <= 1 else Relation.PXB


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (here, there) in pairs if here != there), min(len(one), len(other)))


def _between_root_buses(one: int, other: int) -> Relation:
    if one < 0 or other < 0:
        return Relation.UNKNOWN
    return Relation.NODE if one == other else Relation.SYS


def gpus_of(state: NodeState) -> tuple[PciFunction, ...]:
    """NVIDIA GPUs in the order of their PCI addresses, which is NVML's order, with or without a driver."""
    return tuple(
        found
        for _, found in sorted(state.pci.items())
        if found.vendor == NVIDIA and found.class_code.startswith(DISPLAY) and not found.is_vf
    )


def nics_of(state: NodeState) -> tuple[PciFunction, ...]:
    """Physical network functions that do RDMA: those with an RDMA device, and Mellanox's even before their driver."""
    with_rdma = {device.pci_address for device in state.rdma.values()}
    return tuple(
        found
        for address, found in sorted(state.pci.items())
        if not found.is_vf
        and found.class_code.startswith(NETWORK)
        and (address in with_rdma or found.vendor == MELLANOX)
    )


def rails_of(state: NodeState) -> tuple[Rail, ...]:
    """Compute NICs, numbered from 0 in the order of their nearest GPU, then of their addresses.

    Compute NICs share a PCIe switch with a GPU. On a machine without such switches they are those on a GPU's NUMA node.
    Neither drivers nor names enter into it, so that the numbers outlast a reload or a rename. Where they are on record
    they outlast a GPU or a NIC as well: what is left keeps its number, until a NIC comes that is not on record.
    """
    nearest = {nic.address: _nearest_gpus(nic, gpus_of(state)) for nic in nics_of(state)}
    counted = _counted(nearest, gpus_of(state))
    kept = sorted((number, address) for address, number in state.rails.items() if address in nearest)
    if not kept or any(rail.address not in state.rails for rail in counted if _may_join(rail, state)):
        return counted
    near = {rail.address: rail for rail in counted}
    alone = (Rail(number, address, (), nearest[address][0]) for number, address in kept)
    return tuple(replace(near.get(rail.address, rail), number=rail.number) for rail in alone)


def _may_join(rail: Rail, state: NodeState) -> bool:
    """Not a NIC that only stands in for those behind switches, because every GPU there fell off the bus."""
    return rail.is_switched or not state.rails_switched


def _counted(nearest: Mapping[str, tuple[Relation, tuple[str, ...]]], gpus: Sequence[PciFunction]) -> tuple[Rail, ...]:
    switched = {address: found for address, found in nearest.items() if found[0].distance <= SWITCHED}
    local = {address: found for address, found in nearest.items() if found[0].distance <= Relation.NODE.distance}
    order = {found.address: index for index, found in enumerate(gpus)}
    ranked = sorted((switched or local).items(), key=lambda item: (order[item[1][1][0]], item[0]))
    return tuple(Rail(number, address, found[1], found[0]) for number, (address, found) in enumerate(ranked))


def _nearest_gpus(nic: PciFunction, gpus: Sequence[PciFunction]) -> tuple[Relation, tuple[str, ...]]:
    relations = {found.address: relation(nic, found) for found in gpus}
    best = min(relations.values(), key=lambda item: item.distance, default=Relation.UNKNOWN)
    return best, tuple(address for address, found in relations.items() if found is best)
