"""Pools by firmware's index, partition key and vDPA device, of accelerators and sub-functions: what they mean."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest

from nodeagent.errors import SpecError
from nodeagent.resources.network_offers import NetworkOffers, NetworkPools, network_offers
from nodeagent.spec.network_plugins import FunctionPool, parse_functions
from nodeagent.state.containers import Containers, RdmaNode
from nodeagent.state.functions import Asked, AuxiliaryDevice, FunctionFacts, VdpaDevice
from nodeagent.state.health import Health
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState

PF, OTHER = "0000:3b:00.0", "0000:5e:00.0"
VFS = tuple(f"0000:3b:00.{n}" for n in (2, 3, 4))
CARD, FREE = "0000:8a:00.0", "0000:8b:00.0"
SF, SECOND = "mlx5_core.sf.2", "mlx5_core.sf.11"
VHOST = "/dev/vhost-vdpa-0"


def world(**changes) -> NodeState:
    """A divided port and an InfiniBand one, two sub-functions, two vDPA devices, two accelerators."""
    card = PciFunction(PF, "15b3", "101d", "020000", "mlx5_core", numa_node=1, vf_addresses=VFS)
    vfs = [PciFunction(one, "15b3", "101e", "020000", "mlx5_core", 1, is_vf=True, physfn=PF) for one in VFS]
    vfs = [replace(one, numa_node=1) for one in vfs]
    fabric = PciFunction(OTHER, "15b3", "101b", "020700", "mlx5_core")
    accelerator = PciFunction(CARD, "8086", "0d5c", "120001", "vfio-pci", numa_node=0, iommu_group="7", vfio_minor=0)
    facts = FunctionFacts(
        acpi_indexes={PF: "1", VFS[0]: "101"},
        partition_keys={OTHER: 0x8001, VFS[0]: 0xFFFF},
        vdpa={VFS[0]: VdpaDevice("vdpa0", "vhost_vdpa", VHOST), VFS[1]: VdpaDevice("vdpa1", "virtio_vdpa")},
        auxiliary={
            SF: AuxiliaryDevice(SF, PF, "sf", 88, "mlx5_core.sf", "enp59s0f0s88", "mlx5_5"),
            SECOND: AuxiliaryDevice(SECOND, PF, "sf", 89, "mlx5_core.sf", "enp59s0f0s89"),
            "mlx5_core.eth.0": AuxiliaryDevice("mlx5_core.eth.0", PF, "eth", -1, "mlx5_core.eth"),
        },
        accelerators={CARD: accelerator, FREE: replace(accelerator, address=FREE, driver="", iommu_group="8")},
    )
    names = {"nic0": PF, "ib0": OTHER}
    rdma = {"mlx5_0": (PF, "Ethernet"), "mlx5_1": (OTHER, "InfiniBand"), "mlx5_2": (VFS[0], "Ethernet")}
    state = NodeState(
        pci={one.address: one for one in (card, *vfs, fabric)},
        netdevs={name: Netdev(name, 1500, True, True, pci_address=at) for name, at in names.items()},
        rdma={
            name: RdmaDevice(name, "", at, ports=(RdmaPort(1, "ACTIVE", kind),)) for name, (at, kind) in rdma.items()
        },
        containers=Containers(rdma_nodes={"mlx5_5": (RdmaNode("/dev/infiniband/uverbs5"),)}),
        functions=facts,
    )
    return replace(state, **changes)


def pool(selectors: object, kind: str = "netDevice", **more: object) -> FunctionPool:
    text = json.dumps({"resourceList": [{"resourceName": "r", "deviceType": kind, "selectors": selectors, **more}]})
    (found,) = parse_functions(text, "c.json", "a.b")
    return found


def offer(found: FunctionPool, state: NodeState, before: NetworkOffers | None = None):
    return network_offers(NetworkPools(functions=(found,)), state, Health(), before).offers[0]


def ids(found: FunctionPool, state: NodeState | None = None) -> list[str]:
    return [one.id for one in offer(found, state or world()).devices if one.healthy]


SFS = {"auxTypes": ["sf"]}


@pytest.mark.parametrize(
    ("selectors", "kind", "expected"),
    [
        ({"acpiIndexes": ["101", "102"]}, "netDevice", [VFS[0]]),
        ({"acpiIndexes": ["1"]}, "netDevice", []),  # divided: offered to nobody
        ({"pKeys": ["0x8001"]}, "netDevice", [OTHER]),
        ({"pKeys": ["0x1", "0xFFFF"]}, "netDevice", []),  # a port of Ethernet has one too
        ({"pKeys": ["0x1"]}, "netDevice", []),
        ({"vdpaType": "vhost"}, "netDevice", [VFS[0]]),
        ({"vdpaType": "virtio", "vendors": ["15b3"]}, "netDevice", [VFS[1]]),
        ([{"vdpaType": "virtio"}, {"vdpaType": "vhost"}], "netDevice", list(VFS[:2])),
        ({}, "accelerator", [CARD]),
        ({"vendors": ["8086"], "devices": ["0d5c"], "drivers": ["vfio-pci"]}, "accelerator", [CARD]),
        ({"pciAddresses": [FREE]}, "accelerator", []),
        ({"vendors": ["15b3"]}, "accelerator", []),
        (SFS, "auxNetDevice", [SF, SECOND]),
        ({**SFS, "pfNames": ["nic0#88"]}, "auxNetDevice", [SF]),
        ({**SFS, "pfNames": ["nic0"], "linkTypes": ["ether"]}, "auxNetDevice", [SF, SECOND]),
        ({**SFS, "rootDevices": [f"{PF}#89-90"]}, "auxNetDevice", [SECOND]),
        ({**SFS, "rootDevices": [OTHER]}, "auxNetDevice", []),
        ({**SFS, "pfNames": ["nic1"]}, "auxNetDevice", []),
        ({**SFS, "isRdma": True}, "auxNetDevice", [SF]),
        ({**SFS, "drivers": ["ixgbe"]}, "auxNetDevice", []),
        ({**SFS, "devices": ["101d"], "linkTypes": ["infiniband"]}, "auxNetDevice", []),
    ],
)
def test_selectors_mean_what_they_mean_there(selectors, kind, expected):
    assert ids(pool(selectors, kind)) == expected


def grant(found: FunctionPool, device: str, state: NodeState | None = None):
    answer = offer(found, state or world()).allocator.grant((device,))
    return [one.host_path for one in answer.nodes], json.loads(answer.envs["PCIDEVICE_A_B_R_INFO"])[device], answer.envs


def test_a_container_gets_the_node_of_a_vhost_device_and_none_of_a_virtio_one():
    nodes, info, _ = grant(pool({"vdpaType": "vhost"}), VFS[0])
    assert (nodes, info) == ([VHOST], {"generic": {"deviceID": VFS[0]}, "vdpa": {"mount": VHOST}})
    nodes, info, _ = grant(pool({"vdpaType": "virtio"}, additionalInfo={"*": {"a": "b"}}), VFS[1])
    assert (nodes, info) == ([], {"generic": {"deviceID": VFS[1]}, "extra": {"a": "b"}})


def test_an_accelerator_comes_with_its_group_and_a_sub_function_with_its_rdma_device():
    nodes, info, _ = grant(pool({}, "accelerator"), CARD)
    assert nodes == ["/dev/vfio/vfio", "/dev/vfio/7"]
    assert info["vfio"] == {"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/7"}
    nodes, info, envs = grant(pool({**SFS, "isRdma": True}, "auxNetDevice"), SF)
    assert nodes == ["/dev/infiniband/uverbs5", "/dev/infiniband/rdma_cm"]
    assert info["rdma"] == {"uverbs": nodes[0], "rdma_cm": nodes[1], "rdma_dev": "mlx5_5"}
    assert envs["PCIDEVICE_A_B_R"] == SF
    assert grant(pool(SFS, "auxNetDevice"), SF)[0] == [], "only where it is asked for"


def test_a_function_with_uio_comes_with_its_node_and_is_not_healthy_without() -> None:
    base = world()
    facts = base.functions
    card = replace(facts.accelerators[CARD], driver="igb_uio")
    vf = replace(base.pci[VFS[2]], driver="igb_uio")
    bare = replace(base, pci={**base.pci, vf.address: vf}, functions=replace(facts, accelerators={CARD: card}))
    state = replace(bare, functions=replace(bare.functions, uio={CARD: "/dev/uio0", vf.address: "/dev/uio1"}))
    for found, device, node in (
        (pool({}, "accelerator"), CARD, "/dev/uio0"),
        (pool({"drivers": ["igb_uio"]}), vf.address, "/dev/uio1"),
    ):
        nodes, info, _ = grant(found, device, state)
        assert (nodes, info["uio"]) == ([node], {"mount": node})
        assert reasons(found, bare) == {device: "it is with igb_uio and has no node of uio"}


def test_numa_nodes_are_those_of_the_function_behind():
    for kind, selectors, node in (("accelerator", {}, (0,)), ("auxNetDevice", SFS, (1,))):
        assert offer(pool(selectors, kind), world()).devices[0].numa_nodes == node
        assert offer(pool(selectors, kind, excludeTopology=True), world()).devices[0].numa_nodes == ()


def reasons(found: FunctionPool, state: NodeState) -> dict[str, str]:
    return {one.id: one.reason for one in offer(found, state).devices}


def test_what_is_wrong_with_one_is_said():
    facts = world().functions
    assert reasons(pool({}, "accelerator"), world())[FREE] == "it has no driver"
    bare = replace(facts, vdpa={VFS[0]: VdpaDevice("vdpa0", "vhost_vdpa")})
    text = "its vDPA device vdpa0 has no node; vhost_vdpa makes it"
    assert reasons(pool({"vdpaType": "vhost"}), world(functions=bare)) == {VFS[0]: text}
    down = {"nic0": replace(world().netdevs["nic0"], carrier=False)}
    assert reasons(pool(SFS, "auxNetDevice"), world(netdevs=down, rdma={})) == dict.fromkeys(
        (SF, SECOND), "nic0 has no link"
    )


def test_what_the_node_is_reached_through_is_offered_to_nobody():
    mine = Netdev("enp59s0f0s88", 1500, True, True, uses=("default route",))
    assert ids(pool(SFS, "auxNetDevice"), world(netdevs={**world().netdevs, mine.name: mine})) == [SECOND]
    divided = {CARD: replace(world().functions.accelerators[CARD], vf_addresses=("0000:8a:00.1",))}
    state = world(functions=replace(world().functions, accelerators=divided))
    assert ids(pool({}, "accelerator"), state) == []


def test_only_what_a_pool_asks_for_is_looked_at():
    asked = {
        frozenset(): pool({"vendors": ["15b3"], "isRdma": True, "acpiIndexes": []}),
        frozenset({Asked.ACPI_INDEXES, Asked.PARTITION_KEYS}): pool([{"acpiIndexes": ["1"]}, {"pKeys": ["0x1"]}]),
        frozenset({Asked.VDPA}): pool({"vdpaType": "vhost"}),
        frozenset({Asked.ACCELERATORS}): pool({}, "accelerator"),
        frozenset({Asked.AUXILIARY}): pool(SFS, "auxNetDevice"),
    }
    for expected, found in asked.items():
        assert found.asked == expected


@pytest.mark.parametrize(
    ("selectors", "kind", "problem"),
    [
        ({"vdpaType": "vduse"}, "netDevice", 'selectors.vdpaType: expected vhost or virtio, found "vduse"'),
        ({"vdpaType": "vhost", "isRdma": True}, "netDevice", "vdpaType and isRdma exclude each other"),
        ({"pKeys": ["1"]}, "netDevice", "expected a partition key such as 0x7fff, found 1"),
        ({"pKeys": ["0x12345"]}, "netDevice", "expected a partition key such as 0x7fff, found 0x12345"),
        ({}, "auxNetDevice", "selectors.auxTypes: expected [sf], found nothing"),
        ({"auxTypes": ["sf", "eth"]}, "auxNetDevice", "expected [sf], found sf, eth"),
        ({"auxTypes": ["sf"], "pciAddresses": [PF]}, "auxNetDevice", "unknown key pciAddresses"),
        ({"pfNames": ["a"]}, "accelerator", "unknown key pfNames"),
        ({"auxTypes": ["sf"]}, "netDevice", "unknown key auxTypes"),
    ],
)
def test_mistakes_have_line_and_key(selectors, kind, problem):
    with pytest.raises(SpecError) as caught:
        pool(selectors, kind)
    assert problem in str(caught.value)
    assert "c.json:1:" in str(caught.value)


def test_profiles_of_packages_are_refused_with_their_place():
    text = (
        '{"resourceList": [{"resourceName": "r", "selectors": {\n  "vendors": ["8086"],\n  "ddpProfiles": ["GTP"]}}]}'
    )
    found = network_offers(NetworkPools(functions=parse_functions(text, "c.json", "a.b")), world(), Health())
    place = "c.json:3:3: resourceList[0].selectors.ddpProfiles"
    assert found.offers == ()
    assert found.remarks == (f"a.b/r is not offered: {place} is not supported; leave it out",)


def test_a_thousand_stories_of_parts_and_cards():
    """Sub-functions, vDPA devices and accelerators come, go, lose their drivers, and go to pods' namespaces."""
    vhost_pool = replace(pool({"vdpaType": "vhost"}), resource="a.b/v")
    card_pool = replace(pool({}, "accelerator"), resource="a.b/x")
    pools = NetworkPools(functions=(pool({**SFS, "isRdma": True}, "auxNetDevice"), vhost_pool, card_pool))
    for seed in range(1000):
        chance, before = random.Random(seed), None
        offered: set[str] = set()
        for _ in range(5):
            base = world()
            there = {name: replace(one, driver=chance.choice(["", "mlx5_core.sf", "mlx5_core.sf"]))
                     for name, one in base.functions.auxiliary.items() if chance.random() < 0.7}  # fmt: skip
            away = {name for name in there if chance.random() < 0.4}  # in a pod, with its RDMA device
            shown = {name: replace(one, rdma="" if name in away else "mlx5_5") for name, one in there.items()}
            vdpa = {at: one for at, one in base.functions.vdpa.items() if chance.random() < 0.7}
            cards = {at: one for at, one in base.functions.accelerators.items() if chance.random() < 0.7}
            facts = replace(base.functions, auxiliary=shown, vdpa=vdpa, accelerators=cards)
            before = network_offers(pools, replace(base, functions=facts), Health(), before)
            parts, vhost, found = ({one.id: one.healthy for one in offer.devices} for offer in before.offers)
            parts_there = {name for name, one in there.items() if one.kind == "sf"}
            assert set(parts) <= parts_there, "nothing stale"
            assert set(parts) >= parts_there - away, "everything that is there"
            assert all(well == bool(there[name].driver) for name, well in parts.items())
            assert set(parts) & away <= offered, "one that was never seen with its device is not offered"
            assert vhost == dict.fromkeys((at for at, one in vdpa.items() if one.driver == "vhost_vdpa"), True)
            assert found == {at: bool(one.driver) for at, one in cards.items()}
            offered = set(parts)
