"""The node file's schema: each dataclass is a mapping in the file, each field a key, its metadata the documentation.

The reader, the JSON schema, the examples and the reference page are all generated from these definitions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from nodeagent.spec import names
from nodeagent.spec.containers import Cdi, Component, Runtimes
from nodeagent.spec.devlink import DevlinkEntry
from nodeagent.spec.guard import Guard
from nodeagent.spec.health import Health
from nodeagent.spec.keys import absolute_path, key
from nodeagent.spec.kubernetes import Kubernetes
from nodeagent.spec.labels import Labels
from nodeagent.spec.links import LinkEntry
from nodeagent.spec.pcie import Pcie
from nodeagent.spec.remediation import Remediation
from nodeagent.spec.roce import Roce
from nodeagent.spec.sandbox import Sandbox
from nodeagent.spec.sriov import SriovEntry
from nodeagent.spec.validation import Validation
from nodeagent.state.gpu import MigMode

NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})


def parameters(doc: str, *, canonical: Callable[[str], str] = str, note: str = "", example: str = "") -> Any:
    """A key that maps module parameters to values, kept as they are written."""
    return key(
        doc,
        factory=lambda: NO_PARAMETERS,
        example=example,
        pattern=r'^[^"\x00-\x1f]*$',
        expected="a value on one line without double quotes",
        key_pattern=names.PARAMETER,
        key_expected="the name of a parameter",
        key_canonical=canonical,
        key_note=note,
    )


def modules(doc: str, *, default: tuple[str, ...] = ()) -> Any:
    """A key that lists kernel modules; `-` and `_` are the same in a name."""
    return key(
        doc, default=default, pattern=names.MODULE, expected="the name of a kernel module", canonical=names.module_name
    )


class Policy(StrEnum):
    """never: leave it and say so. when-idle: only where nothing foreign is in the way or would be disturbed.
    allow: also where something would be disturbed that the kernel lets us disturb. A workload is never killed.
    """

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
    """What the agent may disturb, by kind."""

    gpu: Policy = key("Steps that need GPUs to be quiet: driver reload, MIG mode change.", default=Policy.WHEN_IDLE)
    nic: Policy = key("Steps that take RDMA NICs or links down.", default=Policy.WHEN_IDLE)
    node: Policy = key("Steps that touch the whole node.", default=Policy.NEVER)


@dataclass(frozen=True)
class NvidiaModules:
    """The NVIDIA driver's modules; `nvidia: {}` takes every default."""

    manage: Component = key(
        "Whose job they are, and gdrcopy, gds and peermem with them; auto: the agent's, unless the GPU Operator has "
        "its driver container here (seen with `labels.follow`). What is loaded already is adopted in any case.",
        default=Component.AUTO,
    )
    flavor: Flavor = key("open, proprietary, or auto: whichever is installed.", default=Flavor.AUTO)
    uvm: bool = key("Load nvidia_uvm (CUDA needs it).", default=True)
    modeset: bool = key("Load nvidia_modeset.", default=True)
    drm: bool = key("Load nvidia_drm; not wanted on a headless node, where it holds the GPUs.", default=False)
    reload_on_update: bool = key(
        "Reload the driver when the modules on disk are another build than those loaded; else it is only said.",
        default=False,
    )
    parameters: Mapping[str, str] = parameters(
        "Parameters of module nvidia without the NVreg_ prefix, compared with /proc/driver/nvidia/params.",
        canonical=names.nvidia_parameter,
        note="the NVreg_ prefix is not needed",
        example="{EnableStreamMemOPs: 1}",
    )


@dataclass(frozen=True)
class RdmaModules:
    """The RDMA stack's modules; `rdma: {}` takes every default."""

    stack: RdmaStack = key("Which RDMA stack is meant.", default=RdmaStack.AUTO)
    drivers: tuple[str, ...] = modules(
        "NIC driver modules; each brings its RDMA counterpart.", default=("mlx5_core", "mlx5_ib")
    )
    user_access: bool = key("Load ib_uverbs, rdma_ucm and ib_umad for programs in user space.", default=True)
    ipoib: bool = key("Load ib_ipoib (InfiniBand only).", default=False)


@dataclass(frozen=True)
class NamedModule:
    """One module by name; `NAME: {}` only wants it loaded."""

    parameters: Mapping[str, str] = parameters("Parameters that must be in force.", example="{parameter: value}")


@dataclass(frozen=True)
class Modules:
    """Kernel modules by what they are for; order of loading and dependencies are the agent's business."""

    nvidia: NvidiaModules | None = key("The NVIDIA driver.", default=None)
    rdma: RdmaModules | None = key("The RDMA stack.", default=None)
    peermem: PeerMemory = key("GPUDirect RDMA peer memory.", default=PeerMemory.NONE)
    gdrcopy: bool = key("Load gdrdrv.", default=False)
    gds: bool = key("Load nvidia_fs for GPUDirect Storage.", default=False)
    named: Mapping[str, NamedModule] = key(
        "Any other modules that must be loaded, by name.",
        factory=lambda: MappingProxyType({}),
        example="{br_netfilter: {}}",
        key_pattern=names.MODULE,
        key_expected="the name of a kernel module",
        key_canonical=names.module_name,
    )
    absent: tuple[str, ...] = modules("Modules that must not be loaded, such as nouveau.")


class MigDrift(StrEnum):
    """repair: a layout that is not as the file says is put right. report: it is only said, and `nodeagent mig apply`
    puts it right.
    """

    REPAIR = "repair"
    REPORT = "report"


@dataclass(frozen=True)
class MigInstance:
    """One GPU instance; what is left out the agent chooses."""

    profile: str = key(
        "Profile of the GPU instance, as for `devices`.",
        example="3g.20gb",
        pattern=names.MIG_PROFILE,
        expected="a GPU instance profile such as 3g.20gb, or 3g",
    )
    start: int | None = key(
        "First memory slice; left out: wherever it fits.", default=None, minimum=0, maximum=63, example="4"
    )
    compute: Mapping[str, int] = key(
        "Compute instances by width; {}: one that fills the GPU instance.",
        factory=lambda: MappingProxyType({}),
        example="{1c: 1, 2c: 1}",
        minimum=0,
        maximum=8,
        key_pattern=names.MIG_WIDTH,
        key_expected="a width in compute slices such as 1c",
    )


@dataclass(frozen=True)
class MigEntry:
    """The MIG layout of some GPUs; a GPU is named by one entry at most.

    Profiles are named as the driver names them (`nodeagent mig profiles`), or by shape: `3g` has three compute slices,
    whatever the memory, `1g.double` is the one-slice profile with more memory, `+me`, `+gfx`, `+me.all` and `-me` as
    the driver has them. `1c.3g.20gb` is a compute instance of one slice; several share a GPU instance.
    """

    mode: MigMode | None = key(
        "Whether the GPUs are divided: enabled or disabled; needed unless `layout` says it.",
        default=None,
        choices=("enabled", "disabled"),
        example="enabled",
    )
    gpus: str | tuple[str, ...] = key(
        "`all` (every GPU that can do MIG), or a list of indices, UUIDs, PCI addresses or product names.",
        default="all",
        example="[0, 1]",
        word="all",
        least_items=1,
        pattern=names.GPU_SELECTOR,
        expected="an index, a UUID such as GPU-4d5bd23c-11a1-31b8-9b5c-0f7b1d2f7a10, a PCI address or a product name",
        canonical=names.gpu_selector,
    )
    devices: Mapping[str, int] | None = key(
        "MIG devices per profile, wherever they fit; {}: none; left out: whatever is there stays.",
        default=None,
        example="{3g.20gb: 1, 1g.5gb: 4}",
        minimum=0,
        maximum=64,
        key_pattern=names.MIG_PROFILE,
        key_expected="a profile such as 3g.20gb, 1g.5gb+me, 1c.3g.20gb, or 3g",
    )
    instances: tuple[MigInstance, ...] | None = key(
        "Instead of `devices`: GPU instances one by one, with their places and compute instances.",
        default=None,
        example="[{profile: 3g.20gb, start: 4}]",
    )
    layout: str | None = key(
        "Instead of `devices`: all-disabled, all-enabled, all-balanced, or all-PROFILE for as many as fit; "
        "`nodeagent mig profiles` lists them.",
        default=None,
        example="all-balanced",
        pattern=names.MIG_LAYOUT,
        expected="a layout such as all-balanced or all-1g.5gb",
    )
    drift: MigDrift = key("What the agent does about a layout that is not as the file says.", default=MigDrift.REPAIR)


@dataclass(frozen=True)
class Metrics:
    """The HTTP server for /metrics."""

    listen: str = key(
        "Address and port of /metrics; empty: no server.",
        default="127.0.0.1:9400",
        pattern=r"^$|^([^\s\[\]:]+|\[[0-9a-fA-F:.]+\]):\d{1,5}$",
        expected='ADDRESS:PORT such as 127.0.0.1:9400 or "[::]:9400", or "" for no server',
    )
    web_config_file: str = absolute_path(
        "TLS, client certificates and passwords for the server, in the Prometheus exporter toolkit's format.",
        example='"/etc/nodeagent/web.yaml"',
        last_slash=True,
    )
    textfile: str = absolute_path(
        "Also write the text here, for the textfile collector of node_exporter; the name should end in .prom.",
        example='"/var/lib/prometheus/node-exporter/nodeagent.prom"',
        last_slash=True,
    )
    counters_file: str = absolute_path(
        "dcgm-exporter's list of counters (CSV) to show instead of the usual ones; read again when it changes.",
        example='"/etc/dcgm-exporter/default-counters.csv"',
        last_slash=True,
    )
    job_mapping_dir: str = absolute_path(
        "Directory in which a batch system says which job is on which GPU, as dcgm-exporter's HPC job mapping.",
        example='"/var/run/nodeagent-jobs"',
        last_slash=True,
    )
    dcgm: Component = key(
        "GPUs under the names of dcgm-exporter (DCGM_FI_…); auto: unless the GPU Operator runs dcgm-exporter here "
        "(seen with `labels.follow`), so that nothing is counted twice.",
        default=Component.AUTO,
    )
    host_label: str = key(
        "Label with the host's name on DCGM families; dcgm-exporter wrote Hostname before 4.8.3, hostname since.",
        default="Hostname",
        choices=("Hostname", "hostname", "none"),
    )
    instance_copies: bool = key(
        "Repeat values of a whole GPU on each of its instances, as dcgm-exporter does; sums then count them often.",
        default=False,
    )
    node_exporter_names: bool = key(
        "RDMA counters also under the names of node_exporter's infiniband collector.", default=False
    )
    operator_names: bool = key(
        "Also the families of the GPU operator's node-status-exporter, as far as the agent knows them.", default=False
    )
    dcgm_names: str = key(
        "Names and units of DCGM families: dcgm-exporter changed both with 4.9. counters_file may name either.",
        default="until-4.8",
        choices=("until-4.8", "from-4.9", "both"),
    )
    otlp_endpoint: str = key(
        "Also push every reading to this OTLP/HTTP receiver; needs nodeagent[otlp].",
        default="",
        pattern=r"^$|^https?://\S+$",
        expected='an address such as http://collector:4318/v1/metrics, or "" for none',
    )
    pod_resources_socket: str = key(
        "The kubelet's pod-resources socket, for the labels namespace, pod and container; empty: its usual place, if "
        "there is one. Needs nodeagent[kubernetes].",
        default="",
        pattern=r"^$|^none$|^/\S*$",
        expected='an absolute path, "" for the usual place, or none',
    )


@dataclass(frozen=True)
class Loop:
    """Timing of the supervisor; all in seconds."""

    interval_seconds: float = key(
        "Time between two passes when nothing happens.", default=300.0, minimum=1, maximum=86400
    )
    sample_seconds: float = key(
        "Time between two readings of telemetry for /metrics.", default=15.0, minimum=1, maximum=3600
    )
    backoff_seconds: float = key(
        "First wait after a failure; doubles up to 300 s, with jitter.", default=1.0, minimum=0.05, maximum=300
    )
    nvml_deadline_seconds: float = key(
        "How long one NVML call may take before its worker is replaced.", default=10.0, minimum=0.05, maximum=600
    )


@dataclass(frozen=True)
class NodeSpec:
    """The whole file: only `version` is required, and what the file does not mention is left alone."""

    version: int = key("Version of this format.", minimum=1, maximum=1, example="1")
    disruption: Disruption = key("What the agent may disturb.", factory=Disruption)
    modules: Modules | None = key("Kernel modules.", default=None)
    mig: tuple[MigEntry, ...] = key("MIG layout; GPUs that no entry names are left alone.", default=())
    links: tuple[LinkEntry, ...] = key("Network interfaces; those that no entry matches are left alone.", default=())
    guard: Guard = key("Interfaces that must not be lost.", factory=Guard)
    pcie: Pcie | None = key("PCI Express settings of NICs and the bridges above them.", default=None)
    roce: Roce | None = key("RoCE settings of RDMA devices; what it does not mention is left alone.", default=None)
    devlink: tuple[DevlinkEntry, ...] = key(
        "devlink parameters of NIC drivers; those that no entry names are left alone.", default=()
    )
    sriov: tuple[SriovEntry, ...] = key(
        "Virtual functions of NICs (SR-IOV); physical functions that no entry matches are left alone.", default=()
    )
    sandbox: Sandbox | None = key("GPUs and NICs for virtual machines (VFIO).", default=None)
    cdi: Cdi | None = key("CDI specifications: how containers get GPUs and RDMA devices.", default=None)
    runtimes: Runtimes | None = key("Container runtimes.", default=None)
    labels: Labels | None = key("Node labels.", default=None)
    kubernetes: Kubernetes | None = key("Device plugins for the kubelet.", default=None)
    services: tuple[str, ...] = key(
        "systemd units, besides the known ones, that the agent may stop and start again around a disruptive step.",
        default=(),
        example="[dcgm-collector.service]",
        pattern=names.UNIT,
        expected="the name of a systemd unit such as nvidia-dcgm.service",
        canonical=names.unit_name,
    )
    metrics: Metrics = key("The metrics server.", factory=Metrics)
    health: Health = key("Health checks, expectations and who is told.", factory=Health)
    remediation: Remediation = key("What is done about findings; nothing by default.", factory=Remediation)
    validation: Validation | None = key("Proofs in the background that the node works.", default=None)
    loop: Loop = key("Timing of the supervisor.", factory=Loop)
