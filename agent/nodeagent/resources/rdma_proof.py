"""What a run of RDMA traffic proves, and what it does not: the verdict on a port; pure.

Source: linux include/rdma/ib_addr.h, iboe_get_mtu: the largest InfiniBand MTU that fits the link's with the headers.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address

from nodeagent.state.gids import Gid
from nodeagent.state.network import Netdev
from nodeagent.state.verbs import VerbsResult

PATH_MTUS = (256, 512, 1024, 2048, 4096)
HEADERS = 96  # GRH 40, UDP 8, BTH 12, XRC 4, AtomicETH 28, ICRC 4


def path_mtu(link_mtu: int) -> int:
    """The RDMA path MTU in bytes that a link's MTU allows; 0 where not even the smallest fits."""
    return max((size for size in PATH_MTUS if size + HEADERS <= link_mtu), default=0)


def doubts(result: VerbsResult, gid: Gid | None, netdev: Netdev | None) -> Iterator[str]:
    """What is not as it should be although the traffic went through."""
    if gid is not None and gid.address.exploded != _exploded(result.gid):
        yield f"libibverbs reads {result.gid} where sysfs has {gid.address.exploded}; the table changed, run it again"
    if netdev is not None and result.active_mtu_bytes < path_mtu(netdev.mtu):
        expected = min(path_mtu(netdev.mtu), result.max_mtu_bytes)
        if result.active_mtu_bytes < expected:
            yield f"its path MTU is {result.active_mtu_bytes}, the link's MTU {netdev.mtu} allows {expected}"
    elif netdev is not None and result.active_mtu_bytes < result.max_mtu_bytes:
        needed = result.max_mtu_bytes + HEADERS
        yield (
            f"its path MTU is {result.active_mtu_bytes} of {result.max_mtu_bytes}, because the link's MTU is "
            f"{netdev.mtu}; set mtu to {needed} or more here and on the switch"
        )


def _exploded(text: str) -> str:

    return IPv6Address(text).exploded
