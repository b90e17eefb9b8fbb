"""Interfaces, what stands on them, and RDMA devices."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from nodeagent.host.files import LocalFiles
from nodeagent.host.link_facts import (
    addresses_by_interface,
    parse_ipv6_addresses,
    parse_ipv6_default_routes,
    parse_local_addresses,
    parse_port_state,
    parse_routes,
    read_netdevs,
    read_rdma,
    read_uses,
)
from nodeagent.state.network import Netdev, RdmaDevice, RdmaPort
from trees import make_tree

ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
ens1\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
ens1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
ens2\t0000000A\t0102000A\t0003\t0\t0\t0\t000000FF\t0\t0\t0
ens2\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
*\t0000A8C0\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0
"""
TRIE = """\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
           |-- 127.0.0.1
              /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
        +-- 192.0.2.0/30 2 0 2
           |-- 192.0.2.0
              /24 link UNICAST
           |-- 192.0.2.2
              /32 host LOCAL
        |-- 192.0.2.255
           /32 link BROADCAST
Local:
           |-- 192.0.2.2
              /32 host LOCAL
           |-- 10.0.2.7
              /24 link UNICAST
              /32 host LOCAL
"""
ZERO = "0" * 32
ROUTES6 = f"""\
fd000000000000000000000000000000 40 {ZERO} 00 {ZERO} 00000100 1 0 00000001     ens1
{ZERO} 00 {ZERO} 00 fd000000000000000000000000000001 00000400 2 0 00000003     ens1
{ZERO} 00 {ZERO} 00 {ZERO} ffffffff 1 0 00200200       lo
"""
ADDRESSES6 = """\
fd000000000000000000000000000002 04 40 00 82     ens1
fe8000000000000000fc00fffe000001 04 40 20 80     ens1
00000000000000000000000000000001 01 80 10 80       lo
"""


def test_routes_in_force() -> None:
    assert [(name, str(network)) for name, network, _ in parse_routes(ROUTES)] == [
        ("ens1", "0.0.0.0/0"), ("ens1", "192.0.2.0/24"), ("ens2", "10.0.0.0/8"), ("ens2", "10.0.2.0/24"),
    ]  # fmt: skip


def test_local_addresses() -> None:
    assert [str(address) for address in parse_local_addresses(TRIE)] == ["192.0.2.2", "10.0.2.7"]
    assert parse_local_addresses("") == ()


def test_ipv6_addresses_and_default_routes() -> None:
    assert parse_ipv6_addresses(ADDRESSES6) == [("ens1", "address fd00::2/64")]
    assert parse_ipv6_default_routes(ROUTES6) == [("ens1", "default route")]


def test_an_address_belongs_to_the_smallest_network_around_it() -> None:
    routes = [("ens1", IPv4Network("10.0.0.0/8"), 1), ("ens2", IPv4Network("10.1.0.0/16"), 1)]
    assert addresses_by_interface(routes, [IPv4Address("10.1.0.5")]) == [("ens2", "address 10.1.0.5/16")]
    assert addresses_by_interface(routes, [IPv4Address("172.16.0.1")]) == []


NET = {"/proc/net/route": ROUTES, "/proc/net/fib_trie": TRIE, "/proc/net/ipv6_route": ROUTES6,
       "/proc/net/if_inet6": ADDRESSES6, "/sys/class/net/ens2/upper_bond0/x": "", "/sys/class/net/ens2/upper_v5/x": "",
       "/sys/class/net/bonding_masters": "bond0"}  # fmt: skip


def test_uses(tmp_path: Path) -> None:
    assert read_uses(make_tree(tmp_path, NET, {"/sys/class/net/ens2/master": "../bond0"})) == {
        "ens1": ("default route", "address 192.0.2.2/24", "address fd00::2/64"),
        "ens2": ("address 10.0.2.7/24", "route 10.0.0.0/8", "part of bond0", "v5 on top"),
    }


def test_uses_of_a_machine_without_network(tmp_path: Path) -> None:
    assert read_uses(LocalFiles(str(tmp_path))) == {}


PCI = "0000:3b:00.0"


def test_netdevs(tmp_path: Path) -> None:
    texts = {"/sys/class/net/ens1/mtu": "1500", "/sys/class/net/ens1/flags": "0x1003",
             "/sys/class/net/ens1/carrier": "1", "/sys/class/net/ens1/address": "b8:ce:f6:00:00:01",
             "/sys/class/net/dummy0/mtu": "1500", "/sys/class/net/dummy0/flags": "0x82",
             "/sys/class/net/bonding_masters": "bond0", f"/sys/devices/{PCI}/x": ""}  # fmt: skip
    links = {"/sys/class/net/ens1/device": f"../../../devices/{PCI}",
             f"/sys/devices/{PCI}/driver": "../../bus/pci/drivers/mlx5_core"}  # fmt: skip
    found = read_netdevs(make_tree(tmp_path, texts, links), {"ens1": ("default route",)}, {"ens1": (68, 9978)})
    assert found == {
        "ens1": Netdev("ens1", 1500, True, True, "b8:ce:f6:00:00:01", PCI, "mlx5_core", 68, 9978, ("default route",)),
        "dummy0": Netdev("dummy0", 1500, False, min_mtu=68, max_mtu=65536),
    }


MLX = "/sys/class/infiniband/mlx5_0"


def test_rdma_devices(tmp_path: Path) -> None:
    texts = {f"{MLX}/node_guid": "b8ce:f603:0000:0001", f"{MLX}/fw_ver": "28.39.1002",
             f"{MLX}/ports/1/state": "4: ACTIVE", f"{MLX}/ports/1/link_layer": "Ethernet",
             f"{MLX}/ports/1/rate": "400 Gb/sec (4X NDR)", f"{MLX}/ports/1/gid_attrs/ndevs/0": "ens1",
             f"{MLX}/ports/1/counters/port_rcv_data": "12", f"{MLX}/ports/1/hw_counters/out_of_sequence": "3",
             f"{MLX}/ports/1/hw_counters/lifespan": "10", f"{MLX}/ports/1/hw_counters/broken": ""}  # fmt: skip
    links = {f"{MLX}/device": f"../../../devices/{PCI}"}
    files = make_tree(tmp_path, texts, links)
    port = RdmaPort(1, "ACTIVE", "Ethernet", "ens1", "400 Gb/sec (4X NDR)")
    counters = (("out_of_sequence", 3), ("port_rcv_data", 12))
    with_counters = RdmaPort(1, "ACTIVE", "Ethernet", "ens1", "400 Gb/sec (4X NDR)", counters=counters)
    device = RdmaDevice("mlx5_0", "b8ce:f603:0000:0001", PCI, "28.39.1002", (with_counters,))
    assert read_rdma(files) == {"mlx5_0": device}
    assert read_rdma(files, with_counters=False)["mlx5_0"].ports == (port,)


def test_infiniband_port_has_the_interface_of_its_function(tmp_path: Path) -> None:
    texts = {f"{MLX}/ports/2/state": "1: DOWN", f"{MLX}/ports/1/state": "", f"{MLX}/device/net/ibs1/mtu": "2044"}
    ports = read_rdma(make_tree(tmp_path, texts))["mlx5_0"].ports
    assert [(port.port, port.state, port.netdev) for port in ports] == [(1, "", "ibs1"), (2, "DOWN", "ibs1")]


def test_port_states() -> None:
    assert [parse_port_state(text) for text in ("4: ACTIVE", "1: DOWN", "")] == ["ACTIVE", "DOWN", ""]
