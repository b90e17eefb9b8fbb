"""Section `kubernetes` of the node file: what the node offers to pods through the kubelet's device plugins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec.containers import Component
from nodeagent.spec.keys import absolute_path, key
from nodeagent.spec.labels import MigStrategy, SharingStrategy, shares


class DeviceList(StrEnum):
    """How a container is told its devices. cdi-cri: by the CRI's own field (Kubernetes 1.29). cdi-annotations: by an
    annotation that container runtimes read. envvar: NVIDIA_VISIBLE_DEVICES, for nvidia-container-runtime.
    volume-mounts: mounts below /var/run/nvidia-container-devices, for the same.
    """

    CDI_CRI = "cdi-cri"
    CDI_ANNOTATIONS = "cdi-annotations"
    ENVVAR = "envvar"
    VOLUME_MOUNTS = "volume-mounts"


class DeviceId(StrEnum):
    """uuid: GPU-…, MIG-…. index: 0, and 0:1 for a MIG device."""

    UUID = "uuid"
    INDEX = "index"


class SharedAllocation(StrEnum):
    """distributed: shares are taken from the device that has given the fewest. packed: from that with the most."""

    DISTRIBUTED = "distributed"
    PACKED = "packed"


@dataclass(frozen=True)
class GpuSharing:
    """Several containers on one GPU or MIG device."""

    strategy: SharingStrategy = key(
        "time-slicing: programs take turns, with no limit to memory. mps: they run at once, each with its part of "
        "memory and multiprocessors; not with MIG.",
        default=SharingStrategy.NONE,
    )
    replicas: Mapping[str, int] = shares("Shares of each device by resource.")
    rename: bool = key("Offer shares as NAME.shared, such as nvidia.com/gpu.shared.", default=False)
    fail_above_one: bool | None = key(
        "Refuse a container that asks for more than one share; left out: with mps only.", default=None, example="true"
    )


@dataclass(frozen=True)
class ImexChannels:
    """IMEX channels, by which programs on several nodes share memory over NVLink."""

    channels: tuple[int, ...] = key(
        "Channels that every container with a GPU gets; who has the same one can share memory.",
        default=(),
        example="[0]",
        minimum=0,
        maximum=65535,
    )
    required: bool = key(
        "Give no GPU while one of them has no device node; else containers get GPUs without it.", default=False
    )


@dataclass(frozen=True)
class PluginGpus:
    """GPUs and MIG devices for pods, under the names that NVIDIA's device plugin gives them."""

    offer: Component = key(
        "nvidia.com/gpu and nvidia.com/mig-PROFILE; auto: unless NVIDIA's plugin offers them.", default=Component.AUTO
    )
    mig_strategy: MigStrategy = key(
        "none: whole GPUs. single: MIG devices, all of one profile, as nvidia.com/gpu. mixed: as mig-PROFILE.",
        default=MigStrategy.NONE,
    )
    device_list: tuple[DeviceList, ...] = key(
        "How containers are told their devices; empty: cdi-cri with section `cdi`, else envvar.",
        default=(),
        example="[cdi-cri]",
    )
    device_id: DeviceId = key("What a container is told of each device.", default=DeviceId.UUID)
    pass_device_specs: bool = key(
        "Also name the device nodes to the kubelet, so that a container keeps them when systemd sets up cgroups anew.",
        default=False,
    )
    gdrcopy: bool = key("Give containers GDRCopy too: /dev/gdrdrv.", default=False)
    gds: bool = key("Give containers GPUDirect Storage too: the nodes of nvidia_fs.", default=False)
    mofed: bool = key("Give containers every RDMA device too: uverbs and rdma_cm.", default=False)
    imex: ImexChannels = key("IMEX channels for containers.", factory=ImexChannels)
    shared_allocation: SharedAllocation = key(
        "Where shares and MIG devices are taken from first.", default=SharedAllocation.DISTRIBUTED
    )
    sharing: GpuSharing = key("Sharing of GPUs.", factory=GpuSharing)
    mps_directory: str = absolute_path(
        "Where MPS control daemons have their pipes and logs, if not in /run/nvidia/mps.", example='"/run/nvidia/mps"'
    )
    config_file: str = absolute_path(
        "Configuration file (v1) of NVIDIA's device plugin; what stands in it counts instead of the keys above.",
        example='"/etc/nvidia-device-plugin/config.yaml"',
    )
    config_directory: str = absolute_path(
        "Directory with several such files: the node label nvidia.com/device-plugin.config names the one that counts "
        "instead of `config_file` (with `labels.follow`).",
        example='"/etc/nvidia-device-plugin"',
    )


@dataclass(frozen=True)
class PluginNetwork:
    """RDMA devices and network functions for pods, by the files of the plugins that usually offer them."""

    offer: Component = key(
        "What the files below say; auto: each resource unless its own plugin offers it.", default=Component.AUTO
    )
    rdma_config_file: str = absolute_path(
        "config.json of the RDMA shared device plugin; empty: no such resources.",
        example='"/etc/nodeagent/rdma-shared.json"',
    )
    sriov_config_file: str = absolute_path(
        "config.json (`resourceList`) of the SR-IOV network device plugin; empty: no such resources.",
        example='"/etc/nodeagent/sriov-plugin.json"',
    )
    sriov_prefix: str = key(
        "Prefix of resources for which that file names none.",
        default="intel.com",
        pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$",
        expected="a domain such as nvidia.com",
    )
    cdi: bool = key(
        "Name RDMA devices as CDI devices (nodeagent.io/rdma) instead of their device nodes; needs section `cdi`.",
        default=False,
    )


@dataclass(frozen=True)
class Kubernetes:
    """What the node offers to pods; `kubernetes: {}` offers it as soon as there is a kubelet. Needs
    nodeagent[kubernetes], and no access to the API.
    """

    gpus: PluginGpus = key("GPUs and MIG devices.", factory=PluginGpus)
    network: PluginNetwork = key("RDMA devices and network functions.", factory=PluginNetwork)
    plugin_directory: str = absolute_path(
        "The kubelet's directory for device plugins, if not /var/lib/kubelet/device-plugins.",
        example='"/data/kubelet/device-plugins"',
    )
