"""Network functions and RDMA devices as pods get them: which of them a pool means, with nodes and problems; pure.

Sources: k8snetworkplumbingwg/sriov-network-device-plugin pkg/netdevice (which functions count), README.md (selectors);
Mellanox/k8s-rdma-shared-dev-plugin pkg/resources (which RDMA devices count).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from nodeagent.host.paths import DEV_INFINIBAND, DEV_VFIO
from nodeagent.resources.guarded import CONTROL
from nodeagent.spec.network_plugins import FunctionPool, Parent, Selector, SharedPool, VdpaType
from nodeagent.state.functions import UIO_DRIVERS, VdpaDevice
from nodeagent.state.health import Health, SubjectKind, Verdict
from nodeagent.state.network import Netdev, PciFunction, RdmaDevice, VfLinkState
from nodeagent.state.node import NodeState

NETWORK, INFINIBAND = "02", "0207"
INFINIBAND_LINK = "infiniband"
ACTIVE = "ACTIVE"
RDMA_CM, VFIO = f"{DEV_INFINIBAND}/rdma_cm", f"{DEV_VFIO}/vfio"
VFIO_PCI = "vfio-pci"
DEFAULT_ROUTE = "default route"


@dataclass(frozen=True)
class NetworkUnit:
    """One function. `port` is the address of the physical function behind it, `rdma` its RDMA device or "".

    `vdpa` is its vDPA device, where one is wanted. `problem` says why no pod may get it.
    """

    address: str
    port: str
    driver: str
    numa_nodes: tuple[int, ...] = ()
    rdma: str = ""
    nodes: tuple[str, ...] = ()
    vdpa: VdpaDevice | None = None
    problem: str = ""


@dataclass(frozen=True)
class Seen:
    """What is looked up many times: interfaces and RDMA devices by PCI address, addresses by interface."""

    netdevs: Mapping[str, Netdev]
    rdma: Mapping[str, RdmaDevice]
    addresses: Mapping[str, str]


def seen(state: NodeState) -> Seen:
    return Seen(
        {one.pci_address: one for one in state.netdevs.values() if one.pci_address},
        {one.pci_address: one for one in state.rdma.values() if one.pci_address},
        {one.name: one.pci_address for one in state.netdevs.values()},
    )


def functions_of(
    pool: FunctionPool, state: NodeState, health: Health, before: Iterable[NetworkUnit]
) -> tuple[NetworkUnit, ...]:
    """The functions of a pool by address. One from before stays while it is there with the same driver: a function that
    works in a pod's network namespace shows the host neither interface nor RDMA device.
    """
    there, known = seen(state), {unit.address: unit for unit in before}
    found = []
    for address, one in sorted(state.pci.items()):
        if not one.class_code.startswith(NETWORK) or _is_the_hosts(one, there):
            continue
        if any(_matches(selector, one, state, there) for selector in pool.selectors):
            found.append(_unit(one, pool, state, there))
        elif address in known and known[address].driver == one.driver and _may_match(pool, one, state, there):
            unit = known[address]
            found.append(replace(unit, problem="") if unit.vdpa is None else _unit(one, pool, state, there))
    return tuple(judged(unit, state, there, health) for unit in found)


def _is_the_hosts(one: PciFunction, there: Seen) -> bool:
    """What the node itself is reached through, and physical functions that are divided."""
    netdev = there.netdevs.get(one.address)
    uses = netdev.uses if netdev is not None else ()
    return bool(one.vf_addresses) or DEFAULT_ROUTE in uses or CONTROL in uses


def _matches(selector: Selector, one: PciFunction, state: NodeState, there: Seen) -> bool:
    return _fixed(selector, one, state, there) and _live(selector, one, state, there)


def _may_match(pool: FunctionPool, one: PciFunction, state: NodeState, there: Seen) -> bool:
    return any(_fixed(selector, one, state, there) for selector in pool.selectors)


def _fixed(selector: Selector, one: PciFunction, state: NodeState, there: Seen) -> bool:
    """What is true of a function wherever its interface is."""
    return (
        is_described(selector, one, state)
        and among(one.address, selector.addresses)
        and (not selector.vdpa or _vdpa(selector, one, state) is not None)
        and (not selector.parents or any(_is_of(there.addresses, parent, one, state) for parent in selector.parents))
        and (not selector.roots or any(_is_of({}, parent, one, state) for parent in selector.roots))
    )


def is_described(selector: Selector, one: PciFunction, state: NodeState) -> bool:
    """Whether the function is of the kind that a selector says."""
    return (
        among(one.vendor, selector.vendors)
        and among(one.device, selector.devices)
        and among(one.driver, selector.drivers)
        and among(state.functions.acpi_indexes.get(one.address, ""), selector.acpi_indexes)
    )


def _vdpa(selector: Selector, one: PciFunction, state: NodeState) -> VdpaDevice | None:
    """The function's vDPA device, if it is of the kind that a selector wants."""
    found = state.functions.vdpa.get(one.address)
    return found if found is not None and selector.vdpa and found.driver == selector.vdpa.driver else None


def _has_key(selector: Selector, one: PciFunction, state: NodeState, there: Seen) -> bool:
    """Ports of Ethernet have a partition key too, which says nothing."""
    key = state.functions.partition_keys.get(one.address)
    return not selector.partition_keys or (key in selector.partition_keys and link_type(one, there) == INFINIBAND_LINK)


def _live(selector: Selector, one: PciFunction, state: NodeState, there: Seen) -> bool:
    netdev = there.netdevs.get(one.address)
    return (
        among(netdev.name if netdev is not None else "", selector.interfaces)
        and among(link_type(one, there), selector.link_types)
        and (not selector.is_rdma or one.address in there.rdma)
        and _has_key(selector, one, state, there)
    )


def among(value: str, wanted: tuple[str, ...]) -> bool:
    return not wanted or value in wanted


def _is_of(names: Mapping[str, str], parent: Parent, one: PciFunction, state: NodeState) -> bool:
    """Whether the function is this physical one, or a virtual one of it with one of the numbers."""
    root = names.get(parent.name, parent.name)
    if one.physfn != root:
        return one.address == root and parent.indices is None
    siblings = state.pci[root].vf_addresses if root in state.pci else ()
    return parent.indices is None or (one.address in siblings and siblings.index(one.address) in parent.indices)


def link_type(one: PciFunction, there: Seen) -> str:
    """Type of the link, ether or infiniband; "" where no interface says it."""
    rdma = there.rdma.get(one.address)
    if rdma is not None and rdma.ports:
        return INFINIBAND_LINK if rdma.ports[0].link_layer == "InfiniBand" else "ether"
    if one.address not in there.netdevs:
        return ""
    return INFINIBAND_LINK if one.class_code.startswith(INFINIBAND) else "ether"


def _unit(one: PciFunction, pool: FunctionPool, state: NodeState, there: Seen) -> NetworkUnit:
    rdma = there.rdma.get(one.address)
    wants_rdma = any(selector.is_rdma for selector in pool.selectors)
    own = rdma_nodes(rdma.name, state) if rdma is not None and wants_rdma else ()
    vdpa = next(filter(None, (_vdpa(selector, one, state) for selector in pool.selectors)), None)
    return NetworkUnit(
        address=one.address,
        port=one.physfn or one.address,
        driver=one.driver,
        numa_nodes=(one.numa_node,) if one.numa_node >= 0 and pool.with_topology else (),
        rdma=rdma.name if rdma is not None and wants_rdma else "",
        nodes=user_nodes(one, state) or ((vdpa.node,) if vdpa and vdpa.node else own),
        vdpa=vdpa,
    )


def user_nodes(one: PciFunction, state: NodeState) -> tuple[str, ...]:
    """The nodes by which a program drives the function by itself, if vfio-pci or uio has it."""
    if one.driver in UIO_DRIVERS:
        return tuple(filter(None, (state.functions.uio.get(one.address),)))
    return (VFIO, f"{DEV_VFIO}/{one.iommu_group}") if one.driver == VFIO_PCI and one.vfio_minor >= 0 else ()


def rdma_nodes(name: str, state: NodeState) -> tuple[str, ...]:
    """The device nodes of an RDMA device that are there, and the one for all connections; () without uverbs."""
    own = state.containers.rdma_nodes.get(name, ())
    return (*(node.path for node in own), RDMA_CM) if any(node.port == 0 for node in own) else ()


def judged(unit: NetworkUnit, state: NodeState, there: Seen, health: Health) -> NetworkUnit:
    return replace(unit, problem=own_problem(unit) or _vf_port_problem(unit, state, there, health))


def own_problem(unit: NetworkUnit) -> str:
    """What is wrong with the device itself, whatever its port is like."""
    if not unit.driver:
        return "it has no driver"
    if unit.driver == VFIO_PCI and not unit.nodes:
        return f"it is with {VFIO_PCI} and there is no device of its IOMMU group"
    if unit.driver in UIO_DRIVERS and not unit.nodes:
        return f"it is with {unit.driver} and has no node of uio"
    if unit.vdpa and unit.vdpa.driver == VdpaType.VHOST.driver and not unit.vdpa.node:
        return f"its vDPA device {unit.vdpa.name} has no node; vhost_vdpa makes it"
    if unit.rdma and not unit.nodes:
        return f"{unit.rdma} has no uverbs node; ib_uverbs makes it"
    return ""


def _vf_port_problem(unit: NetworkUnit, state: NodeState, there: Seen, health: Health) -> str:
    """That of the port behind it; a virtual function whose link is always up works between functions even so."""
    problem = finding_of(unit.port, there, health)
    forced = unit.port != unit.address and _link_state(unit, state, there) is VfLinkState.ENABLE
    return problem or ("" if forced else link_problem(unit.port, there))


def _link_state(unit: NetworkUnit, state: NodeState, there: Seen) -> VfLinkState | None:
    parent, netdev = state.pci.get(unit.port), there.netdevs.get(unit.port)
    if parent is None or netdev is None or unit.address not in parent.vf_addresses:
        return None
    index = parent.vf_addresses.index(unit.address)
    return next((vf.link_state for vf in netdev.vfs if vf.index == index), None)


def finding_of(port: str, there: Seen, health: Health) -> str:
    """What a failed check says of a physical port."""
    device = there.rdma.get(port)
    for finding in health.findings:
        subject = finding.subject
        if finding.verdict is not Verdict.FAILED or subject.kind is not SubjectKind.PORT:
            continue
        named = device is not None and subject.name.partition("/")[0] == device.name
        if named or (subject.pci_address and subject.pci_address == port):
            return f"{finding.check}: {finding.evidence or finding.cause}"
    return ""


def link_problem(port: str, there: Seen) -> str:
    """Why nothing goes through a physical port; "" where it works, and where the host cannot see it."""
    device, netdev = there.rdma.get(port), there.netdevs.get(port)
    if device is not None and device.ports and all(one.state != ACTIVE for one in device.ports):
        return f"port {device.name}/{device.ports[0].port} is {device.ports[0].state}"
    if netdev is not None and not netdev.up:
        return f"{netdev.name} is down"
    if netdev is not None and not netdev.carrier:
        return f"{netdev.name} has no link"
    return ""


def shared_devices(pool: SharedPool, state: NodeState) -> tuple[tuple[RdmaDevice, ...], tuple[str, ...]]:
    """The RDMA devices of a shared pool that a program can use, and remarks on those it cannot."""
    there = seen(state)
    wanted = [
        one
        for one in _rdma_of(there)
        if _matches(pool.selector, state.pci.get(one.pci_address, _NOWHERE), state, there)
    ]
    usable = tuple(one for one in wanted if rdma_nodes(one.name, state))
    unusable = [one.name for one in wanted if one not in usable]
    return usable, tuple(f"{pool.resource}: {name} has no uverbs node; ib_uverbs makes it" for name in unusable)


_NOWHERE = PciFunction("", "", "", "")


def _rdma_of(there: Seen) -> Iterator[RdmaDevice]:
    return (one for _, one in sorted(there.rdma.items()))
