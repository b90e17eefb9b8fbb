"""Which entry of a GID table RoCE v2 traffic should use: chosen by what it says, never by its number; pure.

Slots move: one that is freed goes to the next address that comes, of whichever VLAN (roce_gid_mgmt.c). Drivers order
them differently: on mlx5 a RoCE v1 entry stands before each v2 entry, rxe has v2 entries only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nodeagent.state.gids import ROCE_V2, Family, Gid


@dataclass(frozen=True)
class GidChoice:
    """The entry for an interface, None where there is none; `reason` says why this one, or what is missing."""

    netdev: str
    gid: Gid | None
    reason: str


def choose_gid(gids: Sequence[Gid], netdev: str, family: Family | None = None) -> GidChoice:
    """The RoCE v2 entry of the interface: its first IPv4 address, else its first IPv6 address that is not link-local.

    With `family` only that one is taken. A link-local GID is never offered: it leads nowhere beyond the link.
    """
    mine = [gid for gid in gids if gid.netdev == netdev]
    usable = [gid for gid in mine if gid.kind == ROCE_V2 and not gid.is_link_local]
    for wanted in (family,) if family is not None else (Family.IPV4, Family.IPV6):
        found = [gid for gid in usable if gid.family is wanted]
        if found:
            return GidChoice(netdev, found[0], _reason(found, wanted, family))
    return GidChoice(netdev, None, _missing(mine, netdev, family))


def _reason(found: Sequence[Gid], family: Family, asked: Family | None) -> str:
    more = f", the first of {len(found)} addresses" if len(found) > 1 else ""
    instead = ", because the interface has no IPv4 address" if family is Family.IPV6 and asked is None else ""
    return f"RoCE v2 with {'IPv4' if family is Family.IPV4 else 'IPv6'} address {found[0].text}{more}{instead}"


def _missing(mine: Sequence[Gid], netdev: str, family: Family | None) -> str:
    wanted = "IPv6" if family is Family.IPV6 else "IPv4"
    if not mine:
        return f"{netdev or 'the port'} has no entry: it is down, or not an interface of this port"
    if all(gid.kind != ROCE_V2 for gid in mine):
        return f"{netdev} has no RoCE v2 entry: the device only does RoCE v1"
    if all(gid.is_link_local for gid in mine):
        return f"{netdev} has link-local entries only; give it an {wanted} address"
    return f"{netdev} has no {wanted} address"


def choices(gids: Sequence[Gid], family: Family | None = None) -> tuple[GidChoice, ...]:
    """A choice for every interface in the table: the port's own, its VLANs and macvlans, by name."""
    return tuple(choose_gid(gids, netdev, family) for netdev in sorted({gid.netdev for gid in gids if gid.netdev}))
