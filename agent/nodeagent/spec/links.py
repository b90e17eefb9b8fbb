"""`links` of the node file: what a network interface shall be, from its name to its routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nodeagent.spec import names
from nodeagent.spec.keys import key
from nodeagent.spec.qos import Qos

RAIL = "{rail}"  # stands for the number of the interface's rail
ADDRESS = r"^([0-9A-Fa-f.:]|\{rail\})+/([0-9]{1,3})$"
ADDRESS_EXPECTED = "an address with its prefix length such as 10.0.1.5/24; {rail} stands for the rail's number"
GATEWAY = r"^$|^([0-9A-Fa-f.:]|\{rail\})+$"
GATEWAY_EXPECTED = "an address such as 10.0.1.254; {rail} stands for the rail's number"
DESTINATION = r"^(default|([0-9A-Fa-f.:]|\{rail\})+(/[0-9]{1,3})?)$"
DESTINATION_EXPECTED = "a network such as 10.0.0.0/16, or default; {rail} stands for the rail's number"
TABLE = r"^[0-9]*(\{rail\})?[0-9]*$"
TABLE_EXPECTED = 'the number of a table, or one with the rail in it such as "10{rail}"'


def switch(doc: str) -> Any:
    """A key with true or false, left alone by default."""
    return key(doc, default=None)


def number(doc: str, *, example: str = "", most: int = 65535) -> Any:
    """A key with a number, left alone by default."""
    return key(doc, default=None, minimum=0, maximum=most, example=example)


@dataclass(frozen=True)
class Rings:
    """Descriptors of each queue; most drivers stop the queues to change them."""

    rx: int | None = number("Receive ring.", example="8192")
    tx: int | None = number("Transmit ring.", example="8192")


@dataclass(frozen=True)
class Channels:
    """Number of queues; most drivers stop them to change it."""

    combined: int | None = number("Queues that both receive and transmit.", example="32")
    rx: int | None = number("Queues that only receive.")
    tx: int | None = number("Queues that only transmit.")


@dataclass(frozen=True)
class Coalescing:
    """How long the device collects before it interrupts."""

    adaptive_rx: bool | None = switch("The driver chooses for receiving by load.")
    adaptive_tx: bool | None = switch("The driver chooses for transmitting by load.")
    rx_usecs: int | None = number("Microseconds to wait after a received packet.", example="8")
    rx_frames: int | None = number("Received packets to wait for.")
    tx_usecs: int | None = number("Microseconds to wait after a transmitted packet.")
    tx_frames: int | None = number("Transmitted packets to wait for.")


@dataclass(frozen=True)
class Pause:
    """Global flow control of the link; it belongs off where priority flow control is on."""

    rx: bool | None = switch("Obey the other side's pause frames.")
    tx: bool | None = switch("Send pause frames.")
    autoneg: bool | None = switch("Agree with the other side about it; many drivers cannot.")


@dataclass(frozen=True)
class Ipv4:
    """Address resolution with several NICs in one network; the kernel takes the larger of this and `conf/all`."""

    arp_ignore: int | None = number("1: answer only for addresses of the interface that is asked.", example="1", most=8)
    arp_announce: int | None = number("2: announce the best local address for the target.", example="2", most=2)
    arp_filter: int | None = number("1: answer only where the kernel would route the answer.", most=1)
    rp_filter: int | None = number("Reverse path filter: 0 none, 1 strict, 2 loose.", example="2", most=2)
    accept_local: int | None = number("1: accept packets with one of the node's own addresses as source.", most=1)


@dataclass(frozen=True)
class Route:
    """A route through the interface."""

    to: str = key(
        "Destination: a network, or default.", pattern=DESTINATION, expected=DESTINATION_EXPECTED, example="10.0.0.0/16"
    )
    via: str = key(
        "Gateway; none for what is on the link.",
        default="",
        pattern=GATEWAY,
        expected=GATEWAY_EXPECTED,
        example='"10.0.{rail}.254"',
    )
    table: str = key(
        "Routing table; 254 is the main one.",
        default="254",
        pattern=TABLE,
        expected=TABLE_EXPECTED,
        example='"10{rail}"',
    )
    metric: int = key("Of routes to one destination the one with the least counts.", default=0, minimum=0)
    source: str = key(
        "Preferred source address.", default="", pattern=GATEWAY, expected=GATEWAY_EXPECTED, example='"10.0.{rail}.5"'
    )


@dataclass(frozen=True)
class Rule:
    """Which routing table counts for packets from an address: with it each rail answers through itself."""

    source: str = key(
        "Source address or network of the packets.",
        pattern=DESTINATION,
        expected=DESTINATION_EXPECTED,
        example='"10.0.{rail}.5"',
    )
    table: str = key("Routing table for them.", pattern=TABLE, expected=TABLE_EXPECTED, example='"10{rail}"')
    priority: int = key("Order among the rules, the least first.", default=1000, minimum=1, maximum=32765)


@dataclass(frozen=True)
class LinkEntry:
    """What the interfaces that `match` names shall be; what is left out stays as it is."""

    match: str = key(
        "Which interfaces: a netdev name or pattern (`ens*`), a PCI address, `driver:mlx5_core`, `rdma:mlx5_*`, "
        "`product:ConnectX-7`, `id:15b3:1021`, `rail:0`, `rail:0-7` or `rail:*` (see `nodeagent topology`), "
        "`closest-to-gpu:3`.",
        example="driver:mlx5_core",
        pattern=names.LINK_MATCH,
        expected=names.LINK_MATCH_EXPECTED,
        canonical=names.link_match,
    )
    up: bool | None = key("Administrative state.", default=None, example="true")
    mtu: int | None = key("MTU in bytes.", default=None, minimum=68, maximum=65536, example="9000")
    name: str = key(
        "Name it shall have; match it by PCI address or rail then. A link that is up goes down for it.",
        default="",
        pattern=r"^$|^(?!\.{1,2}$)([^\s/:{}]|\{rail\}){1,20}$",
        expected="a netdev name of at most 15 characters; {rail} stands for the rail's number",
        example='"rail{rail}"',
    )
    tx_queue_length: int | None = number("Packets that may wait in the software queue (txqueuelen).", example="10000")
    rings: Rings | None = key("Ring sizes.", default=None)
    channels: Channels | None = key("Queues.", default=None)
    coalescing: Coalescing | None = key("Interrupt coalescing.", default=None)
    pause: Pause | None = key("Global flow control.", default=None)
    features: Mapping[str, bool] | None = key(
        "Offloads by the names of `ethtool -k`: the kernel's own, or gro, lro, gso, tso, rx, sg, rxhash, ntuple.",
        default=None,
        example="{lro: false, rx-gro-hw: true}",
        key_pattern=r"^[a-z0-9][a-z0-9-]{0,31}$",
        key_expected="the name of an offload such as lro or hw-tc-offload",
    )
    private_flags: Mapping[str, bool] | None = key(
        "The driver's own switches, by the names of `ethtool --show-priv-flags`.",
        default=None,
        example="{rx_cqe_compress: false}",
        key_pattern=r"^[ -~]{1,31}$",
        key_expected="the name of a private flag such as rx_cqe_compress",
    )
    ipv4: Ipv4 | None = key("How it answers for IPv4 addresses.", default=None)
    addresses: tuple[str, ...] | None = key(
        "Exactly these addresses; [] for none. Those that DHCP or a router gave, and link-local ones, are left alone.",
        default=None,
        pattern=ADDRESS,
        expected=ADDRESS_EXPECTED,
        example='["10.0.{rail}.5/24"]',
    )
    routes: tuple[Route, ...] | None = key(
        "Routes through it; [] for none. Only routes that the agent made are removed.", default=None
    )
    rules: tuple[Rule, ...] | None = key(
        "Rules for its addresses; [] for none. Only rules that the agent made are removed.", default=None
    )
    qos: Qos | None = key("Quality of service (DCB): what is lossless, and who gets how much.", default=None)

    def __hash__(self) -> int:
        """Mappings have no hash, and entries of `links` are keys of dictionaries."""
        return hash((self.match, self.up, self.mtu, self.name, self.rings, self.addresses, self.routes))
