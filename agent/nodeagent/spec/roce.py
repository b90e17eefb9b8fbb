# ruff: noqa: RUF009 - key() makes a dataclass field, as dataclasses.field() does
"""Section `roce` of the node file: how RDMA over Converged Ethernet marks its traffic, and who may see the devices."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec import names
from nodeagent.spec.keys import key


class RoceMode(StrEnum):
    """v2 is UDP and can be routed, v1 is an Ethernet type of its own."""

    V1 = "v1"
    V2 = "v2"


class RdmaNetns(StrEnum):
    """shared: every network namespace sees every RDMA device. exclusive: a device belongs to one."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True)
class RoceEntry:
    """What the Ethernet ports of the RDMA devices that `match` names shall be; what is left out stays as it is."""

    match: str = key(
        "Which RDMA devices, in the words of `links[].match`.",
        example='"rail:*"',
        pattern=names.LINK_MATCH,
        expected=names.LINK_MATCH_EXPECTED,
        canonical=names.link_match,
    )
    mode: RoceMode | None = key("RoCE mode of new connections through rdma_cm.", default=None, example="v2")
    tos: int | None = key(
        "Type of service of new connections through rdma_cm: DSCP times 4, plus 2 for ECN; 106 is DSCP 26 with ECN.",
        default=None,
        minimum=0,
        maximum=255,
        example="106",
    )
    traffic_class: int | None = key(
        "Traffic class forced on all queue pairs, in the numbers of `tos`, 0 for none; OFED's drivers only.",
        default=None,
        minimum=0,
        maximum=255,
        example="106",
    )
    name: str = key(
        "Name of the device; {rail} stands for its rail, {netdev} for its interface. Empty: it keeps its name.",
        default="",
        example='"mlx5_{rail}"',
        pattern=r"^$|^([A-Za-z0-9_.-]|\{rail\}|\{netdev\}){1,63}$",
        expected="letters, digits, _ . - and the blanks {rail} and {netdev}",
    )


@dataclass(frozen=True)
class Roce:
    """RoCE settings of RDMA devices."""

    devices: tuple[RoceEntry, ...] = key("Settings by device; a device is matched by one entry at most.", default=())
    netns: RdmaNetns | None = key(
        "Whether RDMA devices are shared between network namespaces; changes only while there is no other namespace.",
        default=None,
        example="shared",
    )
    user_access: bool = key(
        "Keep the nodes uverbsN and rdma_cm open to every user (mode 0666), as the kernel makes them.", default=False
    )
