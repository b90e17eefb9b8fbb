"""Section `labels` of the node file: what the node says about itself to a scheduler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from nodeagent.spec.containers import Component
from nodeagent.spec.keys import absolute_path, key


class MigStrategy(StrEnum):
    """none: GPUs are labelled whole. single: the labels of GPUs describe their MIG devices, all of one profile.
    mixed: each profile has labels of its own.
    """

    NONE = "none"
    SINGLE = "single"
    MIXED = "mixed"


class SharingStrategy(StrEnum):
    """How several containers share one GPU."""

    NONE = "none"
    TIME_SLICING = "time-slicing"
    MPS = "mps"


def shares(doc: str) -> Any:
    """A key that says into how many shares devices are divided, by resource."""
    return key(
        doc,
        factory=lambda: MappingProxyType({}),
        example="{gpu: 4, mig-1g.5gb: 2}",
        minimum=2,
        maximum=1024,
        key_pattern=r"^(gpu|mig-[0-9a-z.]+)$",
        key_expected="gpu, or mig-PROFILE such as mig-1g.5gb",
    )


@dataclass(frozen=True)
class LabelSharing:
    """What the labels say of sharing; what a device plugin does is its own affair."""

    strategy: SharingStrategy = key("Of what kind.", default=SharingStrategy.NONE)
    replicas: Mapping[str, int] = shares("Replicas of each device by resource.")
    rename: bool = key("Shared resources have another name (gpu.shared), so products keep theirs.", default=False)


@dataclass(frozen=True)
class Labels:
    """Node labels; `labels: {}` writes them for node-feature-discovery, with no access to the API."""

    gpus: Component = key(
        "nvidia.com/…, as gpu-feature-discovery gives them; auto: unless its own file is there.", default=Component.AUTO
    )
    own: bool = key("nodeagent.io/…: RDMA, rails, drivers, what does not answer.", default=True)
    mig_strategy: MigStrategy = key("How MIG devices appear.", default=MigStrategy.NONE)
    sharing: LabelSharing = key("Sharing of GPUs between containers.", factory=LabelSharing)
    timestamp: bool = key("Say when the labels last changed (nvidia.com/gfd.timestamp).", default=True)
    file: bool = key("Write them to the file that node-feature-discovery reads.", default=True)
    features_file: str = absolute_path(
        "That file, if it is not nodeagent.features in the usual directory.", example='"/srv/nfd/nodeagent.features"'
    )
    api: bool = key(
        "Patch the node object; needs a service account that may get, patch and watch nodes.", default=False
    )
    follow: bool = key(
        "Do as the GPU Operator's labels say: nvidia.com/mig.config, nvidia.com/gpu.deploy.* and, with a section "
        "`sandbox`, nvidia.com/gpu.workload.config; needs `api`.",
        default=False,
    )
    taint: bool = key(
        "While repair keeps a device or the node from work, also set the taint "
        "nodeagent.io/quarantine=repair:NoSchedule on the node; needs `api`.",
        default=False,
    )
    mig_config_file: str = absolute_path(
        "nvidia-mig-parted's file for the names in nvidia.com/mig.config; without it they are those of `mig[].layout`.",
        example='"/etc/nvidia-mig-manager/config.yaml"',
    )
