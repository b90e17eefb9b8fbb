"""Which GPUs suit each other: by NVLink, PCIe and NUMA node, and by the NICs beside them; pure.

Source: NVIDIA/go-gpuallocator gpuallocator/besteffort_policy.go and device.go (the idea of a score for each pair, and
its order: NVLinks first, then how near they are on PCIe). Ours also looks at NICs, and at what is left for others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

from nodeagent.resources.topology import nvlinks_between, rail_of_gpu
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, nics_of, rails_of, relation
from nodeagent.state.topology import NvLinks, Relation

MOST_SETS = 20_000  # looked at one by one; 8 of 16 are 12,870
LINK_SCORE = 100
FARTHEST = Relation.SYS.distance


@dataclass(frozen=True)
class Affinity:
    """By UUID: `pairs` is how near two GPUs are, `nics` how near a GPU is to a NIC that works, `rails` its rail."""

    pairs: Mapping[tuple[str, str], int] = field(default_factory=dict)
    nics: Mapping[str, int] = field(default_factory=dict)
    rails: Mapping[str, int] = field(default_factory=dict)

    def within(self, chosen: Sequence[str]) -> int:
        """How near the GPUs of a set are to each other."""
        return sum(self.pairs.get(pair, 0) for pair in combinations(sorted(chosen), 2))

    def network(self, chosen: Sequence[str]) -> tuple[int, int]:
        """How many rails a set has, and how near its NICs are."""
        rails = {self.rails[one] for one in chosen if one in self.rails}
        return len(rails), sum(self.nics.get(one, 0) for one in chosen)


def affinity_of(state: NodeState, links: Mapping[str, NvLinks]) -> Affinity:
    """Of every GPU that answers."""
    functions = {gpu.uuid: state.pci[gpu.pci_address] for gpu in state.gpus.values() if gpu.pci_address in state.pci}
    every, rails = gpus_of(state), rails_of(state)
    nics = _working_nics(state)
    own = {uuid: rail_of_gpu(function, every, rails) for uuid, function in functions.items()}
    return Affinity(
        pairs={(a, b): _pair(functions[a], functions[b], links) for a, b in combinations(sorted(functions), 2)},
        nics={uuid: _nearness(function, nics) for uuid, function in functions.items()},
        rails={uuid: rail.number for uuid, rail in own.items() if rail is not None},
    )


def _pair(one: PciFunction, other: PciFunction, links: Mapping[str, NvLinks]) -> int:
    near = FARTHEST - relation(one, other).distance
    return LINK_SCORE * nvlinks_between(one.address, other.address, links) + near


def _working_nics(state: NodeState) -> tuple[PciFunction, ...]:
    """NICs with an active RDMA port; all of them where no RDMA device is known."""
    working = {one.pci_address for one in state.rdma.values() if any(port.state == "ACTIVE" for port in one.ports)}
    return tuple(nic for nic in nics_of(state) if nic.address in working or not state.rdma)


def _nearness(gpu: PciFunction, nics: Iterable[PciFunction]) -> int:
    return max((FARTHEST - relation(gpu, nic).distance for nic in nics), default=0)


def best_set(available: Sequence[str], must: Sequence[str], size: int, near: Affinity) -> tuple[str, ...]:
    """The `size` GPUs of `available` that suit each other best, with all of `must`; () where there are not enough.

    First by NVLink and PCIe, then by NICs; among equals the set that leaves the others the best.
    """
    free = tuple(dict.fromkeys(one for one in available if one not in must))
    fixed = tuple(dict.fromkeys(must))
    wanted = size - len(fixed)
    if wanted < 0 or wanted > len(free):
        return ()
    if comb(len(free), wanted) > MOST_SETS:
        return _grown(free, fixed, wanted, near)

    def worth(chosen: tuple[str, ...]) -> tuple[int, tuple[int, int], int]:
        both = fixed + chosen
        return near.within(both), near.network(both), near.within([one for one in free if one not in chosen])

    return fixed + max(combinations(free, wanted), key=worth)


def _grown(free: tuple[str, ...], fixed: tuple[str, ...], wanted: int, near: Affinity) -> tuple[str, ...]:
    """One by one, each time the GPU that suits those chosen best."""
    chosen = fixed
    for _ in range(wanted):
        rest = [one for one in free if one not in chosen]
        chosen += (max(rest, key=lambda one: (near.within((*chosen, one)), near.network((*chosen, one)))),)
    return chosen
