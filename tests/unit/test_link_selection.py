"""What a `match` of the node file means: each kind of selector, and what is said when it means nothing."""

from __future__ import annotations

import re

import pytest

from nodeagent.resources.link_selection import select_netdevs, select_rdma, what_there_is
from nodeagent.resources.links import plan
from nodeagent.spec import names
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.gpu import Gpu
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState

UUID = "GPU-4d5bd23c-11a1-31b8-9b5c-0f7b1d2f7a10"


def _pci(address: str, vendor: str, device: str, root: str, class_code: str = "020000") -> PciFunction:
    driver = "nvidia" if vendor == "10de" else "mlx5_core" if vendor == "15b3" else "igb"
    path = (f"pci0000:{root}", f"0000:{root}:01.0", f"0000:{root}:02.0", address)
    return PciFunction(address, vendor, device, class_code, driver, numa_node=0, path=path)


FUNCTIONS = (
    _pci("0000:07:00.0", "10de", "20b0", "00", "030200"),
    _pci("0000:0c:00.0", "15b3", "101b", "00"),
    _pci("0000:47:00.0", "10de", "20b0", "40", "030200"),
    _pci("0000:4b:00.0", "15b3", "1021", "40"),
    _pci("0000:61:00.0", "15b3", "101d", "60"),
    _pci("0000:e2:00.0", "8086", "1533", "e0"),
)
NETDEVS = {"ens1": "0000:0c:00.0", "ens2": "0000:4b:00.0", "ens3": "0000:61:00.0", "eno1": "0000:e2:00.0"}
DRIVERS = {found.address: found.driver for found in FUNCTIONS}
STATE = NodeState(
    pci={found.address: found for found in FUNCTIONS},
    gpus={UUID: Gpu(UUID, 1, 1, "0000:47:00.0", "A100", 0)},
    netdevs={
        "lo": Netdev("lo", 65536, up=True),
        "dummy0": Netdev("dummy0", 1500, up=True),
        **{
            name: Netdev(name, 1500, up=True, pci_address=address, driver=DRIVERS[address])
            for name, address in NETDEVS.items()
        },
    },
    rdma={
        "mlx5_0": RdmaDevice("mlx5_0", "a", "0000:0c:00.0", ports=(RdmaPort(1, "ACTIVE", "Ethernet", "ens1"),)),
        "mlx5_1": RdmaDevice("mlx5_1", "b", "0000:4b:00.0", ports=(RdmaPort(1, "ACTIVE", "Ethernet", "ens2"),)),
        "mlx5_2": RdmaDevice("mlx5_2", "c", "0000:61:00.0", ports=(RdmaPort(1, "ACTIVE", "Ethernet", "ens3"),)),
        "rxe0": RdmaDevice("rxe0", "d", "", ports=(RdmaPort(1, "ACTIVE", "Ethernet", "dummy0"),)),
    },
)


@pytest.mark.parametrize(
    ("match", "netdevs", "rdma"),
    [
        ("ens1", ("ens1",), ("mlx5_0",)),
        ("ens*", ("ens1", "ens2", "ens3"), ("mlx5_0", "mlx5_1", "mlx5_2")),
        ("*", ("dummy0", "eno1", "ens1", "ens2", "ens3"), ("mlx5_0", "mlx5_1", "mlx5_2", "rxe0")),
        ("lo", ("lo",), ()),
        ("dummy0", ("dummy0",), ("rxe0",)),
        ("0000:4b:00.0", ("ens2",), ("mlx5_1",)),
        ("driver:mlx5_core", ("ens1", "ens2", "ens3"), ("mlx5_0", "mlx5_1", "mlx5_2")),
        ("rdma:mlx5_1", ("ens2",), ("mlx5_1",)),
        ("rdma:rxe*", ("dummy0",), ("rxe0",)),
        ("id:15b3:1021", ("ens2",), ("mlx5_1",)),
        ("product:connectx-6*", ("ens1", "ens3"), ("mlx5_0", "mlx5_2")),
        ("rail:0", ("ens1",), ("mlx5_0",)),
        ("rail:0-1", ("ens1", "ens2"), ("mlx5_0", "mlx5_1")),
        ("rail:*", ("ens1", "ens2"), ("mlx5_0", "mlx5_1")),
        ("closest-to-gpu:0", ("ens1",), ("mlx5_0",)),
        (f"closest-to-gpu:{UUID}", ("ens2",), ("mlx5_1",)),
        ("closest-to-gpu:0000:47:00.0", ("ens2",), ("mlx5_1",)),
        ("rail:2", (), ()),
        ("closest-to-gpu:9", (), ()),
        ("id:15b3:1023", (), ()),
        ("0000:ff:00.0", (), ()),
    ],
)
def test_what_a_match_means(match: str, netdevs: tuple[str, ...], rdma: tuple[str, ...]) -> None:
    assert names.link_match(match) == match
    assert re.search(names.LINK_MATCH, match)
    assert select_netdevs(match, STATE) == netdevs
    assert select_rdma(match, STATE) == rdma


@pytest.mark.parametrize(
    ("match", "advice"),
    [
        ("rail:2", "rails here: 0 to 1"),
        ("closest-to-gpu:9", "gpus here: 0 to 1"),
        ("rdma:x", "rdma devices here: mlx5_0, mlx5_1, mlx5_2, rxe0"),
        ("product:x", "nics here: ConnectX-6 (id:15b3:101b), ConnectX-6-Dx (id:15b3:101d), ConnectX-7 (id:15b3:1021)"),
        ("x*", "interfaces here: dummy0, eno1, ens1, ens2, ens3"),
    ],
)
def test_a_match_that_means_nothing_tells_what_there_is(match: str, advice: str) -> None:
    assert what_there_is(match, STATE) == advice
    (obstacle,) = plan(NodeSpec(version=1, links=(LinkEntry(match, up=True),)), STATE).obstacles
    assert (obstacle.problem, obstacle.advice) == ("no interface matches", advice)


def test_nothing_to_number_without_gpus() -> None:
    bare = NodeState(netdevs=STATE.netdevs)
    assert what_there_is("rail:0", bare) == "there are no rails: no RDMA NIC is near a GPU"
    assert what_there_is("closest-to-gpu:0", bare) == "there are no gpus"


@pytest.mark.parametrize(
    "match",
    ["rail:", "rail:x", "rail:1-", "rdma:", "rdma:a/b", "id:15b3", "closest-to-gpu:", "closest-to-gpu:x", "vf:0"],
)
def test_what_no_match_can_be(match: str) -> None:
    assert not re.search(names.LINK_MATCH, names.link_match(match))


def test_one_form_for_each_match() -> None:
    assert names.link_match("ID:15B3:1021") == "ID:15B3:1021"
    assert names.link_match("id:15B3:1021") == "id:15b3:1021"
    assert names.link_match("closest-to-gpu:47:00.0") == "closest-to-gpu:0000:47:00.0"
    assert names.link_match("closest-to-gpu:03") == "closest-to-gpu:3"
