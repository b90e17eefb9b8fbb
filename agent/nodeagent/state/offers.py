"""What the node offers to pods through the kubelet's device plugins: resources, devices, and what a container gets.

An offer is immutable; whoever offers something makes a new one for every change. `allocator` is asked from the threads
of the gRPC server, so it must be a value too: it answers from what it was made of and touches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol


@dataclass(frozen=True, order=True)
class OfferedDevice:
    """One device by the id under which the kubelet counts it; no NUMA nodes mean that it gives no hint.

    `reason` says why it is not healthy.
    """

    id: str
    healthy: bool = True
    numa_nodes: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Mount:
    """A path of the host in the container."""

    container_path: str
    host_path: str
    read_only: bool = True


@dataclass(frozen=True)
class NodeAccess:
    """A device node of the host in the container; `permissions` are some of r, w and m."""

    container_path: str
    host_path: str
    permissions: str = "rw"


@dataclass(frozen=True)
class Grant:
    """What one container gets for its devices (ContainerAllocateResponse)."""

    envs: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    mounts: tuple[Mount, ...] = ()
    nodes: tuple[NodeAccess, ...] = ()
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    cdi_devices: tuple[str, ...] = ()


class Allocator(Protocol):
    """Decides for one resource."""

    def grant(self, ids: tuple[str, ...]) -> Grant:
        """For ids that are offered and healthy, each once. HostError where they cannot be given together."""

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        """The `size` best of `available`, with all of `must`; () where there is nothing to prefer."""


@dataclass(frozen=True)
class Offer:
    """A resource as the kubelet counts it, such as nvidia.com/gpu. `prefers`: its allocator has preferences."""

    resource: str
    devices: tuple[OfferedDevice, ...]
    allocator: Allocator
    prefers: bool = True

    def device(self, number: str) -> OfferedDevice | None:
        return next((one for one in self.devices if one.id == number), None)
