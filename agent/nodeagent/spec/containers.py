"""Sections `cdi` and `runtimes` of the node file: what containers need from the node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nodeagent.spec.keys import absolute_path, key


class Component(StrEnum):
    """on: it is the agent's job. off: the agent leaves it alone and takes back what it made. auto: as on, unless
    another tool does it already.
    """

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class DeviceName(StrEnum):
    """index: 0, and 0:1 for a MIG device. uuid: GPU-…, MIG-…. type-index: gpu0, mig0:1."""

    INDEX = "index"
    UUID = "uuid"
    TYPE_INDEX = "type-index"


@dataclass(frozen=True)
class Cdi:
    """CDI specifications, by which container runtimes give devices to containers; `cdi: {}` takes every default."""

    gpus: Component = key("nvidia.com/gpu: GPUs and MIG devices, each and `all`.", default=Component.AUTO)
    management: Component = key(
        "management.nvidia.com/gpu=all: every node of the driver, for monitoring in containers.", default=Component.OFF
    )
    rdma: Component = key("nodeagent.io/rdma: RDMA devices, their ports, and `all`.", default=Component.AUTO)
    gdrcopy: Component = key("nvidia.com/gdrcopy=all: the node of gdrdrv.", default=Component.AUTO)
    gds: Component = key(
        "nvidia.com/gds=all: the nodes of nvidia_fs, with /run/udev and /etc/cufile.json.", default=Component.AUTO
    )
    mofed: Component = key(
        "nvidia.com/mofed=all: uverbs of every RDMA device and rdma_cm, as NVIDIA's tools name them.",
        default=Component.AUTO,
    )
    imex: Component = key(
        "nvidia.com/imex-channel=N: each IMEX channel that has a node, and `all`.", default=Component.AUTO
    )
    names: tuple[DeviceName, ...] = key(
        "How GPUs and MIG devices are named: index (0, 0:1), uuid (GPU-…, MIG-…), type-index (gpu0, mig0:1).",
        default=(DeviceName.INDEX, DeviceName.UUID),
        least_items=1,
    )
    directory: str = absolute_path(
        "Where the files go, if not to /var/run/cdi; section `runtimes` tells the runtimes.", example='"/run/cdi"'
    )
    driver_root: str = absolute_path(
        "Where the driver's libraries and programs are, if not below /.", example='"/run/nvidia/driver"'
    )
    host_root: str = absolute_path(
        "Where the agent sees the node's root directory, if it is in a container; the driver's files are looked for "
        "below it, and named as they are on the node.",
        example='"/host"',
    )
    additional_gids: bool = key(
        "Add the group of device nodes that are not open to all; needs runtimes with CDI 0.7.", default=False
    )


@dataclass(frozen=True)
class Runtimes:
    """Container runtimes that must know CDI; `runtimes: {}` looks after those that are installed.

    auto changes what it can and leaves the rest with a remark, on says what is in the way, off changes nothing.
    """

    containerd: Component = key("containerd, also where Docker or a kubelet brings it.", default=Component.AUTO)
    crio: Component = key("CRI-O.", default=Component.AUTO)
    docker: Component = key("Docker.", default=Component.AUTO)
    podman: Component = key("Podman.", default=Component.AUTO)
    nvidia_runtime: bool = key(
        "Also register nvidia-container-runtime under the name nvidia; with CDI nothing needs it.", default=False
    )
