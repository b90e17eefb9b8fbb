"""The whole observed node as one immutable value: the only input of planning besides the node file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from nodeagent.state.addressing import Addressing
from nodeagent.state.containers import Containers
from nodeagent.state.devlink import DevlinkDevice
from nodeagent.state.functions import FunctionFacts
from nodeagent.state.gpu import Capability, Gpu, NvidiaDriver
from nodeagent.state.health import Health
from nodeagent.state.link_settings import Group
from nodeagent.state.modules import KernelModule, KernelPolicy, Liveness, ModuleFile
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, RdmaHolder
from nodeagent.state.processes import DeviceNode, Process, Service
from nodeagent.state.topology import PcieNode

ADDRESSING = "addresses, routes and rules"


def settings_of(group: Group) -> str:
    """What `Unknown.what` calls a group of settings."""
    return f"{group} of interfaces"


@dataclass(frozen=True)
class Unknown:
    """Something that could not be read: unlike "absent", nothing may be concluded from it."""

    what: str
    reason: str


@dataclass(frozen=True)
class NodeState:
    """Everything observed in one pass. Mappings are keyed by the thing's identity.

    `module_files` holds the modules the node file asks about, with their dependencies; a name without a file is absent
    from it. `majors` maps a character driver's name in /proc/devices to its major. `loaded_options` is our own record
    of the options given at load, for parameters that cannot be read back. `rdma_netns_shared` is None without an RDMA
    stack. `capabilities` are those of MIG instances by gpuN/giM and gpuN/giM/ciK, N being a device minor.
    `devlink` is read only where the node file asks for it. `nvml_pid` is our NVML worker while it has a
    session open, else None. `link_setups` is what stands on each interface, as (text, what `Links.restore` takes); like
    processes, services and `rdma_holders` it is read only where a step may take it away. `pcie` are GPUs, NICs and the
    bridges above them by PCI address, read only where the node file wants something of them. So are `containers` and
    `addressing`.
    `iommu_groups` are all functions of a group by its number, read only for section sandbox.
    `functions` is filled in by whoever makes offers of network functions, as far as the pools ask for it.
    `offered` are the UUIDs of GPUs and the PCI addresses of functions that this agent offers to pods.
    `rails` are the numbers that NICs, by PCI address, had as rails when more of them were there; empty where the node
    file does not go by rails. `rails_switched` says that these shared PCIe switches with GPUs.
    `gpus_on_record` are the indices that GPUs, by UUID, had when all were there; empty where the node file names
    none by its index.
    `congestion` are those settings of RoCE's congestion control that the node file asks for, by PCI address.
    `health` is what the health checks said last, None where none have run.
    """

    kernel: KernelPolicy = field(default_factory=KernelPolicy)
    modules: Mapping[str, KernelModule] = field(default_factory=lambda: MappingProxyType({}))
    module_files: Mapping[str, ModuleFile] = field(default_factory=lambda: MappingProxyType({}))
    loaded_options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    pci: Mapping[str, PciFunction] = field(default_factory=lambda: MappingProxyType({}))
    driver: NvidiaDriver | None = None
    capabilities: Mapping[str, Capability] = field(default_factory=lambda: MappingProxyType({}))
    gpus: Mapping[str, Gpu] = field(default_factory=lambda: MappingProxyType({}))
    netdevs: Mapping[str, Netdev] = field(default_factory=lambda: MappingProxyType({}))
    link_setups: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=lambda: MappingProxyType({}))
    addressing: Addressing = field(default_factory=Addressing)
    rdma: Mapping[str, RdmaDevice] = field(default_factory=lambda: MappingProxyType({}))
    rails: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    rails_switched: bool = False
    gpus_on_record: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    rdma_netns_shared: bool | None = None
    rdma_holders: Mapping[str, tuple[RdmaHolder, ...]] = field(default_factory=lambda: MappingProxyType({}))
    congestion: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    iommu_groups: Mapping[str, tuple[PciFunction, ...]] = field(default_factory=lambda: MappingProxyType({}))
    pcie: Mapping[str, PcieNode] = field(default_factory=lambda: MappingProxyType({}))
    devlink: Mapping[str, DevlinkDevice] = field(default_factory=lambda: MappingProxyType({}))
    majors: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    device_nodes: Mapping[str, DeviceNode] = field(default_factory=lambda: MappingProxyType({}))
    processes: Mapping[int, Process] = field(default_factory=lambda: MappingProxyType({}))
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}))
    nvml_pid: int | None = None
    offered: frozenset[str] = frozenset()
    containers: Containers = field(default_factory=Containers)
    functions: FunctionFacts = field(default_factory=FunctionFacts)
    health: Health | None = None
    unknown: tuple[Unknown, ...] = ()

    def why_unknown(self, what: str) -> str:
        """The reason why something could not be read, "" where it was."""
        return next((one.reason for one in self.unknown if one.what == what), "")

    def is_loaded(self, name: str) -> bool:
        """Whether the module is in the kernel, loaded or built in."""
        found = self.modules.get(name)
        return found is not None and found.liveness in (Liveness.LIVE, Liveness.BUILTIN)
