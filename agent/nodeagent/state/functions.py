"""What pools of network functions may ask for besides what every pass reads: indices, partition keys, parts, cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from nodeagent.state.network import PciFunction

UIO_DRIVERS = frozenset({"uio", "igb_uio"})  # sriov-network-device-plugin pkg/factory/factory.go


class Asked(StrEnum):
    """One kind of fact, by the key of the SR-IOV network device plugin's file that asks for it."""

    ACPI_INDEXES = "acpiIndexes"
    PARTITION_KEYS = "pKeys"
    VDPA = "vdpaType"
    AUXILIARY = "auxNetDevice"
    ACCELERATORS = "accelerator"


@dataclass(frozen=True)
class VdpaDevice:
    """A vDPA device; `driver` is vhost_vdpa or virtio_vdpa, "" for none. `node` is that of vhost_vdpa, "" for none."""

    name: str
    driver: str = ""
    node: str = ""


@dataclass(frozen=True)
class AuxiliaryDevice:
    """A part of a function with a device of its own, such as mlx5_core.sf.2: `kind` is sf, `number` the one that the
    administrator gave it (sfnum), -1 for none; `parent` the function's PCI address.
    """

    name: str
    parent: str
    kind: str
    number: int = -1
    driver: str = ""
    netdev: str = ""
    rdma: str = ""


@dataclass(frozen=True)
class FunctionFacts:
    """Keyed by PCI address but for `auxiliary`, which is by name. `partition_keys` are those at index 0, `uio` device
    nodes of functions with one of UIO_DRIVERS.
    """

    acpi_indexes: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    partition_keys: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    vdpa: Mapping[str, VdpaDevice] = field(default_factory=lambda: MappingProxyType({}))
    auxiliary: Mapping[str, AuxiliaryDevice] = field(default_factory=lambda: MappingProxyType({}))
    accelerators: Mapping[str, PciFunction] = field(default_factory=lambda: MappingProxyType({}))
    uio: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
