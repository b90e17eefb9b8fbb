"""Network interfaces, what stands on them, and RDMA devices, by sysfs and /proc/net: no netlink, so it is cheap.

Sources: Documentation/ABI/testing/sysfs-class-net, Documentation/ABI/stable/sysfs-class-infiniband, and the writers of
the /proc/net files (net/ipv4/fib_trie.c, net/ipv6/route.c, net/ipv6/addrconf.c).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from types import MappingProxyType

from nodeagent.host.paths import (
    PROC_FIB_TRIE,
    PROC_IF_INET6,
    PROC_IPV6_ROUTE,
    PROC_ROUTE,
    SYS_CLASS_INFINIBAND,
    SYS_CLASS_NET,
)
from nodeagent.host.ports import Files
from nodeagent.host.roce_defaults import read_defaults, read_traffic_class
from nodeagent.state.network import DEFAULT_ROUTE, Netdev, RdmaDevice, RdmaPort

PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
IFF_UP = 0x1
# include/uapi/linux/route.h
RTF_UP, RTF_GATEWAY, RTF_REJECT = 0x1, 0x2, 0x200
LINK_LOCAL_SCOPE = 0x20  # IPV6_ADDR_LINKLOCAL: every interface that is up has one, so it says nothing about use
# sysfs does not tell an interface's own limits: the widest that any interface has; the kernel refuses what is too much.
MIN_MTU, MAX_MTU = 68, 65536
NOT_COUNTERS = frozenset({"lifespan"})  # hw_counters/lifespan is how long the driver caches them, in milliseconds

Uses = dict[str, tuple[str, ...]]


def read_netdevs(
    files: Files, uses: Mapping[str, tuple[str, ...]], limits: Mapping[str, tuple[int, int]] | None = None
) -> Mapping[str, Netdev]:
    """Every interface by name; `uses` as Links.uses gives them.

    `limits` are (minimum, maximum) MTU in bytes where they are known; sysfs does not have them.
    """
    known = limits or {}
    found = (_read_netdev(files, name, uses.get(name, ()), known.get(name)) for name in files.names(SYS_CLASS_NET))
    return MappingProxyType({netdev.name: netdev for netdev in found if netdev is not None})


def _read_netdev(files: Files, name: str, uses: tuple[str, ...], limits: tuple[int, int] | None) -> Netdev | None:
    directory = f"{SYS_CLASS_NET}/{name}"
    mtu, flags = files.read_optional(f"{directory}/mtu"), files.read_optional(f"{directory}/flags")
    if mtu is None or flags is None:  # bonding_masters is a file, and an interface can go while it is read
        return None
    device = files.target(f"{directory}/device") or ""
    minimum, maximum = limits or (MIN_MTU, MAX_MTU)
    return Netdev(
        name=name,
        mtu=int(mtu),
        up=bool(int(flags, 16) & IFF_UP),
        carrier=files.read_optional(f"{directory}/carrier") == "1",
        mac=files.read_optional(f"{directory}/address") or "",
        pci_address=device if PCI_ADDRESS.fullmatch(device) else "",
        driver=files.target(f"{directory}/device/driver") or "",
        min_mtu=minimum,
        max_mtu=maximum,
        uses=uses,
    )


def read_uses(files: Files) -> Uses:
    """What stands on each interface: default route, addresses, routes through a gateway, bonds, VLANs on top.

    An IPv4 address whose network has no route of its own on an interface (a /32) is not seen: /proc/net does not say
    which interface has it.
    """
    routes = parse_routes(files.read_optional(PROC_ROUTE) or "")
    addresses = parse_local_addresses(files.read_optional(PROC_FIB_TRIE) or "")
    found: dict[str, list[str]] = {}
    for name, use in (
        *default_routes(routes),
        *parse_ipv6_default_routes(files.read_optional(PROC_IPV6_ROUTE) or ""),
        *addresses_by_interface(routes, addresses),
        *parse_ipv6_addresses(files.read_optional(PROC_IF_INET6) or ""),
        *gateway_routes(routes),
        *_stacked(files),
    ):
        if use not in found.setdefault(name, []):
            found[name].append(use)
    return {name: tuple(uses) for name, uses in found.items()}


def parse_routes(text: str) -> tuple[tuple[str, IPv4Network, int], ...]:
    """(interface, destination, flags) of the main table's routes that are in force, from /proc/net/route."""
    rows = (line.split() for line in text.splitlines()[1:])
    found = ((row[0], _network(row[1], row[7]), int(row[3], 16)) for row in rows if len(row) >= 8)
    return tuple(route for route in found if route[2] & RTF_UP and not route[2] & RTF_REJECT)


def _network(destination: str, mask: str) -> IPv4Network:
    """Both are the address as the CPU reads it in memory, so little-endian on every machine with NVIDIA GPUs."""
    address = IPv4Address(int.from_bytes(bytes.fromhex(destination), "little"))
    return IPv4Network((address, int.from_bytes(bytes.fromhex(mask), "little").bit_count()), strict=False)


def default_routes(routes: Iterable[tuple[str, IPv4Network, int]]) -> list[tuple[str, str]]:
    return [(name, DEFAULT_ROUTE) for name, network, _ in routes if network.prefixlen == 0]


def gateway_routes(routes: Iterable[tuple[str, IPv4Network, int]]) -> list[tuple[str, str]]:
    """Routes through a gateway other than the default route; they are lost for good when the interface goes down."""
    return [(name, f"route {network}") for name, network, flags in routes if network.prefixlen and flags & RTF_GATEWAY]


def parse_local_addresses(text: str) -> tuple[IPv4Address, ...]:
    """The machine's IPv4 addresses from /proc/net/fib_trie, without loopback: leaves with a line `/32 host LOCAL`."""
    found: dict[IPv4Address, None] = {}
    leaf = ""
    for line in text.splitlines():
        if line.lstrip().startswith("|-- "):
            leaf = line.split("|-- ")[1]
        elif line.strip() == "/32 host LOCAL" and not IPv4Address(leaf).is_loopback:
            found[IPv4Address(leaf)] = None
    return tuple(found)


def addresses_by_interface(
    routes: Iterable[tuple[str, IPv4Network, int]], addresses: Sequence[IPv4Address]
) -> list[tuple[str, str]]:
    """Each address on the interface whose connected network holds it: the kernel adds that route with the address.

    Of networks inside each other the smallest counts. Interfaces that share one network each get all of its addresses.
    """
    connected = [(name, network) for name, network, flags in routes if network.prefixlen and not flags & RTF_GATEWAY]
    found = []
    for address in addresses:
        around = [(name, network.prefixlen) for name, network in connected if address in network]
        smallest = max((length for _, length in around), default=0)
        found += [(name, f"address {address}/{length}") for name, length in around if length == smallest]
    return found


def parse_ipv6_default_routes(text: str) -> list[tuple[str, str]]:
    """Interfaces with an IPv6 default route, from /proc/net/ipv6_route."""
    rows = [row for row in map(str.split, text.splitlines()) if len(row) == 10]
    return [
        (row[9], DEFAULT_ROUTE)
        for row in rows
        if row[1] == "00" and int(row[0], 16) == 0 and int(row[8], 16) & (RTF_UP | RTF_REJECT) == RTF_UP
    ]


def parse_ipv6_addresses(text: str) -> list[tuple[str, str]]:
    """(interface, "address A/LEN") from /proc/net/if_inet6, without loopback and link-local addresses."""
    rows = [row for row in map(str.split, text.splitlines()) if len(row) == 6]
    return [
        (row[5], f"address {IPv6Address(int(row[0], 16))}/{int(row[2], 16)}")
        for row in rows
        if row[5] != "lo" and int(row[3], 16) & 0xF0 != LINK_LOCAL_SCOPE
    ]


def _stacked(files: Files) -> list[tuple[str, str]]:
    """Bonds and bridges the interface is part of, VLANs and macvlans that stand on it (links upper_NAME)."""
    return [(name, use) for name in files.names(SYS_CLASS_NET) for use in _stacked_on(files, f"{SYS_CLASS_NET}/{name}")]


def _stacked_on(files: Files, directory: str) -> Iterator[str]:
    master = files.target(f"{directory}/master")
    for entry in files.names(directory):
        upper = entry.removeprefix("upper_")
        if upper != entry:
            yield f"part of {upper}" if upper == master else f"{upper} on top"


def read_rdma(files: Files, *, with_counters: bool = True, with_roce: bool = False) -> Mapping[str, RdmaDevice]:
    """RDMA devices by name with their ports. `active_mtu_bytes` stays 0: sysfs does not have it.

    Port counters and hardware counters are merged; values that cannot be read are left out. `port_xmit_data` and
    `port_rcv_data` count 4-byte words. `with_roce` adds what rdma_cm uses by default.
    """
    names = files.names(SYS_CLASS_INFINIBAND)
    found = (read_rdma_device(files, name, with_counters=with_counters) for name in names)
    return MappingProxyType({device.name: _with_roce(files, device) if with_roce else device for device in found})


def _with_roce(files: Files, device: RdmaDevice) -> RdmaDevice:
    return replace(device, ports=tuple(_port_with_roce(files, device.name, port) for port in device.ports))


def _port_with_roce(files: Files, device: str, port: RdmaPort) -> RdmaPort:
    if port.link_layer != "Ethernet":
        return port
    mode, tos = read_defaults(files, device, port.port)
    traffic_class = read_traffic_class(files, device, port.port)
    return replace(port, roce_mode=mode, roce_tos=tos, traffic_class=traffic_class)


def read_rdma_device(files: Files, name: str, *, with_counters: bool = True) -> RdmaDevice:
    """One RDMA device, as in read_rdma."""
    directory = f"{SYS_CLASS_INFINIBAND}/{name}"
    device = files.target(f"{directory}/device") or ""
    numbers = sorted(int(port) for port in files.names(f"{directory}/ports") if port.isdecimal())
    return RdmaDevice(
        name=name,
        node_guid=files.read_optional(f"{directory}/node_guid") or "",
        pci_address=device if PCI_ADDRESS.fullmatch(device) else "",
        firmware=files.read_optional(f"{directory}/fw_ver") or "",
        ports=tuple(_read_port(files, directory, number, with_counters) for number in numbers),
        board_id=(files.read_optional(f"{directory}/board_id") or "").strip(),
        hca_type=(files.read_optional(f"{directory}/hca_type") or "").strip(),
    )


def _read_port(files: Files, device: str, number: int, with_counters: bool) -> RdmaPort:
    directory = f"{device}/ports/{number}"
    return RdmaPort(
        port=number,
        state=parse_port_state(files.read_optional(f"{directory}/state") or ""),
        link_layer=files.read_optional(f"{directory}/link_layer") or "",
        netdev=_port_netdev(files, device, number),
        rate=files.read_optional(f"{directory}/rate") or "",
        counters=_counters(files, directory) if with_counters else (),
    )


def parse_port_state(text: str) -> str:
    """`4: ACTIVE` -> `ACTIVE`."""
    return text.rpartition(":")[2].strip()


def _port_netdev(files: Files, device: str, number: int) -> str:
    """The interface of the port's first GID; InfiniBand ports have none, then the function's own one (IPoIB) counts."""
    found = (files.read_optional(f"{device}/ports/{number}/gid_attrs/ndevs/0") or "").strip()
    return found or next(iter(files.names(f"{device}/device/net")), "")


def _counters(files: Files, directory: str) -> tuple[tuple[str, int], ...]:
    values: dict[str, int] = {}
    for kind in ("counters", "hw_counters"):
        for name in files.names(f"{directory}/{kind}"):
            text = files.read_optional(f"{directory}/{kind}/{name}") or ""
            if name not in NOT_COUNTERS and text.isdecimal():
                values[name] = int(text)
    return tuple(sorted(values.items()))
