"""Which NIC belongs to which GPU, and what lies between them; pure.

Sources: `nvidia-smi topo -m` (the legend of its matrix), NCCL src/graph/topo.cc (the same classes),
drivers/pci/quirks.c (root ports that get relaxed ordering wrong).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nodeagent.state.network import PciFunction
from nodeagent.state.rails import Rail, relation
from nodeagent.state.topology import NvLinks, PcieNode, PortKind, Relation

# quirk_relaxedordering_disable: Broadwell and Haswell run out of flow control credits, AMD's A1100 reorders wrongly.
# That rule asks for class 0000, and root ports are of class 0604: Linux 6.1 does not heed it (vm/test_pcie_switch).
NO_RELAXED_ORDERING = frozenset(
    f"8086:{family}f{number:02x}" for family in ("6", "2") for number in range(0x01, 0x0F)
) | {"1022:1a00", "1022:1a01", "1022:1a02"}
SILENT = "it does not answer: its configuration space reads as all ones"
SILENT_ADVICE = "it fell off the bus; look for its PCIe errors in the kernel log, then power-cycle the node"


def bridges_between(one: PciFunction, other: PciFunction) -> tuple[str, ...]:
    """Bridges under the nearest common one, on both sides: there ACS decides about peer-to-peer traffic."""
    below = (*one.path[1:-1], *other.path[1:-1])
    return tuple(address for address in below if (address in one.path) != (address in other.path))


def reordering_port(found: PciFunction, nodes: Mapping[str, PcieNode]) -> str:
    """Address of the root port above a function if it gets relaxed ordering wrong, else empty."""
    for address in found.path[1:-1]:
        config = nodes[address].config if address in nodes else None
        if config is not None and config.kind is PortKind.ROOT_PORT and config.ids in NO_RELAXED_ORDERING:
            return address
    return ""


def nvlinks_between(one: str, other: str, links: Mapping[str, NvLinks]) -> int:
    """How many NVLinks two GPUs (by PCI address) have for each other, as `nvidia-smi topo -m` counts: NV12.

    Where links lead to NVSwitches, two GPUs reach each other through as many as the one with fewer has.
    """
    here, there = links.get(one), links.get(other)
    if here is None or there is None or one == other:
        return 0
    direct = dict(here.peers).get(other, 0)
    return direct or min(here.to_switch, there.to_switch)


def closest_nics(gpu: PciFunction, nics: Iterable[PciFunction]) -> tuple[PciFunction, ...]:
    """The NICs nearest to a GPU; several where they are equally near, none if nothing is known of the way."""
    relations = [(relation(gpu, nic), nic) for nic in nics]
    best = min((found.distance for found, _ in relations if found is not Relation.UNKNOWN), default=None)
    return tuple(nic for found, nic in relations if found.distance == best and found is not Relation.UNKNOWN)


def rail_of_gpu(gpu: PciFunction, gpus: Sequence[PciFunction], rails: Sequence[Rail]) -> Rail | None:
    """The one rail a GPU should use: GPUs that share their nearest rails take turns."""
    mine = [rail for rail in rails if gpu.address in rail.gpus]
    if not mine:
        return None
    sharing = [found.address for found in gpus if any(found.address in rail.gpus for rail in mine)]
    return mine[sharing.index(gpu.address) % len(mine)]
