"""Which GPU is nearest to an RDMA device, and on which rail it is: by the PCI tree; pure.

Source: sysfs paths of PCI functions, which name every bridge on the way (Documentation/PCI/sysfs-pci.rst).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nodeagent.state.gpu import Gpu
    from nodeagent.state.node import NodeState


@dataclass(frozen=True)
class Rail:
    """`gpu` is the index of the GPU that the device shares a PCIe switch with, `number` counts such devices; or ""."""

    gpu: str = ""
    number: str = ""


def rails(node: NodeState) -> Mapping[str, Rail]:
    """By name of the RDMA device. Devices that share no switch with a GPU, as those for storage, are on no rail.

    GPUs and devices behind one switch are paired in the order of their addresses.
    """
    found: dict[str, Gpu] = {}
    for name, nearest in sorted(_nearest(node).items(), key=lambda item: node.rdma[item[0]].pci_address):
        taken = {gpu.uuid for gpu in found.values()}
        found[name] = next((gpu for gpu in nearest if gpu.uuid not in taken), nearest[0])
    ordered = sorted(found, key=lambda name: (found[name].index, node.rdma[name].pci_address))
    numbered = {name: Rail(str(found[name].index), str(number)) for number, name in enumerate(ordered)}
    rails = {name: numbered.get(name, Rail()) for name in node.rdma}
    return {name: replace(rail, number=_on_record(node, name)) for name, rail in rails.items()} if node.rails else rails


def _on_record(node: NodeState, name: str) -> str:
    """The number that the node file's `rail:N` goes by, "" for none."""
    return str(node.rails.get(node.rdma[name].pci_address, ""))


def _nearest(node: NodeState) -> dict[str, list[Gpu]]:
    """For each RDMA device the GPUs with which it shares most of the way, at least a switch beyond the root port."""
    found = {}
    for name, device in node.rdma.items():
        shared = {gpu.uuid: _shared(node, device.pci_address, gpu.pci_address) for gpu in node.gpus.values()}
        most = max(shared.values(), default=0)
        if most > _ROOT_PORT:
            found[name] = sorted((node.gpus[uuid] for uuid, count in shared.items() if count == most), key=_address)
    return found


_ROOT_PORT = 2  # root bus and root port: what stands behind one root port alone has no switch in common


def _address(gpu: Gpu) -> str:
    return gpu.pci_address


def _shared(node: NodeState, first: str, second: str) -> int:
    """How many steps of the way from the root bus two functions have in common."""
    if first not in node.pci or second not in node.pci:
        return 0
    ways = zip(node.pci[first].path, node.pci[second].path, strict=False)
    count = 0
    for one, other in ways:
        if one != other:
            break
        count += 1
    return count
