"""What makes the way between GPUs and NICs slow, and what would help: facts in, sentences out; pure.

Sources: Documentation/ABI/testing/sysfs-bus-pci, kernel-parameters.txt (pci=disable_acs_redir, iommu=pt), NVIDIA
GPUDirect RDMA guide ("Supported Systems", ACS), PCI Express Base Specification 7.7.11 (ACS).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nodeagent.resources.topology import SILENT, SILENT_ADVICE, bridges_between, rail_of_gpu, reordering_port
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import NVIDIA, SWITCHED, Rail, gpus_of, nics_of, rails_of, relation
from nodeagent.state.topology import PcieConfig, PcieNode, PortKind, Relation, Topology

ACS_REDIRECT: Mapping[int, str] = MappingProxyType(
    {0x4: "request redirect", 0x8: "completion redirect", 0x10: "upstream forwarding"}
)
BEST_READ_REQUEST = 4096  # bytes: what NIC vendors tune for
TRANSLATING = ("DMA", "DMA-FQ")


@dataclass(frozen=True)
class Finding:
    """Something about `subject` that costs speed, and what would help."""

    subject: str
    problem: str
    advice: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.advice}"


def findings(state: NodeState, topology: Topology) -> tuple[Finding, ...]:
    """Everything that is wrong, most general first, each once."""
    found = (finding for rule in RULES for finding in rule(state, topology))
    return tuple(dict.fromkeys(found))


def gpus_without_rail(state: NodeState, _topology: Topology) -> Iterator[Finding]:
    """Every GPU has a compute NIC of its own, unless there is none at all."""
    gpus, rails = gpus_of(state), rails_of(state)
    taken: dict[int, list[str]] = {}
    for gpu in gpus if rails else ():
        rail = rail_of_gpu(gpu, gpus, rails)
        if rail is None:
            advice = "its traffic takes another GPU's NIC; put a NIC on its PCIe switch or NUMA node"
            yield Finding(f"gpu {gpu.address}", "no NIC is near it", advice)
        else:
            taken.setdefault(rail.number, []).append(gpu.address)
    for number, sharers in taken.items():
        if len(sharers) > 1:
            problem = f"{len(sharers)} GPUs share it ({', '.join(sharers)})"
            yield Finding(
                f"rail {number}", problem, "each gets its part of the bandwidth; one NIC for each GPU is best"
            )


def unequal_rails(state: NodeState, _topology: Topology) -> Iterator[Finding]:
    """Collectives run at the speed of the slowest rail."""
    rates: dict[str, list[str]] = {}
    for rail in rails_of(state):
        for port in _ports(state, rail):
            rates.setdefault(port, []).append(f"rail {rail.number}")
    if len(rates) > 1:
        parts = ", ".join(f"{' and '.join(names)}: {rate}" for rate, names in rates.items())
        yield Finding(
            "rails", f"they differ ({parts})", "collectives run at the slowest; check cables and switch ports"
        )


def _ports(state: NodeState, rail: Rail) -> list[str]:
    devices = (device for device in state.rdma.values() if device.pci_address == rail.address)
    return [f"{port.link_layer} {port.rate}" for device in devices for port in device.ports]


def unknown_numa(state: NodeState, _topology: Topology) -> Iterator[Finding]:
    """Firmware tells the NUMA node of every GPU and NIC."""
    for found in (*gpus_of(state), *nics_of(state)):
        others = {other.path[:1] for other in (*gpus_of(state), *nics_of(state))}
        if found.numa_node < 0 and len(others) > 1:
            advice = "enable NUMA in the firmware set-up; without it distances across root buses are unknown"
            yield Finding(_name(found), "its NUMA node is unknown", advice)


def degraded_links(state: NodeState, topology: Topology) -> Iterator[Finding]:
    """Width and speed of the link are what both of its ends can do.

    A GPU lowers its link speed while idle, so that only its width counts. Only the ends are judged: bridges that are
    emulated show speeds they do not have.
    """
    for found in (*gpus_of(state), *nics_of(state)):
        node = topology.nodes.get(found.address)
        if node is not None:
            yield from _degraded(found, node, topology)


def _degraded(found: PciFunction, node: PcieNode, topology: Topology) -> Iterator[Finding]:
    link, above = node.link, topology.nodes.get(found.path[-2]) if len(found.path) > 2 else None
    slot = above.link if above is not None else None
    name = _name(found)
    if 0 < link.width < link.max_width:
        narrow = slot is not None and 0 < slot.max_width <= link.width
        advice = "the slot has no more lanes" if narrow else "reseat the card or riser; a lane failed in training"
        yield Finding(name, f"its link is x{link.width} of x{link.max_width}", advice)
    if found.vendor != NVIDIA and 0 < link.speed_gts < link.max_speed_gts:
        slow = slot is not None and 0 < slot.max_speed_gts <= link.speed_gts
        advice = "the slot is not faster" if slow else "check firmware set-up, riser and AER counters"
        yield Finding(name, f"its link runs at {link.speed_gts:g} of {link.max_speed_gts:g} GT/s", advice)


def payload_sizes(state: NodeState, topology: Topology) -> Iterator[Finding]:
    """MaxPayload is one size along a path, MaxReadReq of a NIC is 4096 bytes, relaxed ordering is on."""
    for found in nics_of(state):
        node = topology.nodes.get(found.address)
        if node is None or node.config is None:
            continue
        config, name = node.config, _name(found)
        smallest = min((at.config.max_payload_bytes for at in _on_path(found, topology) if at.config), default=0)
        if config.max_payload_bytes > smallest > 0:
            problem = f"MaxPayload is {config.max_payload_bytes} bytes, {smallest} further up"
            yield Finding(name, problem, "packets above that are errors; boot with pci=pcie_bus_safe")
        if config.max_read_request_bytes < BEST_READ_REQUEST:
            problem = f"MaxReadReq is {config.max_read_request_bytes} bytes"
            yield Finding(name, problem, f"{BEST_READ_REQUEST} gives more read bandwidth; set pcie.max_read_request")
        yield from _ordering(found, config, topology)


def _ordering(found: PciFunction, config: PcieConfig, topology: Topology) -> Iterator[Finding]:
    port = reordering_port(found, topology.nodes)
    if port and config.relaxed_ordering:
        problem = f"relaxed ordering is on, and root port {port} above it gets it wrong"
        yield Finding(_name(found), problem, "data may arrive late or out of order; set pcie.relaxed_ordering to false")
    if not port and not config.relaxed_ordering:
        problem, advice = "relaxed ordering is off", "writes wait for each other; set pcie.relaxed_ordering"
        yield Finding(_name(found), problem, advice)


def _on_path(found: PciFunction, topology: Topology) -> Iterator[PcieNode]:
    return (topology.nodes[address] for address in found.path[1:] if address in topology.nodes)


def redirected_peers(state: NodeState, topology: Topology) -> Iterator[Finding]:
    """No bridge between a GPU and its NIC sends their traffic up to the root complex (ACS P2P redirect)."""
    for gpu in gpus_of(state):
        for nic in nics_of(state):
            if relation(gpu, nic).distance <= SWITCHED:
                for address in bridges_between(gpu, nic):
                    yield from _redirect(topology.nodes.get(address), gpu, nic)


def _redirect(node: PcieNode | None, gpu: PciFunction, nic: PciFunction) -> Iterator[Finding]:
    config = node.config if node is not None else None
    if node is None or config is None or config.acs is None or config.kind is PortKind.ENDPOINT:
        return
    bits = [text for bit, text in ACS_REDIRECT.items() if config.acs & bit]
    if bits:
        problem = f"ACS ({', '.join(bits)}) sends traffic between gpu {gpu.address} and nic {nic.address} to the CPU"
        advice = (
            f"set pcie.acs_redirect to false, or boot with pci=disable_acs_redir={node.address}; "
            "leave it where functions go to virtual machines"
        )
        yield Finding(f"bridge {node.address}", problem, advice)


def translated(state: NodeState, topology: Topology) -> Iterator[Finding]:
    """GPUs and NICs are not behind an IOMMU that translates."""
    for found in (*gpus_of(state), *nics_of(state)):
        node = topology.nodes.get(found.address)
        if node is not None and node.iommu_type in TRANSLATING:
            problem = f"the IOMMU translates its DMA (domain type {node.iommu_type})"
            yield Finding(_name(found), problem, "boot with iommu=pt")


def _name(found: PciFunction) -> str:
    return f"{'gpu' if found.vendor == NVIDIA else 'nic'} {found.address}"


def unseen(state: NodeState, topology: Topology) -> Iterator[Finding]:
    """Configuration spaces can be read."""
    unread = [found.address for found in nics_of(state) if found.path and not _has_config(topology, found.address)]
    silent = [address for address in unread if address in topology.nodes and topology.nodes[address].silent]
    for address in silent:
        yield Finding(f"nic {address}", SILENT, SILENT_ADVICE)
    unread = [address for address in unread if address not in silent]
    if unread:
        advice = "run as root; ACS, MaxPayload and MaxReadReq are not checked without it"
        yield Finding(f"nic {', '.join(unread)}", "its configuration space cannot be read", advice)


def _has_config(topology: Topology, address: str) -> bool:
    node = topology.nodes.get(address)
    return node is not None and node.config is not None


RULES: tuple[Callable[[NodeState, Topology], Iterator[Finding]], ...] = (
    gpus_without_rail,
    unequal_rails,
    unknown_numa,
    degraded_links,
    payload_sizes,
    redirected_peers,
    translated,
    unseen,
)


def matrix(functions: Sequence[PciFunction]) -> tuple[tuple[Relation, ...], ...]:
    """Relations between all of the functions, row by row."""
    return tuple(tuple(relation(one, other) for other in functions) for one in functions)
