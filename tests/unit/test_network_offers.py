"""NICs for pods: the files of other plugins, which functions they mean, what is healthy, what a container gets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mig_world import board
from nodeagent.errors import HostError
from nodeagent.resources.network_offers import FunctionAllocator, NetworkPools, network_offers
from nodeagent.spec.network_plugins import FunctionPool, parse_functions, parse_shared
from nodeagent.state.containers import CdiFile, Containers, RdmaNode
from nodeagent.state.health import Finding, Health, Subject, SubjectKind, Verdict
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort, VfLinkState, VirtualFunction
from nodeagent.state.node import NodeState
from nodeagent.state.offers import NodeAccess, Offer
from nodeagent.supervisor.pairing import MOMENT_SECONDS, Pairing, near_gpus, near_ports

PF = ("0000:0c:00.0", "0000:4b:00.0")  # each beside a GPU
GPU = ("0000:07:00.0", "0000:47:00.0")
NAMES = ("enp12s0", "enp75s0")


def _vf(port: int, index: int, **changes: object) -> PciFunction:
    address = f"{PF[port][:8]}01.{index}"
    found = PciFunction(
        address, "15b3", "101e", "020000", "mlx5_core", numa_node=port, iommu_group=f"{port}{index}",
        path=_path(port, address), is_vf=True, physfn=PF[port],
    )  # fmt: skip
    return replace(found, **changes)


def _path(port: int, address: str) -> tuple[str, ...]:
    return (f"pci0000:{port}0", f"0000:{port}0:01.1", f"0000:{port}1:00.0", address)


def _node(*, vfs: int = 4, **changes: object) -> NodeState:
    """Two NICs with virtual functions and a GPU beside each."""
    functions = [_vf(port, index) for port in (0, 1) for index in range(vfs)]
    for port in (0, 1):
        own = tuple(one.address for one in functions if one.physfn == PF[port])
        card = PciFunction(PF[port], "15b3", "101b", "020000", "mlx5_core", numa_node=port, path=_path(port, PF[port]))
        functions.append(replace(card, total_vfs=16, vf_addresses=own))
        functions.append(PciFunction(GPU[port], "10de", "20b0", "030200", "nvidia", port, path=_path(port, GPU[port])))
    functions = [replace(one, numa_node=int(one.path[0][8])) for one in functions]
    devices = {f"mlx5_{port}": PF[port] for port in (0, 1)}
    devices |= {f"mlx5_{8 + n}": one.address for n, one in enumerate(functions) if one.is_vf}
    ethernet = (RdmaPort(1, "ACTIVE", "Ethernet"),)
    state = NodeState(
        pci={one.address: one for one in functions},
        netdevs={
            NAMES[port]: Netdev(NAMES[port], 1500, True, True, pci_address=PF[port], driver="mlx5_core")
            for port in (0, 1)
        },
        rdma={name: RdmaDevice(name, "guid", address, ports=ethernet) for name, address in devices.items()},
        rdma_netns_shared=True,
        gpus={(one := board(n, pci_address=GPU[n])).uuid: one for n in (0, 1)},
        containers=Containers(
            rdma_nodes={
                name: (RdmaNode(f"/dev/infiniband/uverbs{n}"), RdmaNode(f"/dev/infiniband/umad{n}", 1))
                for n, name in enumerate(devices)
            }
        ),
    )
    return replace(state, **changes)


def _sriov(selectors: object, **more: object) -> FunctionPool:
    text = json.dumps({"resourceList": [{"resourceName": "vf", "selectors": selectors, **more}]})
    (pool,) = parse_functions(text, "config.json", "nvidia.com")
    return pool


def _only(pool: FunctionPool, state: NodeState, health: Health | None = None) -> Offer:
    (offer,) = network_offers(NetworkPools(functions=(pool,)), state, health or Health()).offers
    return offer


def _ids(offer: Offer, *, healthy: bool = True) -> list[str]:
    return [one.id for one in offer.devices if one.healthy == healthy]


@pytest.mark.parametrize(
    ("selectors", "expected"),
    [
        ({}, 8),
        ({"vendors": ["15b3"], "devices": ["101e"], "drivers": ["mlx5_core"]}, 8),
        ({"vendors": ["8086"]}, 0),
        ({"drivers": ["vfio-pci"]}, 0),
        ({"pfNames": ["enp12s0"]}, 4),
        ({"pfNames": ["enp12s0#1-2", "enp75s0#0"]}, 3),
        ({"rootDevices": [f"{PF[1]}#3"]}, 1),
        ({"pciAddresses": [f"{PF[0][:8]}01.2"]}, 1),
        ({"linkTypes": ["infiniband"]}, 0),
        ({"linkTypes": ["ether"], "isRdma": True}, 8),
        ([{"pfNames": ["enp12s0#0"]}, {"pfNames": ["enp75s0#0"]}], 2),
    ],
)
def test_selectors_mean_what_they_mean_there(selectors: object, expected: int) -> None:
    assert len(_only(_sriov(selectors), _node()).devices) == expected


def test_what_the_node_is_reached_through_is_offered_to_nobody() -> None:
    state = _node(vfs=0)
    assert _ids(_only(_sriov({}), state)) == list(PF)
    netdevs = {**state.netdevs, NAMES[0]: replace(state.netdevs[NAMES[0]], uses=("default route",))}
    assert _ids(_only(_sriov({}), replace(state, netdevs=netdevs))) == [PF[1]]


def test_a_pod_gets_its_function_with_nodes_variables_and_numa_node() -> None:
    offer = _only(_sriov({"isRdma": True, "needVhostNet": True, "pfNames": ["enp12s0"]}), _node())
    assert {one.numa_nodes for one in offer.devices} == {(0,)}
    first, second = _ids(offer)[:2]
    grant = offer.allocator.grant((first, second))
    assert grant.envs["PCIDEVICE_NVIDIA_COM_VF"] == f"{first},{second}"
    info = json.loads(grant.envs["PCIDEVICE_NVIDIA_COM_VF_INFO"])
    assert info[first]["generic"] == {"deviceID": first}
    assert set(info[first]["rdma"]) == {"uverbs", "umad", "rdma_cm", "rdma_dev"}
    paths = [one.host_path for one in grant.nodes]
    assert paths.count("/dev/infiniband/rdma_cm") == 1
    assert {"/dev/vhost-net", "/dev/net/tun", info[second]["rdma"]["uverbs"]} < set(paths)
    assert all(isinstance(one, NodeAccess) and one.permissions == "rw" for one in grant.nodes)
    with pytest.raises(HostError, match="there is no such function"):
        offer.allocator.grant(("0000:ff:00.0",))


def test_a_function_for_a_virtual_machine_brings_its_group() -> None:
    state = _node(vfs=1)
    mine = _vf(0, 0, driver="vfio-pci", vfio_minor=3, numa_node=0)
    state = replace(state, pci={**state.pci, mine.address: mine})
    offer = _only(_sriov({"drivers": ["vfio-pci"]}), state)
    grant = offer.allocator.grant((mine.address,))
    assert [one.host_path for one in grant.nodes] == ["/dev/vfio/vfio", "/dev/vfio/00"]
    info = json.loads(grant.envs["PCIDEVICE_NVIDIA_COM_VF_INFO"])[mine.address]
    assert info["vfio"] == {"mount": "/dev/vfio/vfio", "dev-mount": "/dev/vfio/00"}
    lost = replace(mine, vfio_minor=-1)
    (device,) = _only(_sriov({"drivers": ["vfio-pci"]}), replace(state, pci={**state.pci, lost.address: lost})).devices
    assert device.reason == "it is with vfio-pci and there is no device of its IOMMU group"


def _with_netdev(state: NodeState, **changes: object) -> NodeState:
    return replace(state, netdevs={**state.netdevs, NAMES[0]: replace(state.netdevs[NAMES[0]], **changes)})


def test_functions_are_as_well_as_the_port_behind_them() -> None:
    pool, state = _sriov({}), _node()
    assert len(_ids(_only(pool, state))) == 8
    for sick, reason in (
        (_with_netdev(state, carrier=False), "enp12s0 has no link"),
        (_with_netdev(state, up=False), "enp12s0 is down"),
        (_with_port(state, "DOWN"), "port mlx5_0/1 is DOWN"),
    ):
        offer = _only(pool, sick)
        assert len(_ids(offer)) == 4
        assert {one.reason for one in offer.devices if not one.healthy} == {reason}
    forced = tuple(VirtualFunction(n, link_state=VfLinkState.ENABLE if n == 1 else VfLinkState.AUTO) for n in range(4))
    assert len(_ids(_only(pool, _with_netdev(state, carrier=False, vfs=forced)))) == 5


def _with_port(state: NodeState, port_state: str) -> NodeState:
    ports = (RdmaPort(1, port_state, "Ethernet"),)
    return replace(state, rdma={**state.rdma, "mlx5_0": replace(state.rdma["mlx5_0"], ports=ports)})


def test_a_failed_check_of_a_port_comes_and_goes() -> None:
    finding = Finding(Subject(SubjectKind.PORT, "mlx5_1/1"), "link-errors", Verdict.FAILED, "9000 symbol errors")
    offer = _only(_sriov({}), _node(), Health((finding,)))
    assert {one.reason for one in offer.devices if not one.healthy} == {"link-errors: 9000 symbol errors"}
    assert len(_ids(offer)) == 4
    assert len(_ids(_only(_sriov({}), _node(), Health((replace(finding, verdict=Verdict.WARNING),))))) == 8


def test_a_function_that_works_in_a_pods_namespace_stays() -> None:
    """rdma-cni and sriov-cni take RDMA device and interface away from the host."""
    pools = NetworkPools(functions=(_sriov({"isRdma": True, "linkTypes": ["ether"]}),))
    state = _node()
    before = network_offers(pools, state, Health())
    away = before.offers[0].devices[0].id
    moved = replace(state, rdma={name: one for name, one in state.rdma.items() if one.pci_address != away})
    after = network_offers(pools, moved, Health(), before)
    assert after.offers[0].devices == before.offers[0].devices
    assert len(network_offers(pools, moved, Health()).offers[0].devices) == 7
    other = replace(moved.pci[away], driver="vfio-pci")
    given = replace(moved, pci={**moved.pci, away: other})
    assert away not in _ids(network_offers(pools, given, Health(), before).offers[0])
    gone = replace(moved, pci={address: one for address, one in moved.pci.items() if address != away})
    assert away not in _ids(network_offers(pools, gone, Health(), after).offers[0])


def test_one_function_is_in_one_pool_only_and_what_cannot_be_offered_is_said() -> None:
    pools = [
        _sriov({"pfNames": ["enp12s0"]}),
        replace(_sriov({}), resource="nvidia.com/rest"),
        _sriov({"ddpProfiles": ["GTP"]}),
    ]
    found = network_offers(NetworkPools(functions=tuple(pools)), _node(), Health())
    assert [len(offer.devices) for offer in found.offers] == [4, 4]
    place = "config.json:1:56: resourceList[0].selectors.ddpProfiles"
    assert found.remarks[-1] == f"nvidia.com/vf is not offered: {place} is not supported; leave it out"
    assert f"nvidia.com/rest: {PF[0][:8]}01.0 belongs to another pool" in found.remarks


# Shared RDMA devices.


def _shared(
    state: NodeState, selectors: dict[str, list[str]], cdi: bool = False
) -> tuple[Offer | None, tuple[str, ...]]:
    text = json.dumps({"configList": [{"resourceName": "hca", "rdmaHcaMax": 3, "selectors": selectors}]})
    found = network_offers(NetworkPools(shared=parse_shared(text, "config.json"), cdi=cdi), state, Health())
    return (found.offers[0] if found.offers else None), found.remarks


def test_shared_devices_go_to_every_container_as_a_whole() -> None:
    offer, _ = _shared(_node(vfs=0), {"vendors": ["15b3"], "deviceIDs": ["101b"]})
    assert offer is not None
    assert [one.id for one in offer.devices] == ["0", "1", "2"]
    assert {one.numa_nodes for one in offer.devices} == {()}, "the pool is on both nodes"
    paths = [one.host_path for one in offer.allocator.grant(("1",)).nodes]
    assert paths == [f"/dev/infiniband/{name}" for name in ("uverbs0", "umad0", "rdma_cm", "uverbs1", "umad1")]
    assert not offer.prefers
    one, _ = _shared(_node(vfs=0), {"ifNames": [NAMES[1]]})
    assert one is not None
    assert {device.numa_nodes for device in one.devices} == {(1,)}


def test_a_shared_pool_is_well_while_one_port_is() -> None:
    state = _with_port(_node(vfs=0), "DOWN")
    both, _ = _shared(state, {"vendors": ["15b3"]})
    assert both is not None
    assert len(_ids(both)) == 3
    one, _ = _shared(state, {"ifNames": [NAMES[0]]})
    assert one is not None
    assert {device.reason for device in one.devices} == {"port mlx5_0/1 is DOWN"}


def test_shared_devices_need_verbs_and_one_namespace() -> None:
    state = _node(vfs=0)
    without = replace(state, containers=Containers(rdma_nodes={"mlx5_0": (RdmaNode("/dev/infiniband/umad0", 1),)}))
    offer, remarks = _shared(without, {"ifNames": [NAMES[0]]})
    assert offer is not None
    assert offer.devices == ()
    assert remarks == ("rdma/hca: mlx5_0 has no uverbs node; ib_uverbs makes it",)
    offer, remarks = _shared(replace(state, rdma_netns_shared=False), {})
    assert offer is None
    assert remarks[0].startswith("rdma/hca is not offered: RDMA devices are not shared")


def test_cdi_names_take_the_place_of_nodes_once_a_specification_has_them() -> None:
    state = _node(vfs=0)
    offer, _ = _shared(state, {}, cdi=True)
    assert offer is not None
    assert {one.reason for one in offer.devices} == {"no CDI specification names its devices"}
    file = CdiFile("/var/run/cdi/x.json", "", "nodeagent.io/rdma", ("mlx5_0", "mlx5_1"))
    known = replace(state, containers=replace(state.containers, cdi_files=(file,)))
    offer, _ = _shared(known, {}, cdi=True)
    assert offer is not None
    grant = offer.allocator.grant(("0",))
    assert (grant.cdi_devices, grant.nodes) == (("nodeagent.io/rdma=mlx5_0", "nodeagent.io/rdma=mlx5_1"), ())


# Preference.


@given(st.integers(0, 8), st.sets(st.integers(0, 7)), st.integers(0, 2**32), st.sets(st.sampled_from(GPU)))
def test_a_preference_is_a_choice_from_what_there_is(size: int, there: set[int], seed: int, gpus: set[str]) -> None:
    """Never one twice, always all of `must`, never more or fewer than asked."""
    allocator = _only(_sriov({}), _NODE).allocator
    assert isinstance(allocator, FunctionAllocator)
    ids = [unit.address for unit in allocator.units]
    available = tuple(ids[n] for n in sorted(there))
    must = available[: min(size, seed % 3)]
    chosen = allocator.prefer_near(available, must, size, tuple(sorted(gpus)))
    if size > len(available):
        assert chosen == ()
        return
    assert len(chosen) == len(set(chosen)) == size
    assert set(must) <= set(chosen) <= set(available)


_NODE = _node()


def test_on_one_numa_node_the_ports_take_turns_and_the_emptiest_begins() -> None:
    level = {address: replace(one, numa_node=0) for address, one in _NODE.pci.items()}
    offer = _only(_sriov({}), replace(_NODE, pci=level))
    every = tuple(one.id for one in offer.devices)
    ports = [level[one].physfn for one in offer.allocator.prefer(every, (), 4)]
    assert sorted(ports) == [PF[0], PF[0], PF[1], PF[1]]
    assert level[offer.allocator.prefer(every[1:], (), 1)[0]].physfn == PF[1]


def test_functions_follow_the_gpus_and_gpus_the_functions() -> None:
    now = [0.0]
    pairing = Pairing(lambda: now[0])
    functions = _only(_sriov({}), _NODE)
    near = functions.allocator.near
    uuids = {one.uuid: one.pci_address for one in _NODE.gpus.values()}
    gpus = Offer("nvidia.com/gpu", (), _First())
    (nics,), (cards,) = near_gpus((functions,), pairing), near_ports((gpus,), pairing, uuids, near)
    every = tuple(one.id for one in functions.devices)
    for uuid, address in uuids.items():
        port = PF[GPU.index(address)]
        cards.allocator.grant((uuid,))
        (chosen,) = nics.allocator.prefer(every, (), 1)
        assert _NODE.pci[chosen].physfn == port
        nics.allocator.grant((chosen,))
        assert (pairing.gpus(), pairing.ports()) == ((), ()), "they found each other"
        nics.allocator.grant((chosen,))
        assert cards.allocator.prefer(tuple(uuids), (), 1) == (uuid,)
        now[0] += MOMENT_SECONDS + 1
        assert pairing.ports() == ()
    two = nics.allocator.prefer(every, (), 2)
    assert len({_NODE.pci[one].numa_node for one in two}) == 1, "without a GPU to be near to"
    cards.allocator.grant(tuple(uuids))
    assert [PF.index(_NODE.pci[one].physfn) for one in nics.allocator.prefer(every, (), 2)] == [0, 1]
    assert near_ports((gpus,), pairing, uuids, {}) == (gpus,)


class _First:
    def grant(self, ids: tuple[str, ...]) -> object:
        return ids

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        return (*must, *(one for one in available if one not in must))[:size]
