"""Which GPU an RDMA device serves, and on which rail it is, as labels; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.state.rails import SWITCHED, rails_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.state.node import NodeState


@dataclass(frozen=True)
class RailLabels:
    """`gpu` is the index of the GPU that the device shares a PCIe switch with, `number` that of `rail:N`; or ""."""

    gpu: str = ""
    number: str = ""


def rails(node: NodeState) -> Mapping[str, RailLabels]:
    """By name of the RDMA device. Devices for storage and virtual functions are on no rail.

    GPUs and devices behind one switch are paired in the order of their addresses.
    """
    index = {gpu.pci_address: str(gpu.index) for gpu in node.gpus.values()}
    found: dict[str, RailLabels] = {}
    for rail in sorted(rails_of(node), key=lambda one: one.address):
        near = [index[gpu] for gpu in rail.gpus if gpu in index and rail.relation.distance <= SWITCHED]
        taken = {labels.gpu for labels in found.values()}
        gpu = next((one for one in near if one not in taken), next(iter(near), ""))
        found[rail.address] = RailLabels(gpu, str(rail.number))
    return {name: found.get(device.pci_address, RailLabels()) for name, device in node.rdma.items()}
