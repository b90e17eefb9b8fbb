"""PCI functions, network interfaces and RDMA devices as sysfs shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from nodeagent.state.link_settings import SettingsState
from nodeagent.state.qos import DcbState

DEFAULT_ROUTE = "default route"  # among an interface's uses


class VfLinkState(StrEnum):
    """Link state of a virtual function as the physical function's driver shows it to it (IFLA_VF_LINK_STATE)."""

    AUTO = "auto"
    ENABLE = "enable"
    DISABLE = "disable"


class VfSetting(StrEnum):
    """One setting of a virtual function that is written by itself; the comment says what its value holds."""

    MAC = "mac"  # (text,)
    VLAN = "vlan"  # (id, priority)
    SPOOFCHK = "spoofchk"  # (0 or 1,)
    TRUST = "trust"  # (0 or 1,)
    LINK_STATE = "link state"  # (auto, enable or disable,)
    RATE = "rate"  # (least, most) in megabits per second
    NODE_GUID = "node guid"  # (text,)
    PORT_GUID = "port guid"  # (text,)


@dataclass(frozen=True)
class VirtualFunction:
    """What a physical function's driver keeps for one of its virtual functions (IFLA_VF_INFO); None: not offered.

    Rates are in megabits per second, 0 for no limit. GUIDs are empty where they are not set.
    """

    index: int
    mac: str = ""
    vlan: int = 0
    vlan_priority: int = 0
    spoofchk: bool | None = None
    trust: bool | None = None
    link_state: VfLinkState | None = None
    min_rate_mbps: int = 0
    max_rate_mbps: int = 0
    node_guid: str = ""
    port_guid: str = ""

    def value(self, setting: VfSetting) -> tuple[int | str, ...] | None:
        """The setting's value in the form in which it is written, None where the driver does not offer it."""
        switches = {VfSetting.SPOOFCHK: self.spoofchk, VfSetting.TRUST: self.trust}
        if setting in switches:
            switch = switches[setting]
            return None if switch is None else (int(switch),)
        if setting is VfSetting.LINK_STATE:
            return None if self.link_state is None else (self.link_state.value,)
        texts = {VfSetting.MAC: self.mac, VfSetting.NODE_GUID: self.node_guid, VfSetting.PORT_GUID: self.port_guid}
        if setting in texts:
            return (texts[setting],)
        pairs = {
            VfSetting.VLAN: (self.vlan, self.vlan_priority),
            VfSetting.RATE: (self.min_rate_mbps, self.max_rate_mbps),
        }
        return pairs[setting]


@dataclass(frozen=True)
class PciFunction:
    """One PCI function; `address` is 0000:3b:00.0, ids are lower-case hex without prefix, `numa_node` -1 if unknown.

    `path` leads from the root bus (pci0000:3a) over every bridge to the function itself; empty if it is not known.
    """

    address: str
    vendor: str
    device: str
    class_code: str
    driver: str = ""
    driver_override: str = ""
    numa_node: int = -1
    iommu_group: str = ""
    path: tuple[str, ...] = ()
    is_vf: bool = False
    vfio_minor: int = -1  # of /dev/vfio/GROUP while vfio-pci has it
    physfn: str = ""  # of a virtual function: the physical function's address
    total_vfs: int = 0
    vf_addresses: tuple[str, ...] = ()


@dataclass(frozen=True)
class Netdev:
    """A network interface backed by a PCI function or a software device (then `pci_address` is empty).

    `up` is the administrative flag, `carrier` the link; `uses` names what would be disturbed if it went down
    ("default route", "address 10.0.0.1/24"). `dcb` is None where the driver has none; `vfs` are those of a physical
    function; `settings` holds the groups that the node file asks for.
    """

    name: str
    mtu: int
    up: bool
    carrier: bool = False
    mac: str = ""
    pci_address: str = ""
    driver: str = ""
    min_mtu: int = 68
    max_mtu: int = 9978
    uses: tuple[str, ...] = ()
    dcb: DcbState | None = None
    vfs: tuple[VirtualFunction, ...] = ()
    settings: SettingsState = field(default_factory=lambda: MappingProxyType({}))


class RdmaObject(StrEnum):
    """What a program can have on an RDMA device, as RDMA netlink counts it."""

    CONTEXT = "context"
    QUEUE_PAIR = "queue pair"
    CONNECTION = "connection"
    MEMORY_REGION = "memory region"


@dataclass(frozen=True)
class RdmaHolder:
    """A program with objects on an RDMA device."""

    pid: int
    objects: tuple[tuple[RdmaObject, int], ...]

    def __str__(self) -> str:
        return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in self.objects)


@dataclass(frozen=True)
class RdmaPort:
    """A port of an RDMA device; `state` such as ACTIVE, `active_mtu_bytes` 0 where the kernel does not say.

    `roce_mode` and `roce_tos` are what rdma_cm uses by default, "" and None where that cannot be read.
    `traffic_class` is forced on all queue pairs by drivers that can (OFED), None elsewhere.
    """

    port: int
    state: str
    link_layer: str
    netdev: str = ""
    rate: str = ""
    active_mtu_bytes: int = 0
    counters: tuple[tuple[str, int], ...] = ()
    roce_mode: str = ""
    roce_tos: int | None = None
    traffic_class: int | None = None


@dataclass(frozen=True)
class RdmaDevice:
    """An RDMA device (mlx5_0), known by name and node GUID; `hca_type` is its model (MT4129)."""

    name: str
    node_guid: str
    pci_address: str = ""
    firmware: str = ""
    ports: tuple[RdmaPort, ...] = ()
    board_id: str = ""
    hca_type: str = ""
