"""A thousand random stories of NICs: no stale function, none in two resources, none healthy behind a dead port."""

from __future__ import annotations

import random
from dataclasses import replace

from nodeagent.resources.network_offers import NetworkOffers, NetworkPools, network_offers
from nodeagent.spec.network_plugins import FunctionPool, Parent, Selector
from nodeagent.state.containers import Containers, RdmaNode
from nodeagent.state.health import Health
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState

PORTS = ("0000:0c:00.0", "0000:4b:00.0")
POOLS = NetworkPools(
    functions=(
        FunctionPool("a.b/first", (Selector(parents=(Parent("nic0", frozenset({0, 1})),), is_rdma=True),)),
        FunctionPool("a.b/rest", (Selector(drivers=("mlx5_core",)),)),
    )
)


class Truth:
    """The machine, apart from what is tested: functions by port, dead ports, functions in pods' namespaces."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.count = [2, 2]
        self.dead: set[int] = set()
        self.away: set[str] = set()

    def change(self) -> None:
        port = self.chance.randrange(2)
        match self.chance.randrange(4):
            case 0:
                self.count[port] = self.chance.randrange(4)
                self.away -= {one for one in self.away if one.startswith(PORTS[port][:8])}
            case 1:
                self.dead ^= {port}
            case _ if functions := self.functions(port):
                self.away ^= {self.chance.choice(functions)}

    def functions(self, port: int) -> list[str]:
        return [f"{PORTS[port][:8]}01.{index}" for index in range(self.count[port])]

    def state(self) -> NodeState:
        pci: dict[str, PciFunction] = {}
        rdma, netdevs = {}, {}
        for port, address in enumerate(PORTS):
            mine = self.functions(port)
            card = PciFunction(address, "15b3", "101b", "020000", "mlx5_core")
            pci[address] = replace(card, vf_addresses=tuple(mine))
            pci |= {one: replace(card, address=one, is_vf=True, physfn=address) for one in mine}
            netdevs[f"nic{port}"] = Netdev(f"nic{port}", 1500, True, port not in self.dead, pci_address=address)
            for one in (set(mine) | {address}) - self.away:
                rdma[f"r{one}"] = RdmaDevice(f"r{one}", "", one, ports=(RdmaPort(1, "ACTIVE", "Ethernet"),))
        nodes = {name: (RdmaNode(f"/dev/infiniband/uverbs{n}"),) for n, name in enumerate(rdma)}
        return NodeState(pci=pci, rdma=rdma, netdevs=netdevs, containers=Containers(rdma_nodes=nodes))


def _check(truth: Truth, found: NetworkOffers, withdrawn: frozenset[str]) -> None:
    there = {one: port for port in (0, 1) for one in truth.functions(port)}
    there |= {PORTS[port]: port for port in (0, 1) if not truth.count[port]}
    listed = [one for offer in found.offers for one in offer.devices]
    assert len({one.id for one in listed}) == len(listed), "one function, one resource"
    assert {one.id for one in listed} <= set(there), "nothing stale"
    rest = {one.id for one in found.offers[1].devices}
    assert set(there) - {one.id for one in found.offers[0].devices} <= rest, "everything that is there"
    for one in listed:
        is_well = there[one.id] not in truth.dead and one.id not in withdrawn
        assert one.healthy == is_well, one


def test_a_thousand_stories() -> None:
    for seed in range(1000):
        chance = random.Random(seed)
        truth, found = Truth(chance), None
        for _ in range(6):
            truth.change()
            functions = truth.functions(chance.randrange(2))
            withdrawn = frozenset(chance.sample(functions, 1)) if functions and chance.random() < 0.3 else frozenset()
            found = network_offers(POOLS, truth.state(), Health(), found, withdrawn)
            _check(truth, found, withdrawn)
