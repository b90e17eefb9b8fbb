"""Which NIC belongs to which GPU, and what lies between them; pure.

Sources: `nvidia-smi topo -m` (the legend of its matrix), NCCL src/graph/topo.cc (the same classes).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nodeagent.state.network import PciFunction
from nodeagent.state.rails import Rail, relation
from nodeagent.state.topology import NvLinks, Relation


def bridges_between(one: PciFunction, other: PciFunction) -> tuple[str, ...]:
    """Bridges under the nearest common one, on both sides: there ACS decides about peer-to-peer traffic."""
    below = (*one.path[1:-1], *other.path[1:-1])
    return tuple(address for address in below if (address in one.path) != (address in other.path))


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
