"""The holder graph: who stands on what, derived from the observed state alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nodeagent.state.gpu import Gpu
from nodeagent.state.node import NodeState
from nodeagent.state.processes import DeviceNumber, Process
from nodeagent.state.things import Hold, Kind, Thing, gpu, module, netdev, nvml_worker, offer, pci, process, service

# Character drivers in /proc/devices and the module whose reference count an open file of theirs raises
# (drivers.md 1.1, 1.2 and 11: nv.c, uvm.c, gdrdrv.c, nvfs-core.c, uverbs_main.c, user_mad.c).
MODULE_OF_DRIVER: Mapping[str, str] = {
    "nvidia": "nvidia",
    "nvidia-frontend": "nvidia",
    "nvidiactl": "nvidia",
    "nvidia-caps": "nvidia",
    "nvidia-caps-imex-channels": "nvidia",
    "nvidia-nvswitch": "nvidia",
    "nvidia-nvlink": "nvidia",
    "nvidia-uvm": "nvidia_uvm",
    "nvidia-modeset": "nvidia_modeset",
    "gdrdrv": "gdrdrv",
    "nvidia-fs": "nvidia_fs",
    "infiniband_verbs": "ib_uverbs",
    "infiniband_mad": "ib_umad",
    "vfio": "vfio",
}
MODESET_MINOR = 254  # nvidia-modeset shares the nvidia major (nv-chardev-numbers.h)
# Clients of every GPU through the driver's peer-to-peer interface, and the display driver (drivers.md 1.1, mig.md 2.3).
CLIENTS_OF_EVERY_GPU = ("nvidia_peermem", "nv_peer_mem", "gdrdrv", "nvidia_fs", "nvidia_drm")
# One reference per live memory region registered for a NIC (nvidia-peermem.c: module_get on acquire).
MEMORY_REGISTRARS = ("nvidia_peermem", "nv_peer_mem")
# Removing these takes RDMA devices away under open verbs contexts without a refusal (uverbs disassociate).
RDMA_DRIVERS = ("mlx5_ib", "mlx4_ib", "bnxt_re", "irdma", "efa", "rdma_rxe", "siw")
ETHERNET = "0200"  # PCI class of a function whose driver makes an interface
# Modules through which only our own steps pass, never a workload's name.
PASS_THROUGH = (Kind.GPU, Kind.NETDEV, Kind.RDMA, Kind.PCI, Kind.DEVICE_NODE)


@dataclass(frozen=True)
class Graph:
    """Edges by what is held; `names` are texts for a person."""

    holders: Mapping[Thing, tuple[Hold, ...]]
    names: Mapping[Thing, str] = field(default_factory=dict)

    def standing_on(self, claims: Iterable[Thing]) -> tuple[Hold, ...]:
        """Every hold on the claims, directly or through others, leaves first; each holder's edges stay together."""
        order: list[Hold] = []
        visited: set[Thing] = set()

        def visit(held: Thing) -> None:
            if held in visited:
                return
            visited.add(held)
            for hold in self.holders.get(held, ()):
                visit(hold.holder)
            order.extend(self.holders.get(held, ()))

        for claim in claims:
            visit(claim)
        return tuple(order)

    def name(self, thing: Thing) -> str:
        if thing.kind in (Kind.NODE, Kind.MEMORY):
            return thing.name
        return self.names.get(thing, str(thing))


def build_graph(state: NodeState, own_services: Iterable[str], own_pids: Iterable[int] = ()) -> Graph:
    """The graph of a state; `own_services` are the units we may stop, so their processes appear as the service.

    `own_pids` are NVML workers besides the observer's own, as that of an agent that runs while a command looks.
    """
    owners = _owners(state, frozenset(own_services), own_pids)
    holders: dict[Thing, list[Hold]] = defaultdict(list)
    for hold in _all_holds(state, owners):
        if hold not in holders[hold.held]:
            holders[hold.held].append(hold)
    names = {process(pid): str(found) for pid, found in state.processes.items()}
    return Graph({held: tuple(holds) for held, holds in holders.items()}, names)


def _owners(state: NodeState, own_services: frozenset[str], own_pids: Iterable[int]) -> Mapping[int, Thing]:
    """PID -> the thing we stop instead of the process: a known service, or our NVML worker (one, for one step)."""
    owners = {
        pid: service(unit) for unit, found in state.services.items() if unit in own_services for pid in found.pids
    }
    owners |= {pid: service(found.unit) for pid, found in state.processes.items() if found.unit in own_services}
    workers = (*(() if state.nvml_pid is None else (state.nvml_pid,)), *own_pids)
    return owners | {pid: nvml_worker(workers[0]) for pid in workers}


def _all_holds(state: NodeState, owners: Mapping[int, Thing]) -> Iterator[Hold]:
    yield from _module_holds(state)
    yield from _gpu_holds(state, owners)
    for found in state.processes.values():
        yield from _process_holds(state, found, owners.get(found.pid, process(found.pid)))
    yield from _worker_holds(state)
    yield from _offer_holds(state)
    yield from _network_holds(state)
    yield from _virtual_function_holds(state)
    yield from _rdma_holds(state, owners)
    yield from _unexplained_references(state)


def _module_holds(state: NodeState) -> Iterator[Hold]:
    for found in state.modules.values():
        for holder in found.holders:
            yield Hold(module(holder), module(found.name), "uses its symbols")


def _gpu_holds(state: NodeState, owners: Mapping[int, Thing]) -> Iterator[Hold]:
    clients = [name for name in CLIENTS_OF_EVERY_GPU if name in state.modules]
    for found in state.gpus.values():
        this = gpu(found.uuid)
        yield Hold(this, module("nvidia"), "is driven by it", refuses=False)
        for name in clients:
            yield Hold(module(name), this, "is a client of every GPU")
        for pid in _pids(found):
            yield Hold(owners.get(pid, process(pid)), this, f"computes on GPU {found.index}")
        for pod in dict.fromkeys((*found.pods, *(pod for instance in found.instances for pod in instance.pods))):
            yield Hold(Thing(Kind.NODE, pod), this, f"was given GPU {found.index} or a part of it", refuses=False)


def _pids(found: Gpu) -> tuple[int, ...]:
    return (*found.pids, *(pid for instance in found.instances for pid in instance.pids))


def _process_holds(state: NodeState, found: Process, holder: Thing) -> Iterator[Hold]:
    drivers = {major: name for name, major in state.majors.items()}
    gpus = {gpu_.minor: gpu_ for gpu_ in state.gpus.values()}
    for number in found.opens:
        driver = drivers.get(number.major, "")
        held = _module_of(driver, number)
        if held == "nvidia" and driver in ("nvidia", "nvidia-frontend") and number.minor in gpus:
            yield Hold(holder, gpu(gpus[number.minor].uuid), f"has GPU {gpus[number.minor].index} open")
        if held and held in state.modules:
            yield Hold(holder, module(held), f"has {driver} open ({number.major}:{number.minor})")
        if driver == "infiniband_verbs":
            yield from _verbs_holds(state, holder)
        if driver == "vfio":
            yield from _vfio_holds(state, holder, number.minor)


def _module_of(driver: str, number: DeviceNumber) -> str:
    if driver in ("nvidia", "nvidia-frontend") and number.minor == MODESET_MINOR:
        return "nvidia_modeset"
    return MODULE_OF_DRIVER.get(driver, "")


def _verbs_holds(state: NodeState, holder: Thing) -> Iterator[Hold]:
    for name in RDMA_DRIVERS:
        if name in state.modules:
            yield Hold(holder, module(name), "has an RDMA device open", refuses=False)


def _worker_holds(state: NodeState) -> Iterator[Hold]:
    """Our own session holds the driver and every GPU, whether or not /proc lets us see its files."""
    if state.nvml_pid is None:
        return
    worker = nvml_worker(state.nvml_pid)
    yield Hold(worker, module("nvidia"), "has an NVML session")
    for uuid in state.gpus:
        yield Hold(worker, gpu(uuid), "has an NVML session")


def _offer_holds(state: NodeState) -> Iterator[Hold]:
    """A pod must not be given what is about to change; a pod that has it is another hold."""
    for uuid in sorted(state.offered & set(state.gpus)):
        yield Hold(offer(uuid), gpu(uuid), "is offered to pods", refuses=False)
    for address in sorted(state.offered & set(state.pci)):
        yield Hold(offer(address), pci(address), "is offered to pods", refuses=False)


def _network_holds(state: NodeState) -> Iterator[Hold]:
    for found in state.netdevs.values():
        this = netdev(found.name)
        for use in found.uses:
            yield Hold(Thing(Kind.NODE, f"{use} on {found.name}"), this, "would be disturbed", refuses=False)
        if found.driver and found.driver in state.modules:
            yield Hold(this, module(found.driver), "is driven by it", refuses=False)


def _rdma_holds(state: NodeState, owners: Mapping[int, Thing]) -> Iterator[Hold]:
    """Programs stand on the device that they have objects on, and the device on its function."""
    for found in state.rdma.values():
        this = Thing(Kind.RDMA, found.name)
        if found.pci_address:
            yield Hold(this, pci(found.pci_address), "belongs to it", refuses=False)
        for holder in state.rdma_holders.get(found.name, ()):
            who = owners.get(holder.pid, process(holder.pid))
            yield Hold(who, this, f"has {holder} on {found.name}", refuses=False)


def _vfio_holds(state: NodeState, holder: Thing, minor: int) -> Iterator[Hold]:
    """Unbinding a function whose VFIO group is open would wait in the kernel until its user ends."""
    for found in state.pci.values():
        if found.vfio_minor == minor:
            yield Hold(holder, pci(found.address), f"has it open through VFIO (group {found.iommu_group})")


def _virtual_function_holds(state: NodeState) -> Iterator[Hold]:
    """A virtual function goes with its physical one and with that one's driver, its interface goes with it."""
    with_netdev = {found.pci_address: found.name for found in state.netdevs.values()}
    for found in state.pci.values():
        this, parent = pci(found.address), state.pci.get(found.physfn)
        if not found.physfn and found.address in with_netdev:
            yield Hold(netdev(with_netdev[found.address]), this, "belongs to it", refuses=False)
        if found.vf_addresses and found.driver in state.modules:
            yield Hold(this, module(found.driver), "has virtual functions", refuses=False)
        if parent is None:
            continue
        yield Hold(this, pci(parent.address), "is a virtual function of it", refuses=False)
        if parent.driver in state.modules:
            yield Hold(this, module(parent.driver), "is a virtual function of its device", refuses=False)
        if found.address in with_netdev:
            yield Hold(netdev(with_netdev[found.address]), this, "belongs to it", refuses=False)
        elif found.driver in state.modules and found.class_code.startswith(ETHERNET):
            text = f"interface of {found.address} in another network namespace"
            yield Hold(Thing(Kind.NODE, text), this, "would be disturbed", refuses=False)


def _unexplained_references(state: NodeState) -> Iterator[Hold]:
    """References that neither modules nor visible processes account for: they refuse, so they must be named as such."""
    seen = _open_files_by_module(state)
    for found in state.modules.values():
        extra = found.foreign_references - seen.get(found.name, 0)
        if found.name in MEMORY_REGISTRARS and found.foreign_references:
            text = f"{found.foreign_references} memory region(s) registered through {found.name}"
            yield Hold(Thing(Kind.MEMORY, text), module(found.name), "is pinned for a NIC")
        elif extra > 0 and not seen.get(found.name):
            text = f"{extra} reference(s) to {found.name} by nobody visible"
            yield Hold(Thing(Kind.MEMORY, text), module(found.name), "keeps its reference count up")


def _open_files_by_module(state: NodeState) -> Mapping[str, int]:
    drivers = {major: name for name, major in state.majors.items()}
    counts: dict[str, int] = defaultdict(int)
    for found in state.processes.values():
        for number in found.opens:
            counts[_module_of(drivers.get(number.major, ""), number)] += 1
    if state.nvml_pid is not None:
        counts["nvidia"] += 1
    return counts
