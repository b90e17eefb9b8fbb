"""What one rendering sees, and the label sets that its lines share."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.metrics.attribution import Device, user_labels
from nodeagent.metrics.dcgm_labels import DRIVER_LABEL, NEW_DRIVER_LABEL, version_labels
from nodeagent.metrics.exposition import labels
from nodeagent.metrics.options import DcgmNames, HostLabel, Options
from nodeagent.metrics.tally import NO_TALLY, GpuTally
from nodeagent.metrics.topology import RailLabels, rails
from nodeagent.state.health import Health
from nodeagent.state.proofs import Validation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.metrics.facts import AgentFacts
    from nodeagent.state.gpu import GpuSample
    from nodeagent.state.network import RdmaPort
    from nodeagent.state.node import NodeState
    from nodeagent.state.pods import PodFacts
    from nodeagent.state.topology import NvLinks


@dataclass(frozen=True)
class View:
    """Everything that is shown. Label sets are made once per device and rendering, not once per line.

    `now` is Unix time. `jobs` maps a mapping file's name to the job ids in it; `statistics` maps an interface to what
    its driver counts (ethtool -S). `pods` is None without a kubelet. `gid_indexes` are those of the GIDs for RoCE v2,
    by (RDMA device, port). `nvlinks` are read only where a list of counters has something that follows from them.
    """

    node: NodeState
    samples: tuple[GpuSample, ...]
    agent: AgentFacts
    now: float
    options: Options = field(default_factory=Options)
    tallies: Mapping[str, GpuTally] = field(default_factory=lambda: MappingProxyType({}))
    jobs: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    statistics: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    pods: PodFacts | None = None
    health: Health = field(default_factory=Health)
    validation: Validation = field(default_factory=Validation)
    gid_indexes: Mapping[tuple[str, int], int] = field(default_factory=lambda: MappingProxyType({}))
    nvlinks: tuple[NvLinks, ...] = ()

    @cached_property
    def known_samples(self) -> tuple[GpuSample, ...]:
        """Samples of GPUs the last observation does not know have no labels to stand under and are left out."""
        return tuple(sample for sample in self.samples if sample.uuid in self.node.gpus)

    def tally_of(self, uuid: str) -> GpuTally:
        return self.tallies.get(uuid, NO_TALLY)

    def gpu_identity(self, uuid: str) -> dict[str, str]:
        """The few labels by which our own families name a GPU."""
        return {"gpu": str(self.node.gpus[uuid].index), "UUID": uuid}

    @cached_property
    def own_labels(self) -> Mapping[str, str]:
        """The label set of our own families for each GPU, by UUID."""
        return {uuid: labels(**self.gpu_identity(uuid)) for uuid in self.node.gpus}

    @cached_property
    def gpu_labels(self) -> Mapping[str, str]:
        """dcgm-exporter's label set of each GPU, by UUID."""
        return {uuid: self._dcgm_labels(Device(gpu)) for uuid, gpu in self.node.gpus.items()}

    @cached_property
    def instance_labels(self) -> Mapping[tuple[str, int], str]:
        """dcgm-exporter's label set of each GPU instance, by UUID of the GPU and instance id."""
        return {
            (uuid, instance.gi_id): self._dcgm_labels(Device(gpu, instance))
            for uuid, gpu in self.node.gpus.items()
            for instance in gpu.instances
        }

    def _dcgm_labels(self, device: Device) -> str:
        """In dcgm-exporter's order; its PCI address has an eight-digit upper-case domain."""
        gpu, instance = device.gpu, device.instance
        pairs = {
            "gpu": str(gpu.index),
            "UUID": gpu.uuid,
            "pci_bus_id": f"0000{gpu.pci_address}".upper(),
            "device": f"nvidia{gpu.minor}",
            "modelName": gpu.product,
            "GPU_I_PROFILE": instance.profile if instance else "",
            "GPU_I_ID": str(instance.gi_id) if instance else "",
        }
        driver = self.node.driver
        if self.options.host_label is not HostLabel.NONE:
            pairs[self.options.host_label.value] = self.agent.hostname
        pairs |= version_labels(gpu, driver.version if driver else "", self._version_labels)
        return labels(**pairs, **user_labels(device, self.node.processes, self.jobs, self.pods))

    @cached_property
    def _version_labels(self) -> frozenset[str]:
        """What a list asks for; else the driver's version, whose label has two names as families do."""
        families, names = self.options.families, self.options.dcgm_names
        both = {DcgmNames.OLD: DRIVER_LABEL, DcgmNames.NEW: NEW_DRIVER_LABEL}
        if families is not None:
            return families
        return frozenset(both.values() if names is DcgmNames.BOTH else (both[names],))

    @cached_property
    def rails(self) -> Mapping[str, RailLabels]:
        """Where each RDMA device stands, by its name."""
        return rails(self.node)

    @cached_property
    def ports(self) -> tuple[tuple[str, str, RdmaPort], ...]:
        """(device, label set, port) of every RDMA port."""
        return tuple(
            (device.name, self._port_labels(device.name, device.pci_address, port), port)
            for device in sorted(self.node.rdma.values(), key=lambda device: natural(device.name))
            for port in device.ports
        )

    def _port_labels(self, device: str, pci_address: str, port: RdmaPort) -> str:
        rail = self.rails[device]
        return labels(
            device=device,
            port=str(port.port),
            netdev=port.netdev,
            pci_bus_id=pci_address,
            rail=rail.number,
            gpu=rail.gpu,
        )


def natural(name: str) -> tuple[str, int]:
    """Sorts mlx5_10 behind mlx5_9."""
    digits = len(name) - len(name.rstrip("0123456789"))
    return (name[:-digits], int(name[-digits:])) if digits else (name, -1)
