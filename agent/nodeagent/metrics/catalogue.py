"""Every metric of the agent: what it is called, what it means, and how it follows from what was observed.

The DCGM_FI_ names, units and labels are those of dcgm-exporter's default counters, so that its dashboards work. Names
that begin with nodeagent_ are in base units. Source: NVIDIA/dcgm-exporter etc/default-counters.csv, nvml.h.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.metrics.exposition import Family, Kind, labels
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nodeagent.metrics.facts import AgentFacts
    from nodeagent.state.gpu import Gpu, GpuSample
    from nodeagent.state.network import Netdev, RdmaPort
    from nodeagent.state.node import NodeState

    Samples = Iterable[tuple[str, float]]

_MIB = 1024 * 1024


@dataclass(frozen=True)
class GpuMetric(Family):
    """One value per GPU sample, None where the GPU does not have it; the unit is DCGM's."""

    unit: str
    value: Callable[[GpuSample], float | None]


@dataclass(frozen=True)
class View:
    """What one rendering sees."""

    node: NodeState
    samples: tuple[GpuSample, ...]
    agent: AgentFacts
    now: float


@dataclass(frozen=True)
class NodeMetric(Family):
    """A family whose samples follow from the whole view."""

    samples: Callable[[View], Samples]


def _mib(size_bytes: int | None) -> int | None:
    return None if size_bytes is None else size_bytes // _MIB


def _watts(power_milliwatts: int | None) -> float | None:
    return None if power_milliwatts is None else power_milliwatts / 1000


GPU_METRICS: tuple[GpuMetric, ...] = (
    GpuMetric("DCGM_FI_DEV_SM_CLOCK", Kind.GAUGE, "SM clock frequency (in MHz).", "MHz", lambda s: s.sm_clock_mhz),
    GpuMetric(
        "DCGM_FI_DEV_MEM_CLOCK", Kind.GAUGE, "Memory clock frequency (in MHz).", "MHz", lambda s: s.memory_clock_mhz
    ),
    GpuMetric("DCGM_FI_DEV_GPU_TEMP", Kind.GAUGE, "GPU temperature (in C).", "C", lambda s: s.temperature_celsius),
    GpuMetric("DCGM_FI_DEV_POWER_USAGE", Kind.GAUGE, "Power draw (in W).", "W", lambda s: _watts(s.power_milliwatts)),
    GpuMetric(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        Kind.COUNTER,
        "Total energy consumption since the driver was loaded (in mJ).",
        "mJ",
        lambda s: s.energy_millijoules,
    ),
    GpuMetric("DCGM_FI_DEV_GPU_UTIL", Kind.GAUGE, "GPU utilization (in %).", "%", lambda s: s.utilization_gpu_percent),
    GpuMetric(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        Kind.GAUGE,
        "Share of time with memory traffic (in %).",
        "%",
        lambda s: s.utilization_memory_percent,
    ),
    GpuMetric("DCGM_FI_DEV_FB_FREE", Kind.GAUGE, "Memory free (in MiB).", "MiB", lambda s: _mib(s.memory_free_bytes)),
    GpuMetric("DCGM_FI_DEV_FB_USED", Kind.GAUGE, "Memory used (in MiB).", "MiB", lambda s: _mib(s.memory_used_bytes)),
    GpuMetric(
        "DCGM_FI_DEV_FB_RESERVED",
        Kind.GAUGE,
        "Memory reserved by the driver (in MiB).",
        "MiB",
        lambda s: _mib(s.memory_reserved_bytes),
    ),
)


def gpu_labels(gpu: Gpu, view: View) -> str:
    """The label set of dcgm-exporter's GPU lines; its PCI address has an eight-digit upper-case domain."""
    driver = view.node.driver
    return labels(
        gpu=str(gpu.index),
        UUID=gpu.uuid,
        pci_bus_id=f"0000{gpu.pci_address}".upper(),
        device=f"nvidia{gpu.minor}",
        modelName=gpu.product,
        Hostname=view.agent.hostname,
        DCGM_FI_DRIVER_VERSION=driver.version if driver else "",
    )


def _gpu_up(view: View) -> Samples:
    """1 for a GPU that answers; 0 for one that is lost or fenced off, which has no other line."""
    failed = {fault.uuid for fault in view.agent.gpu_faults}
    answered = {sample.uuid for sample in view.samples}
    for uuid in sorted(failed | answered | set(view.node.gpus)):
        yield labels(UUID=uuid), uuid not in failed and (not answered or uuid in answered)


def _gpu_info(view: View) -> Samples:
    return ((gpu_labels(gpu, view), 1) for gpu in view.node.gpus.values())


def _mig_capable(view: View) -> Iterator[Gpu]:
    return (gpu for gpu in view.node.gpus.values() if gpu.mig_mode is not MigMode.UNSUPPORTED)


def _mig_mode(view: View) -> Samples:
    return ((labels(UUID=gpu.uuid), gpu.mig_mode is MigMode.ENABLED) for gpu in _mig_capable(view))


def _mig_mode_pending(view: View) -> Samples:
    return ((labels(UUID=gpu.uuid), gpu.pending_mig_mode is MigMode.ENABLED) for gpu in _mig_capable(view))


def _mig_instances(view: View) -> Samples:
    """A zero for each profile the board offers, so that a vanished instance is a change and not a gap."""
    for gpu in _mig_capable(view):
        counts = dict.fromkeys((profile.name for profile in gpu.profiles), 0)
        for instance in gpu.instances:
            counts[instance.profile] = counts.get(instance.profile, 0) + 1
        for profile, count in counts.items():
            yield labels(UUID=gpu.uuid, profile=profile), count


def _module_loaded(view: View) -> Samples:
    """The modules the node file asks about; all that are loaded where it asks about none."""
    node = view.node
    for name in sorted(node.module_files or node.modules):
        loaded = node.modules.get(name)
        version, srcversion = (loaded.version, loaded.srcversion) if loaded else ("", "")
        yield labels(module=name, version=version, srcversion=srcversion), node.is_loaded(name)


def _netdev_metric(value: Callable[[Netdev], float]) -> Callable[[View], Samples]:
    """Interfaces on PCI functions and those below an RDMA port, not the many that containers bring and take."""

    def samples(view: View) -> Samples:
        below_rdma = {port.netdev for device in view.node.rdma.values() for port in device.ports}
        for netdev in view.node.netdevs.values():
            if netdev.pci_address or netdev.name in below_rdma:
                yield labels(netdev=netdev.name, pci_address=netdev.pci_address), value(netdev)

    return samples


def _rdma_ports(view: View) -> Iterator[tuple[str, RdmaPort]]:
    for device in view.node.rdma.values():
        for port in device.ports:
            yield labels(device=device.name, port=str(port.port), netdev=port.netdev), port


def _rdma_port_up(view: View) -> Samples:
    return ((label_set, port.state.rpartition(" ")[2] == "ACTIVE") for label_set, port in _rdma_ports(view))


def _rdma_port_mtu(view: View) -> Samples:
    return ((label_set, port.active_mtu_bytes) for label_set, port in _rdma_ports(view) if port.active_mtu_bytes)


_FOUR_BYTE_WORDS = {  # Documentation/ABI/stable/sysfs-class-infiniband: counted in 32-bit words
    "port_xmit_data": "transmitted_bytes",
    "port_rcv_data": "received_bytes",
}


def rdma_counters(view: View) -> Iterator[tuple[Family, Samples]]:
    """A counter family for each name that any RDMA port has; which ones there are depends on the NIC's driver."""
    found: dict[str, list[tuple[str, float]]] = {}
    for label_set, port in _rdma_ports(view):
        for name, value in port.counters:
            found.setdefault(name, []).append((label_set, value * 4 if name in _FOUR_BYTE_WORDS else value))
    for name in sorted(found):
        plain = _FOUR_BYTE_WORDS.get(name) or re.sub(r"\W", "_", name.removeprefix("port_").lower())
        help_text = f"RDMA port counter {name}" + (" (in bytes)." if name in _FOUR_BYTE_WORDS else ".")
        yield Family(f"nodeagent_rdma_port_{plain}_total", Kind.COUNTER, help_text), found[name]


def _own(value: Callable[[AgentFacts], float | None]) -> Callable[[View], Samples]:
    """A single sample of the agent's own, none while there is no value."""

    def samples(view: View) -> Samples:
        found = value(view.agent)
        return () if found is None else (("", found),)

    return samples


def _unit_failures(view: View) -> Samples:
    return ((labels(unit=unit), count) for unit, count in sorted(view.agent.unit_failures.items()))


def _build_info(view: View) -> Samples:
    return ((labels(version=view.agent.version), 1),)


def _simulated(view: View) -> Samples:
    return ((labels(profile=view.agent.simulated), bool(view.agent.simulated)),)


def _gauge(name: str, text: str, samples: Callable[[View], Samples]) -> NodeMetric:
    return NodeMetric(name, Kind.GAUGE, text, samples)


def _counter(name: str, text: str, samples: Callable[[View], Samples]) -> NodeMetric:
    return NodeMetric(name, Kind.COUNTER, text, samples)


NODE_METRICS: tuple[NodeMetric, ...] = (
    _gauge("nodeagent_gpu_up", "Whether the GPU answers; 0: lost, or fenced off after it hung.", _gpu_up),
    _gauge("nodeagent_gpu_info", "The GPUs of the node, always 1.", _gpu_info),
    _gauge("nodeagent_gpu_mig_mode", "Whether MIG is enabled on the GPU.", _mig_mode),
    _gauge("nodeagent_gpu_mig_mode_pending", "MIG mode after the next reset of the GPU.", _mig_mode_pending),
    _gauge("nodeagent_gpu_mig_instances", "GPU instances by profile.", _mig_instances),
    _gauge("nodeagent_module_loaded", "Whether the kernel module is loaded.", _module_loaded),
    _gauge("nodeagent_netdev_up", "Whether the interface is administratively up.", _netdev_metric(lambda n: n.up)),
    _gauge("nodeagent_netdev_carrier", "Whether the interface has a link.", _netdev_metric(lambda n: n.carrier)),
    _gauge("nodeagent_netdev_mtu_bytes", "MTU of the interface.", _netdev_metric(lambda n: n.mtu)),
    _gauge("nodeagent_rdma_port_up", "Whether the RDMA port is active.", _rdma_port_up),
    _gauge("nodeagent_rdma_port_active_mtu_bytes", "MTU in force on the RDMA port.", _rdma_port_mtu),
    _gauge("nodeagent_converged", "Whether the node is as the node file says.", _own(lambda a: a.converged)),
    _gauge("nodeagent_blocked", "Things that stand in the way of planned steps.", _own(lambda a: a.blocked)),
    _gauge("nodeagent_drift_steps", "Steps of the last plan: 0 when nothing differs.", _own(lambda a: a.drift_steps)),
    _gauge("nodeagent_unknown_facts", "Facts that could not be read.", lambda v: (("", len(v.node.unknown)),)),
    _counter("nodeagent_unit_failures_total", "Failures by unit of work.", _unit_failures),
    _counter("nodeagent_passes_total", "Passes of the reconcile loop.", _own(lambda a: a.passes)),
    _gauge("nodeagent_pass_duration_seconds", "Length of the last pass.", _own(lambda a: a.pass_duration_seconds)),
    _gauge(
        "nodeagent_snapshot_timestamp_seconds", "When these values were read (Unix time).", lambda v: (("", v.now),)
    ),
    _gauge("nodeagent_build_info", "Version of the agent, always 1.", _build_info),
    _gauge("nodeagent_simulated", "Whether this is a simulated node, and which.", _simulated),
    _counter("process_cpu_seconds_total", "CPU time of the agent's main process.", _own(lambda a: a.cpu_seconds)),
    _gauge("process_resident_memory_bytes", "Resident memory of the main process.", _own(lambda a: a.resident_bytes)),
    _gauge("process_start_time_seconds", "Start of the main process (Unix time).", _own(lambda a: a.start_seconds)),
)
