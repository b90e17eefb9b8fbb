"""The graph that `nodeagent topology --dot` prints for Graphviz, and the short names of GPUs and NICs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nodeagent.resources.topology import rail_of_gpu
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import NVIDIA, gpus_of, nics_of, rails_of
from nodeagent.state.topology import NvLinks, Topology


def names_of(state: NodeState) -> Mapping[str, str]:
    """Short names by PCI address: GPU0 in NVML's order, NICs by their RDMA device, else interface, else address."""
    names = {found.address: f"GPU{index}" for index, found in enumerate(gpus_of(state))}
    netdevs = {found.pci_address: found.name for found in state.netdevs.values()}
    rdma = {found.pci_address: found.name for found in state.rdma.values()}
    return names | {
        found.address: rdma.get(found.address) or netdevs.get(found.address) or found.address
        for found in nics_of(state)
    }


def dot_lines(state: NodeState, topology: Topology, links: Mapping[str, NvLinks]) -> Iterator[str]:
    """The tree of root buses, bridges, GPUs and NICs; a pair of GPU and its rail is joined by a dashed line."""
    names, gpus, rails = names_of(state), gpus_of(state), rails_of(state)
    yield "graph topology {"
    yield "  rankdir=TB; node [shape=box, fontname=sans];"
    functions = (*gpus, *nics_of(state))
    for label in dict.fromkeys(part for found in functions for part in (found.path or (found.address,))):
        yield f'  "{label}" [{_shape(label, names, functions)}];'
    edges = ((above, below) for found in functions for above, below in zip(found.path, found.path[1:], strict=False))
    for above, below in dict.fromkeys(edges):
        node = topology.nodes.get(below)
        width = f' [label="x{node.link.width}"]' if node is not None and node.link.width else ""
        yield f'  "{above}" -- "{below}"{width};'
    for gpu in gpus:
        rail = rail_of_gpu(gpu, gpus, rails)
        if rail is not None:
            label = f'[style=dashed, constraint=false, label="rail {rail.number}"]'
            yield f'  "{gpu.address}" -- "{rail.address}" {label};'
    yield from _nvlink_lines(links)
    yield "}"


def _nvlink_lines(links: Mapping[str, NvLinks]) -> Iterator[str]:
    """Bold lines with the number of links; all NVSwitches are one node, since every GPU has links to each of them."""
    if any(found.to_switch for found in links.values()):
        yield '  "NVSwitch" [shape=hexagon, style=filled, fillcolor=palegreen];'
    for found in links.values():
        ends = [(peer, count) for peer, count in found.peers if found.pci_address < peer]
        ends += [("NVSwitch", found.to_switch)] if found.to_switch else []
        for end, count in ends:
            label = f'[style=bold, color=darkgreen, constraint=false, label="NV{count}"]'
            yield f'  "{found.pci_address}" -- "{end}" {label};'


def _shape(label: str, names: Mapping[str, str], functions: Sequence[PciFunction]) -> str:
    found = next((one for one in functions if one.address == label), None)
    if found is None:
        return f'label="{label}", shape=ellipse'
    colour = "palegreen" if found.vendor == NVIDIA else "lightblue"
    numa = f"\\nNUMA {found.numa_node}" if found.numa_node >= 0 else ""
    return f'label="{names[label]}\\n{label}{numa}", style=filled, fillcolor={colour}'
