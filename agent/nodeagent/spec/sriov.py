"""`sriov` of the node file: virtual functions of NICs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec import names
from nodeagent.spec.keys import key
from nodeagent.state.devlink import EswitchMode
from nodeagent.state.network import VfLinkState

MAC = r"^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$"
GUID = r"^[0-9a-f]{2}(:[0-9a-f]{2}){7}$"


class VfDriver(StrEnum):
    """Driver of virtual functions: default is the kernel's own for them, vfio-pci gives them to virtual machines."""

    DEFAULT = "default"
    VFIO_PCI = "vfio-pci"


@dataclass(frozen=True)
class SriovEntry:
    """The virtual functions of the physical functions that `match` names; what is left out stays as it is."""

    match: str = key(
        "Which physical functions; as `links[].match`.",
        example="0000:3b:00.0",
        pattern=names.LINK_MATCH,
        expected="a netdev name of at most 15 characters, a pattern such as ens*, driver:NAME, or a PCI address",
        canonical=names.link_match,
    )
    vfs: int = key(
        "Number of virtual functions; another number removes those that are there before it makes new ones.",
        minimum=0,
        maximum=4095,
        example="4",
    )
    driver: VfDriver | None = key("Driver of the virtual functions.", default=None)
    eswitch_mode: EswitchMode | None = key(
        "Mode of the embedded switch; a change removes the virtual functions before it and makes them anew.",
        default=None,
        example="legacy",
    )
    trust: bool | None = key("Whether they may set promiscuous mode and their own MAC address.", default=None)
    spoofchk: bool | None = key("Whether packets with a foreign MAC address are dropped.", default=None)
    link_state: VfLinkState | None = key("auto: that of the port; enable: always up; disable: down.", default=None)
    vlan: int | None = key("VLAN of all virtual functions; 0: none.", default=None, minimum=0, maximum=4094)
    max_rate_mbps: int | None = key(
        "Most bandwidth of each in megabits per second; 0: no limit.", default=None, minimum=0
    )
    macs: tuple[str, ...] = key(
        "MAC addresses of the first, second ... virtual function (Ethernet).",
        default=(),
        example='["02:00:00:00:3b:00", "02:00:00:00:3b:01"]',
        pattern=MAC,
        expected='a unicast MAC address in quotes such as "02:00:00:00:3b:00"',
        canonical=str.lower,
    )
    guids: tuple[str, ...] = key(
        "Node and port GUIDs of the first, second ... virtual function (InfiniBand).",
        default=(),
        example='["02:00:00:00:00:00:3b:00"]',
        pattern=GUID,
        expected='a GUID in quotes such as "02:00:00:00:00:00:3b:00"',
        canonical=str.lower,
    )
