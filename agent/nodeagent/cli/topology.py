"""Verb `topology`: how GPUs and NICs are wired, as a matrix, as a document, or as a graph for Graphviz."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nodeagent.cli import topology_dot
from nodeagent.cli.output import Style, emit, in_blocks, style_for
from nodeagent.cli.parsing import add_verb
from nodeagent.cli.target import add_target_options, target_of
from nodeagent.cli.topology_dot import names_of
from nodeagent.host.topology_facts import read_topology
from nodeagent.resources.topology import nvlinks_between, rail_of_gpu
from nodeagent.resources.topology_findings import findings, matrix
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import gpus_of, nics_of, rails_of
from nodeagent.state.topology import NvLinks, PcieLink, Relation, Topology

NO_LINKS: Mapping[str, NvLinks] = MappingProxyType({})
_LEGEND: Mapping[str, str] = {
    Relation.SELF: "itself",
    "NV#": "that many NVLinks, directly or through NVSwitches",
    Relation.PIX: "at most one PCIe bridge",
    Relation.PXB: "several PCIe bridges, no host bridge",
    Relation.PHB: "a PCIe host bridge (the CPU)",
    Relation.NODE: "two host bridges of one NUMA node",
    Relation.SYS: "the link between NUMA nodes",
    Relation.UNKNOWN: "not known: firmware does not tell the NUMA nodes",
}
_EPILOG = """\
Rails are the NICs for GPU traffic, numbered by their nearest GPU; the node file selects them with `match: rail:N`.

examples:
  nodeagent topology
  nodeagent topology --simulate dgx-h100 -o json
  nodeagent topology --dot | dot -Tsvg > topology.svg
"""


def register(subparsers: Any, common: argparse.ArgumentParser) -> None:
    parser = add_verb(
        subparsers,
        "topology",
        common,
        "show how GPUs and NICs are wired, and what makes the way between them slow",
        _EPILOG,
    )
    parser.add_argument("--dot", action="store_true", help="print a graph for Graphviz instead")
    add_target_options(parser)
    parser.set_defaults(run=run_topology)


def run_topology(arguments: argparse.Namespace) -> int:
    with target_of(arguments).observer() as observer:
        state = observer.observe(())
        topology = read_topology(observer.host.files, (*gpus_of(state), *nics_of(state)))
        links = {found.pci_address: found for found in (observer.host.nvml.nvlinks() if state.gpus else ())}
    if arguments.dot:
        print("\n".join(topology_dot.dot_lines(state, topology, links)))
        return 0
    document = topology_document(state, topology, links)
    style = style_for(arguments, sys.stdout)
    emit(document, arguments.output, lambda: topology_text(document, style))
    return 0


def topology_document(state: NodeState, topology: Topology, links: Mapping[str, NvLinks] = NO_LINKS) -> dict[str, Any]:
    """GPUs, NICs, the matrix of their relations by name, rails and findings."""
    gpus, nics, rails = gpus_of(state), nics_of(state), rails_of(state)
    functions = (*gpus, *nics)
    names = names_of(state)
    rows = matrix(functions)
    return {
        "gpus": [_function(found, names, topology) | _gpu_rail(found, gpus, state) for found in gpus],
        "nics": [_function(found, names, topology) | _nic_names(found, state) for found in nics],
        "matrix": {
            names[one.address]: {
                names[other.address]: _cell(one, other, found, links)
                for other, found in zip(functions, row, strict=True)
            }
            for one, row in zip(functions, rows, strict=True)
        },
        "nvlinks": {
            names[one.address]: {
                names[other.address]: count
                for other in gpus
                if (count := nvlinks_between(one.address, other.address, links))
            }
            for one in gpus
        }
        if state.gpus
        else None,
        "rails": [
            {
                "rail": rail.number,
                "nic": names[rail.address],
                "pciAddress": rail.address,
                "gpus": [names[address] for address in rail.gpus],
                "relation": rail.relation.value,
            }
            for rail in rails
        ],
        "findings": [
            {"subject": found.subject, "problem": found.problem, "advice": found.advice}
            for found in findings(state, topology)
        ],
    }


def _cell(one: PciFunction, other: PciFunction, found: Relation, links: Mapping[str, NvLinks]) -> str:
    """NVLinks come before the way over PCIe, as in `nvidia-smi topo -m`."""
    count = nvlinks_between(one.address, other.address, links)
    return f"NV{count}" if count else found.value


def _function(found: PciFunction, names: Mapping[str, str], topology: Topology) -> dict[str, Any]:
    node = topology.nodes.get(found.address)
    link = node.link if node is not None else PcieLink()
    config = node.config if node is not None else None
    return {
        "name": names[found.address],
        "pciAddress": found.address,
        "path": list(found.path),
        "numaNode": found.numa_node if found.numa_node >= 0 else None,
        "iommuGroup": found.iommu_group or None,
        "iommuType": (node.iommu_type if node is not None else "") or None,
        "linkSpeedGts": link.speed_gts or None,
        "linkSpeedMaxGts": link.max_speed_gts or None,
        "linkWidth": link.width or None,
        "linkWidthMax": link.max_width or None,
        "maxPayloadBytes": config.max_payload_bytes if config else None,
        "maxReadRequestBytes": config.max_read_request_bytes if config else None,
        "relaxedOrdering": config.relaxed_ordering if config else None,
    }


def _gpu_rail(found: PciFunction, gpus: Sequence[PciFunction], state: NodeState) -> dict[str, Any]:
    rail = rail_of_gpu(found, gpus, rails_of(state))
    return {"rail": rail.number if rail is not None else None}


def _nic_names(found: PciFunction, state: NodeState) -> dict[str, Any]:
    return {
        "rail": next((rail.number for rail in rails_of(state) if rail.address == found.address), None),
        "rdma": sorted(one.name for one in state.rdma.values() if one.pci_address == found.address),
        "netdevs": sorted(one.name for one in state.netdevs.values() if one.pci_address == found.address),
    }


def topology_text(document: Mapping[str, Any], style: Style) -> str:
    """The matrix with rail and NUMA node of each row, what the letters mean, and the findings."""
    functions = [*document["gpus"], *document["nics"]]
    if not functions:
        return style("dim", "no GPUs and no RDMA NICs")
    names = [found["name"] for found in functions]
    short = [*(found["name"] for found in document["gpus"]), *(f"NIC{index}" for index in range(len(document["nics"])))]
    rows = [
        [label, *(document["matrix"][found["name"]][other] for other in names), *_last_columns(found)]
        for label, found in zip(short, functions, strict=True)
    ]
    used = {"NV#" if cell.startswith("NV") else cell for row in document["matrix"].values() for cell in row.values()}
    parts = [
        in_blocks(rows, ("", *short, "RAIL", "NUMA", "PCI", "LINK", "NAME"), style.width),
        "\n".join(style("dim", f"{sign:<6}{text}") for sign, text in _LEGEND.items() if sign in used),
    ]
    if document["gpus"] and document["nvlinks"] is None:
        parts.append(style("dim", "NVLinks are not known: the NVIDIA driver does not answer"))
    wrong = [
        style("warn", line)
        for found in document["findings"]
        for line in style.wrap(f"{found['subject']}: {found['problem']}; {found['advice']}", 2)
    ]
    return "\n\n".join([*parts, "\n".join(wrong) or style("good", "nothing found that slows the way between them")])


def _last_columns(found: Mapping[str, Any]) -> tuple[str, ...]:
    link = f"{found['linkSpeedGts']:g} GT/s x{found['linkWidth']}" if found["linkSpeedGts"] else "-"
    return _text(found["rail"]), _text(found["numaNode"]), found["pciAddress"], link, found["name"]


def _text(number: int | None) -> str:
    return "-" if number is None else str(number)
