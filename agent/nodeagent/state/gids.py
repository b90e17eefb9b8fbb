"""Entries of an RDMA port's GID table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address

ROCE_V1, ROCE_V2 = "IB/RoCE v1", "RoCE v2"  # as gid_attrs/types spells them; InfiniBand ports have the first


class Family(StrEnum):
    """Address family of a GID: an IPv4 address stands in it as ::ffff:a.b.c.d."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True)
class Gid:
    """One used slot; `index` is valid for now only: a slot that is freed goes to the next address that comes."""

    index: int
    address: IPv6Address
    kind: str
    netdev: str = ""

    @property
    def family(self) -> Family:
        return Family.IPV6 if self.address.ipv4_mapped is None else Family.IPV4

    @property
    def is_link_local(self) -> bool:
        return self.address.is_link_local

    @property
    def text(self) -> str:
        """10.0.0.1 for an IPv4 address, the IPv6 address otherwise."""
        return str(self.address.ipv4_mapped or self.address)
