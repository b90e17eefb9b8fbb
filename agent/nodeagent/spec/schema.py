"""The node file's schema: each dataclass is a mapping in the file, each field a key, its metadata the documentation.

The reader, the JSON schema and the reference page are all generated from these definitions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from nodeagent.state.gpu import MigMode


def key(doc: str, *, default: Any = ..., factory: Any = ..., example: str = "", **limits: Any) -> Any:
    """A documented key; `limits` may hold minimum, maximum (numbers) or pattern (text)."""
    metadata = {"doc": doc, "example": example, **limits}
    if factory is not ...:
        return field(default_factory=factory, metadata=metadata)
    if default is not ...:
        return field(default=default, metadata=metadata)
    return field(metadata=metadata)


class Policy(StrEnum):
    """never: leave it and say so. when-idle: only where nothing foreign is in the way or would be disturbed.
    allow: also where something would be disturbed that the kernel lets us disturb. A workload is never killed."""

    NEVER = "never"
    WHEN_IDLE = "when-idle"
    ALLOW = "allow"


class Flavor(StrEnum):
    """Which build of the NVIDIA kernel modules."""

    AUTO = "auto"
    OPEN = "open"
    PROPRIETARY = "proprietary"


class PeerMemory(StrEnum):
    """How NICs reach GPU memory; auto decides by what kernel, driver and RDMA stack offer, and says why."""

    AUTO = "auto"
    DMA_BUF = "dma-buf"
    NVIDIA_PEERMEM = "nvidia_peermem"
    NV_PEER_MEM = "nv_peer_mem"
    NONE = "none"


class RdmaStack(StrEnum):
    """Which RDMA modules: auto takes what modprobe would take."""

    AUTO = "auto"
    INBOX = "inbox"
    OFED = "ofed"


@dataclass(frozen=True)
class Disruption:
    gpu: Policy = key("Steps that need GPUs to be quiet: driver reload, MIG mode change.", default=Policy.WHEN_IDLE)
    nic: Policy = key("Steps that take RDMA NICs or links down.", default=Policy.WHEN_IDLE)
    node: Policy = key("Steps that touch the whole node.", default=Policy.NEVER)


@dataclass(frozen=True)
class NvidiaModules:
    flavor: Flavor = key("open, proprietary, or auto: whichever is installed.", default=Flavor.AUTO)
    uvm: bool = key("Load nvidia_uvm (CUDA needs it).", default=True)
    modeset: bool = key("Load nvidia_modeset.", default=True)
    drm: bool = key("Load nvidia_drm; not wanted on a headless node, where it holds the GPUs.", default=False)
    parameters: Mapping[str, str] = key(
        "Parameters of module nvidia without the NVreg_ prefix, compared with /proc/driver/nvidia/params.",
        factory=lambda: MappingProxyType({}), example="{EnableStreamMemOPs: 1}",
    )


@dataclass(frozen=True)
class RdmaModules:
    stack: RdmaStack = key("Which RDMA stack is meant.", default=RdmaStack.AUTO)
    drivers: tuple[str, ...] = key("NIC driver modules; each brings its RDMA counterpart.", default=("mlx5_core", "mlx5_ib"))
    user_access: bool = key("Load ib_uverbs, rdma_ucm and ib_umad for programs in user space.", default=True)
    ipoib: bool = key("Load ib_ipoib (InfiniBand only).", default=False)


@dataclass(frozen=True)
class NamedModule:
    parameters: Mapping[str, str] = key("Parameters that must be in force.", factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Modules:
    nvidia: NvidiaModules | None = key("The NVIDIA driver.", default=None)
    rdma: RdmaModules | None = key("The RDMA stack.", default=None)
    peermem: PeerMemory = key("GPUDirect RDMA peer memory.", default=PeerMemory.NONE)
    gdrcopy: bool = key("Load gdrdrv.", default=False)
    gds: bool = key("Load nvidia_fs for GPUDirect Storage.", default=False)
    named: Mapping[str, NamedModule] = key("Any other modules that must be loaded, by name.", factory=lambda: MappingProxyType({}))
    absent: tuple[str, ...] = key("Modules that must not be loaded, such as nouveau.", default=())


@dataclass(frozen=True)
class MigEntry:
    mode: MigMode = key("enabled or disabled.")
    gpus: str | tuple[str, ...] = key(
        "`all` (every GPU that can do MIG), or a list of indices, UUIDs, PCI addresses or product names.", default="all",
    )
    devices: Mapping[str, int] | None = key(
        "GPU instances per profile; left out: whatever is there stays.", default=None, example="{3g.20gb: 1, 1g.5gb: 4}",
    )


@dataclass(frozen=True)
class LinkEntry:
    match: str = key(
        "Which interfaces: a netdev name or pattern (`ens*`), `driver:mlx5_core`, or a PCI address.", example="driver:mlx5_core",
    )
    up: bool | None = key("Administrative state.", default=None)
    mtu: int | None = key("MTU in bytes.", default=None, minimum=68, maximum=65536)


@dataclass(frozen=True)
class Metrics:
    listen: str = key("Address and port of /metrics; empty: no server.", default="127.0.0.1:9400", pattern=r"^$|^.+:\d+$")


@dataclass(frozen=True)
class Loop:
    interval_seconds: float = key("Time between two passes when nothing happens.", default=300.0, minimum=1, maximum=86400)
    sample_seconds: float = key("Time between two readings of telemetry for /metrics.", default=15.0, minimum=1, maximum=3600)
    backoff_seconds: float = key("First wait after a failure; doubles up to 300 s, with jitter.", default=1.0, minimum=0.05, maximum=300)
    nvml_deadline_seconds: float = key("How long one NVML call may take before its worker is replaced.", default=10.0, minimum=0.05, maximum=600)


@dataclass(frozen=True)
class NodeSpec:
    version: int = key("Version of this format.", minimum=1, maximum=1)
    disruption: Disruption = key("What the agent may disturb.", factory=Disruption)
    modules: Modules | None = key("Kernel modules.", default=None)
    mig: tuple[MigEntry, ...] = key("MIG layout; GPUs that no entry names are left alone.", default=())
    links: tuple[LinkEntry, ...] = key("Network interfaces; those that no entry matches are left alone.", default=())
    services: tuple[str, ...] = key(
        "systemd units, besides the known ones, that the agent may stop and start again around a disruptive step.", default=(),
    )
    metrics: Metrics = key("The metrics server.", factory=Metrics)
    loop: Loop = key("Timing of the supervisor.", factory=Loop)
