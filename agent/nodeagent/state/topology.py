"""How GPUs and NICs are wired: what each PCIe port on the way says of itself, and how far two functions are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType


class Relation(StrEnum):
    """What lies between two PCI functions, nearest first, in the words of `nvidia-smi topo -m`.

    UNKNOWN stands where the functions hang on different root buses and firmware does not tell their NUMA nodes.
    """

    SELF = "X"
    PIX = "PIX"  # one PCIe switch
    PXB = "PXB"  # several PCIe bridges, no host bridge
    PHB = "PHB"  # a host bridge
    NODE = "NODE"  # two host bridges of one NUMA node
    SYS = "SYS"  # the link between NUMA nodes
    UNKNOWN = "?"

    @property
    def distance(self) -> int:
        """0 is nearest; UNKNOWN counts as far as SYS."""
        order = list(Relation)
        return min(order.index(self), order.index(Relation.SYS))


class PortKind(StrEnum):
    """Device/port type of the PCI Express capability, as far as it matters for a path."""

    ENDPOINT = "endpoint"
    ROOT_PORT = "root port"
    UPSTREAM = "switch upstream port"
    DOWNSTREAM = "switch downstream port"
    OTHER = "other"


@dataclass(frozen=True)
class PcieLink:
    """Speed in GT/s and width in lanes; 0 where sysfs does not say."""

    speed_gts: float = 0.0
    width: int = 0
    max_speed_gts: float = 0.0
    max_width: int = 0


class PcieSetting(StrEnum):
    """One setting of a configuration space that is written by itself; the comment says what its value holds."""

    MAX_READ_REQUEST = "max read request"  # bytes
    RELAXED_ORDERING = "relaxed ordering"  # 0 or 1
    ACS_REDIRECT = "acs redirect"  # the bits of ACS_REDIRECT_BITS as they stand in the register


ACS_REDIRECT_BITS = 0x1C  # request redirect, completion redirect, upstream forwarding (7.7.11.3)


@dataclass(frozen=True)
class PcieConfig:
    """What the configuration space says (PCI Express Base Specification, 7.5.3 and 7.7.11).

    `acs` and `acs_capable` are the ACS control and capability bits, None for a function without ACS. `ids` are vendor
    and device, such as 8086:6f02.
    """

    kind: PortKind
    max_payload_bytes: int
    max_payload_capable_bytes: int
    max_read_request_bytes: int
    relaxed_ordering: bool
    acs: int | None = None
    acs_capable: int | None = None
    ids: str = ""

    def value(self, setting: PcieSetting) -> int | None:
        """The setting in the form in which it is written, None where the function does not have it."""
        if setting is PcieSetting.ACS_REDIRECT:
            return None if self.acs is None else self.acs & ACS_REDIRECT_BITS
        read_request, ordering = self.max_read_request_bytes, int(self.relaxed_ordering)
        return read_request if setting is PcieSetting.MAX_READ_REQUEST else ordering


@dataclass(frozen=True)
class PcieNode:
    """One bridge or function on a path. `config` is None where the space could not be read beyond its first 64 bytes.

    `iommu_type` is the group's domain type: identity, DMA, DMA-FQ, or empty. `silent`: it does not answer any more.
    """

    address: str
    link: PcieLink = PcieLink()
    config: PcieConfig | None = None
    iommu_type: str = ""
    silent: bool = False


@dataclass(frozen=True)
class NvLinks:
    """The active NVLinks of the GPU at `pci_address`: how many lead to each other GPU, and how many to NVSwitches.

    `p2p` is NVML's status of peer-to-peer access over NVLink to each other GPU that answers (nvmlGpuP2PStatus_t).
    """

    pci_address: str
    peers: tuple[tuple[str, int], ...] = ()
    to_switch: int = 0
    p2p: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Topology:
    """Every bridge and function between the root buses and the GPUs and NICs, by PCI address."""

    nodes: Mapping[str, PcieNode] = field(default_factory=lambda: MappingProxyType({}))
