"""PCI functions, network interfaces and RDMA devices as sysfs shows them."""

from __future__ import annotations

from dataclasses import dataclass


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


@dataclass(frozen=True)
class Netdev:
    """A network interface backed by a PCI function or a software device (then `pci_address` is empty).

    `up` is the administrative flag, `carrier` the link; `uses` names what would be disturbed if it went down
    ("default route", "address 10.0.0.1/24").
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


@dataclass(frozen=True)
class RdmaPort:
    """A port of an RDMA device; `state` such as ACTIVE, `active_mtu_bytes` 0 where the kernel does not say.

    `roce_mode` and `roce_tos` are what rdma_cm uses by default, "" and None while nobody made its configfs directory.
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
    """An RDMA device (mlx5_0), known by name and node GUID."""

    name: str
    node_guid: str
    pci_address: str = ""
    firmware: str = ""
    ports: tuple[RdmaPort, ...] = ()
