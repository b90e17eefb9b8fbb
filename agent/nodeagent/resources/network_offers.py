"""What the node offers of its NICs: shared RDMA devices and network functions, and what a container gets of them; pure.

Sources: Mellanox/k8s-rdma-shared-dev-plugin pkg/resources/server.go (every container gets the nodes of the whole pool),
k8snetworkplumbingwg/sriov-network-device-plugin README.md (PCIDEVICE_...) and pkg/infoprovider (the _INFO variable).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError
from nodeagent.host.paths import DEV, DEV_INFINIBAND
from nodeagent.resources.cdi_specs import RDMA_KIND
from nodeagent.resources.network_kinds import accelerators_of, parts_of
from nodeagent.resources.network_units import (
    VFIO,
    VFIO_PCI,
    NetworkUnit,
    finding_of,
    functions_of,
    link_problem,
    rdma_nodes,
    seen,
    shared_devices,
)
from nodeagent.spec.network_plugins import FunctionPool, PoolKind, SharedPool
from nodeagent.state.functions import UIO_DRIVERS
from nodeagent.state.health import Health
from nodeagent.state.network import RdmaDevice
from nodeagent.state.node import NodeState
from nodeagent.state.offers import Grant, NodeAccess, Offer, OfferedDevice
from nodeagent.state.rails import relation

VHOST = (f"{DEV}/vhost-net", f"{DEV}/net/tun")
EVERYWHERE = "*"
ABOUT_TO_CHANGE = "a step of the agent is about to change it"


@dataclass(frozen=True)
class NetworkPools:
    """What the files of other plugins ask for; `cdi`: containers get names of CDI devices instead of RDMA nodes."""

    shared: tuple[SharedPool, ...] = ()
    functions: tuple[FunctionPool, ...] = ()
    cdi: bool = False


@dataclass(frozen=True)
class NetworkOffers:
    """`units` are the functions of each resource, to know them again; remarks say what is not offered, and why."""

    offers: tuple[Offer, ...] = ()
    units: Mapping[str, tuple[NetworkUnit, ...]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def network_offers(
    pools: NetworkPools,
    state: NodeState,
    health: Health,
    before: NetworkOffers | None = None,
    withdrawn: frozenset[str] = frozenset(),
) -> NetworkOffers:
    """What the pools come to on this node; `before` is what was offered last, `withdrawn` what is about to change."""
    known = before.units if before is not None else {}
    offers: list[Offer] = []
    remarks: list[str] = []
    for pool in pools.shared:
        offer, said = _shared_offer(pool, pools.cdi, state, health)
        offers += [offer] if offer is not None else []
        remarks += said
    units: dict[str, tuple[NetworkUnit, ...]] = {}
    taken: set[str] = set()
    for one in pools.functions:
        if one.unsupported:
            remarks.append(
                f"{one.resource} is not offered: {', '.join(one.unsupported)} is not supported; leave it out"
            )
            continue
        mine = _units_of(one, state, health, known.get(one.resource, ()))
        units[one.resource] = tuple(_held(unit, withdrawn) for unit in mine if unit.address not in taken)
        remarks += [f"{one.resource}: {unit.address} belongs to another pool" for unit in mine if unit.address in taken]
        taken |= {unit.address for unit in mine}
        offers.append(_function_offer(one, units[one.resource], pools.cdi, state))
    return NetworkOffers(tuple(offers), units, tuple(remarks))


def _units_of(
    pool: FunctionPool, state: NodeState, health: Health, before: tuple[NetworkUnit, ...]
) -> tuple[NetworkUnit, ...]:
    if pool.kind is PoolKind.ACCELERATOR:
        return accelerators_of(pool, state)
    if pool.kind is PoolKind.AUXILIARY:
        return parts_of(pool, state, health, before)
    return functions_of(pool, state, health, before)


def _held(unit: NetworkUnit, withdrawn: frozenset[str]) -> NetworkUnit:
    return replace(unit, problem=ABOUT_TO_CHANGE) if unit.address in withdrawn else unit


# RDMA devices that all share.


@dataclass(frozen=True)
class SharedAllocator:
    """Every container gets all of the pool, whichever shares and however many the kubelet counts for it."""

    nodes: tuple[str, ...]
    cdi: tuple[str, ...] = ()

    def grant(self, ids: tuple[str, ...]) -> Grant:
        del ids
        return Grant(cdi_devices=self.cdi) if self.cdi else Grant(nodes=_access(self.nodes))

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        del available, must, size
        return ()


def _access(paths: Iterable[str]) -> tuple[NodeAccess, ...]:
    return tuple(NodeAccess(path, path) for path in dict.fromkeys(paths))


def _shared_offer(
    pool: SharedPool, cdi: bool, state: NodeState, health: Health
) -> tuple[Offer | None, tuple[str, ...]]:
    if state.rdma_netns_shared is False:
        text = "RDMA devices are not shared between network namespaces; set roce.netns: shared"
        return None, (f"{pool.resource} is not offered: {text}",)
    usable, remarks = shared_devices(pool, state)
    problem = _pool_problem(usable, state, health)
    nodes = tuple(path for one in usable for path in rdma_nodes(one.name, state))
    names = _cdi_names(state, [one.name for one in usable]) if cdi else ()
    if cdi and len(names) < len(usable):
        problem = "no CDI specification names its devices"
    numa = {state.pci[one.pci_address].numa_node for one in usable if one.pci_address in state.pci}
    where = tuple(numa) if len(numa) == 1 and min(numa) >= 0 else ()
    shares = pool.shares if usable else 0
    devices = tuple(OfferedDevice(str(number), not problem, where, problem) for number in range(shares))
    return Offer(pool.resource, devices, SharedAllocator(nodes, names), prefers=False), remarks


def _pool_problem(devices: tuple[RdmaDevice, ...], state: NodeState, health: Health) -> str:
    """A pool is well while one of its ports is: a program chooses among them."""
    there = seen(state)
    ports = [one.pci_address for one in devices]
    problems = [finding_of(port, there, health) or link_problem(_physical(port, state), there) for port in ports]
    return "; ".join(problems) if problems and all(problems) else ""


def _physical(address: str, state: NodeState) -> str:
    return state.pci[address].physfn or address if address in state.pci else address


def _cdi_names(state: NodeState, names: Iterable[str]) -> tuple[str, ...]:
    """The qualified names of those RDMA devices that a specification has."""
    files = [one for one in state.containers.cdi_files if one.kind == RDMA_KIND and not one.problem]
    there = {name for one in files for name in one.devices}
    return tuple(f"{RDMA_KIND}={name}" for name in names if name in there)


# Functions, each for one pod.


@dataclass(frozen=True)
class FunctionAllocator:
    """`near` is how far each port is from each GPU (by PCI address of both); `cdi` names by function."""

    pool: FunctionPool
    units: tuple[NetworkUnit, ...]
    near: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cdi: Mapping[str, str] = field(default_factory=dict)

    def grant(self, ids: tuple[str, ...]) -> Grant:
        """HostError where one of them is not of the pool any more."""
        by_address = {unit.address: unit for unit in self.units}
        missing = [number for number in ids if number not in by_address]
        if missing:
            raise HostError("allocate", f"{self.pool.resource} {missing[0]}", "there is no such function")
        chosen = [by_address[number] for number in ids]
        named = tuple(self.cdi[unit.address] for unit in chosen if unit.address in self.cdi)
        nodes = [path for unit in chosen if unit.address not in self.cdi for path in unit.nodes]
        name = variable_of(self.pool.resource)
        envs = {name: ",".join(ids), f"{name}_INFO": json.dumps({unit.address: self._info(unit) for unit in chosen})}
        vhost = VHOST if self.pool.needs_vhost else ()
        return Grant(envs=envs, nodes=_access((*nodes, *vhost)), cdi_devices=named)

    def _info(self, unit: NetworkUnit) -> Mapping[str, Mapping[str, str]]:
        """What a program in the container may read instead of asking the kernel."""
        info: dict[str, Mapping[str, str]] = {"generic": {"deviceID": unit.address}}
        extra = {**self.pool.info.get(EVERYWHERE, {}), **self.pool.info.get(unit.address, {})}
        if extra:
            info["extra"] = extra
        if unit.driver == VFIO_PCI:
            info["vfio"] = {"mount": VFIO, "dev-mount": unit.nodes[-1]}
        elif unit.driver in UIO_DRIVERS:
            info["uio"] = {"mount": unit.nodes[0]}
        elif unit.vdpa:
            info |= {"vdpa": {"mount": unit.vdpa.node}} if unit.vdpa.node else {}
        elif unit.rdma:
            kinds = {_kind(path): path for path in unit.nodes}
            info["rdma"] = {**kinds, "rdma_dev": unit.rdma}
        return info

    def prefer(self, available: tuple[str, ...], must: tuple[str, ...], size: int) -> tuple[str, ...]:
        return self.prefer_near(available, must, size, ())

    def prefer_near(
        self, available: tuple[str, ...], must: tuple[str, ...], size: int, gpus: tuple[str, ...]
    ) -> tuple[str, ...]:
        """The functions nearest to these GPUs (PCI addresses), one GPU after the other; without GPUs on one NUMA node.
        Then from ports that are not chosen yet, then from those with the most functions left.
        """
        ports = {unit.address: unit.port for unit in self.units}
        numa = {unit.address: unit.numa_nodes for unit in self.units}
        left = Counter(ports[one] for one in available if one in ports)
        chosen = list(dict.fromkeys(must))
        rest = [one for one in dict.fromkeys(available) if one not in chosen and one in ports]
        while len(chosen) < size and rest:
            gpu = gpus[len(chosen) % len(gpus)] if gpus else ""
            used = Counter(ports.get(one, "") for one in chosen)
            nodes = {numa.get(one, ()) for one in chosen}
            best = min(
                rest,
                key=lambda one: (
                    self.near.get(ports[one], {}).get(gpu, 0),
                    not gpu and bool(nodes) and numa[one] not in nodes,
                    used[ports[one]],
                    used[ports[one]] - left[ports[one]],
                    one,
                ),
            )
            chosen.append(best)
            rest.remove(best)
        return tuple(chosen) if len(chosen) >= size else ()


def _kind(path: str) -> str:
    return path.removeprefix(f"{DEV_INFINIBAND}/").rstrip("0123456789")


def variable_of(resource: str) -> str:
    """`nvidia.com/sriov_rail0` -> `PCIDEVICE_NVIDIA_COM_SRIOV_RAIL0`; as programs look for it, so a hyphen stays."""
    return "PCIDEVICE_" + re.sub(r"[./]", "_", resource.upper())


def _function_offer(pool: FunctionPool, units: tuple[NetworkUnit, ...], cdi: bool, state: NodeState) -> Offer:
    named: dict[str, str] = {}
    if cdi:
        for unit in units:
            for name in _cdi_names(state, [unit.rdma]) if unit.rdma else ():
                named[unit.address] = name
    devices = tuple(OfferedDevice(one.address, not one.problem, one.numa_nodes, one.problem) for one in units)
    return Offer(pool.resource, devices, FunctionAllocator(pool, units, distances(units, state), named))


def distances(units: Iterable[NetworkUnit], state: NodeState) -> Mapping[str, Mapping[str, int]]:
    """How far each port is from each GPU, by PCI address of both."""
    gpus = [state.pci[gpu.pci_address] for gpu in state.gpus.values() if gpu.pci_address in state.pci]
    ports = {unit.port for unit in units if unit.port in state.pci}
    return {port: {gpu.address: relation(state.pci[port], gpu).distance for gpu in gpus} for port in ports}
