"""Names for everything on a node that can hold or be held: the vertices and edges of the holder graph."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What sort of thing a name stands for."""

    NODE = "node"
    MODULE = "module"  # name with underscores
    GPU = "gpu"  # UUID
    PCI = "pci"  # 0000:3b:00.0
    NETDEV = "netdev"
    RDMA = "rdma"  # mlx5_0
    DEVICE_NODE = "device node"  # path
    PROCESS = "process"  # PID
    SERVICE = "service"  # systemd unit
    NVML = "nvml worker"  # PID of our own NVML process
    MEMORY = "memory region"  # registered RDMA memory
    FILE = "file"  # path
    RUNTIME = "container runtime"  # containerd
    OFFER = "offer"  # UUID of a GPU, or address of a function, that is offered to pods


@dataclass(frozen=True, order=True)
class Thing:
    """One named thing; `str()` reads as in `module nvidia` or `process 4242`."""

    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.name}"


@dataclass(frozen=True, order=True)
class Hold:
    """`holder` keeps `held` from being quiet.

    `refuses`: the kernel or driver itself refuses to change `held` under it (a reference count, an open file). False
    means that the change would go through and disturb the holder, as when a NIC loses its addresses.
    """

    holder: Thing
    held: Thing
    via: str
    refuses: bool = True


def module(name: str) -> Thing:
    return Thing(Kind.MODULE, name)


def gpu(uuid: str) -> Thing:
    return Thing(Kind.GPU, uuid)


def process(pid: int) -> Thing:
    return Thing(Kind.PROCESS, str(pid))


def service(unit: str) -> Thing:
    return Thing(Kind.SERVICE, unit)


def netdev(name: str) -> Thing:
    return Thing(Kind.NETDEV, name)


def pci(address: str) -> Thing:
    return Thing(Kind.PCI, address)


def device_node(path: str) -> Thing:
    return Thing(Kind.DEVICE_NODE, path)


def nvml_worker(pid: int) -> Thing:
    return Thing(Kind.NVML, str(pid))


def offer(name: str) -> Thing:
    return Thing(Kind.OFFER, name)
