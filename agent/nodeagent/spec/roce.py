"""Section `roce` of the node file: how RDMA over Converged Ethernet marks its traffic, and who may see the devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from nodeagent.spec import names
from nodeagent.spec.keys import key
from nodeagent.state.congestion import PARAMETERS


class RoceMode(StrEnum):
    """v2 is UDP and can be routed, v1 is an Ethernet type of its own."""

    V1 = "v1"
    V2 = "v2"


class RdmaNetns(StrEnum):
    """shared: every network namespace sees every RDMA device. exclusive: a device belongs to one."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"


@dataclass(frozen=True)
class Congestion:
    """Congestion control (DCQCN) at run time, where driver and firmware offer it; it is lost at a driver reload, and
    the next pass sets it again.
    """

    cnp_dscp: int | None = key(
        "DSCP of congestion notifications (CNPs); `links[].qos` gives it a priority.",
        default=None,
        minimum=0,
        maximum=63,
        example="48",
    )
    cnp_priority: int | None = key(
        "802.1p priority of congestion notifications.", default=None, minimum=0, maximum=7, example="6"
    )
    ecn: tuple[int, ...] | None = key(
        "Priorities with congestion control, on both ends of a flow; OFED's drivers only.",
        default=None,
        minimum=0,
        maximum=7,
        example="[3]",
    )
    parameters: Mapping[str, int] = key(
        "DCQCN's own parameters by the driver's names, in its units.",
        factory=lambda: MappingProxyType({}),
        example="{rp_ai_rate: 5, np_min_time_between_cnps: 4}",
        minimum=0,
        maximum=2**32 - 1,
        key_pattern=f"^({'|'.join(PARAMETERS)})$",
        key_expected="the name of a parameter such as rp_ai_rate, as debugfs mlx5/ADDRESS/cc_params has it",
    )

    def __hash__(self) -> int:
        """Mappings have no hash, and entries of `roce.devices` are keys of dictionaries."""
        return hash((self.cnp_dscp, self.cnp_priority, self.ecn))


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
    congestion: Congestion | None = key("Congestion control and its notifications.", default=None)


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
