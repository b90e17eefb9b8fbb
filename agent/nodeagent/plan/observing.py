"""Reads the whole node into one NodeState, cheaply first; who holds what is read only when a plan needs to know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nodeagent.errors import HostError, UnsupportedError
from nodeagent.host.congestion import read_congestion
from nodeagent.host.container_facts import read_containers
from nodeagent.host.driver_facts import read_capabilities, read_driver
from nodeagent.host.kernel_policy import PeerMemoryOwner, read_policy
from nodeagent.host.link_facts import read_netdevs, read_rdma
from nodeagent.host.loaded_options import read_options
from nodeagent.host.module_facts import read_modules
from nodeagent.host.numbering import read_numbers, read_switched
from nodeagent.host.paths import GPUS, RAILS
from nodeagent.host.pci_facts import read_groups, read_pci
from nodeagent.host.pod_names import without_ended
from nodeagent.host.ports import Host
from nodeagent.host.process_facts import read_device_nodes, read_majors
from nodeagent.host.rdma_netlink import read_netns_shared
from nodeagent.host.runtime_facts import read_runtimes
from nodeagent.host.topology_facts import read_topology
from nodeagent.plan.graph import MODULE_OF_DRIVER
from nodeagent.plan.quiet import KNOWN_SERVICES
from nodeagent.resources.guarded import CONTROL
from nodeagent.resources.link_restore import KEPT_GROUPS
from nodeagent.state.containers import ContainerQuery
from nodeagent.state.devlink import DevlinkDevice
from nodeagent.state.gpu import Gpu, MigMode
from nodeagent.state.health import Health
from nodeagent.state.link_settings import Group, GroupState
from nodeagent.state.modules import ModuleFile
from nodeagent.state.network import Netdev, PciFunction
from nodeagent.state.node import ADDRESSING, NodeState, Unknown, settings_of
from nodeagent.state.pods import PodFacts, PodsOnGpus
from nodeagent.state.processes import Process
from nodeagent.state.rails import gpus_of, nics_of

LOOPBACK = "lo"


@dataclass(frozen=True)
class LinkInterest:
    """What must be read of interfaces beyond the ordinary: groups of settings, addresses and routes, settings of RoCE's
    congestion control by the driver's names.
    """

    groups: tuple[Group, ...] = ()
    addressing: bool = False
    congestion: tuple[str, ...] = ()


NO_MORE = LinkInterest()


class Observer:
    """Observes one node; keeps only what is costly to read and changes rarely (who exports the peer memory API)."""

    def __init__(self, host: Host, control_address: str = "") -> None:
        self.host = host
        self._control = control_address
        self._peer_memory = PeerMemoryOwner(host.files)
        self.health: Callable[[], Health | None] = lambda: None  # the agent that runs knows
        self.pods: Callable[[str], PodFacts | None] = lambda _socket: None  # asks the kubelet; whoever may, sets it

    def observe(
        self, interest: Sequence[str], *, with_roce: bool = False, with_pcie: bool = False, with_devlink: bool = False
    ) -> NodeState:
        """Everything but the holders. `interest` are the modules whose files and parameters are wanted.

        RoCE defaults are looked at only when wanted: the kernel shows them in a configfs directory one has to make.
        Configuration spaces are too: each costs a thousand reads of the bus. So is devlink: some drivers hand its
        requests on to firmware.
        """
        state = self._observe(interest, with_roce=with_roce)
        if with_devlink:
            devlink, unread = _devlink(self.host, state.pci)
            state = replace(state, devlink=devlink, unknown=state.unknown + unread)
        if not with_pcie:
            return state
        return replace(state, pcie=read_topology(self.host.files, (*gpus_of(state), *nics_of(state))).nodes)

    def _observe(self, interest: Sequence[str], *, with_roce: bool) -> NodeState:
        host, files = self.host, self.host.files
        module_files = _module_files(host, interest)
        builtin = tuple(name for name, file in module_files.items() if file.builtin)
        modules = read_modules(files, parameters_of=(*interest, *module_files), builtin=builtin)
        pci = read_pci(files)
        gpus, unknown = _gpus(host) if "nvidia" in modules else ((), ())
        netdevs, unread = _netdevs(host, pci, self._control)
        return NodeState(
            kernel=read_policy(files, self._peer_memory.among(modules)),
            modules=modules,
            module_files=module_files,
            loaded_options={name: text for name, text in read_options(files).items() if name in modules},
            pci=pci,
            driver=read_driver(files),
            capabilities=read_capabilities(files) if any(one.mig_mode is MigMode.ENABLED for one in gpus) else {},
            gpus={found.uuid: found for found in gpus if not _is_elsewhere(found, pci)},
            netdevs=netdevs,
            rdma=read_rdma(files, with_counters=False, with_roce=with_roce),
            rails=read_numbers(files, RAILS),
            rails_switched=read_switched(files, RAILS),
            gpus_on_record=read_numbers(files, GPUS),
            rdma_netns_shared=read_netns_shared(files),
            majors=read_majors(files),
            device_nodes=read_device_nodes(files),
            nvml_pid=host.nvml.pid(),
            offered=host.offering.offered,
            processes=_described(host, gpus),
            health=self.health(),
            unknown=unknown + unread,
        )

    def add_groups(self, state: NodeState) -> NodeState:
        """The same state with all that shares an IOMMU group with a function of it."""
        return replace(state, iommu_groups=read_groups(self.host.files, state.pci))

    def add_containers(self, state: NodeState, query: ContainerQuery) -> NodeState:
        """The same state with what containers get from the node."""
        version = state.driver.version if state.driver else ""
        addresses = [gpu.pci_address for gpu in state.gpus.values()]
        found = read_containers(self.host.files, query, version, addresses)
        if query.runtimes:
            found = replace(found, runtimes=read_runtimes(self.host.files, self.host.runtimes))
        return replace(state, containers=found)

    def add_links(self, state: NodeState, interest: LinkInterest) -> NodeState:
        """The same state with what must be read of interfaces beyond the ordinary: a dump for each group and kind.

        What cannot be read is unknown, by itself: the plan tells why, and goes on with all else.
        """
        if interest.addressing:
            try:
                state = replace(state, addressing=self.host.links.addressing.read())
            except HostError as error:
                state = replace(state, unknown=(*state.unknown, Unknown(ADDRESSING, str(error))))
        if interest.congestion:
            found_of = read_congestion(self.host.files, _mlx5(state.pci), interest.congestion)
            state = replace(state, congestion=found_of)
        found, unread = _settings(self.host, interest.groups)
        netdevs = {
            name: replace(one, settings={**one.settings, **found.get(name, {})}) for name, one in state.netdevs.items()
        }
        return replace(state, netdevs=netdevs, unknown=state.unknown + unread)

    def add_pods(self, state: NodeState, socket: str) -> NodeState:
        """The same state with the pods that were given GPUs; where the kubelet does not say, every GPU may have one."""
        try:
            facts = self.pods(socket)
        except UnsupportedError as error:
            return replace(state, unknown=(*state.unknown, Unknown("pods", str(error))))
        except HostError as error:
            nobody_knows = (f"a pod, perhaps ({error})",)
            gpus = {uuid: replace(found, pods=nobody_knows) for uuid, found in state.gpus.items()}
            return replace(state, gpus=gpus)
        if facts is None:
            return state
        known = PodsOnGpus(without_ended(self.host.files, facts.users), state.processes)
        return replace(state, gpus={uuid: known.on(found) for uuid, found in state.gpus.items()})

    def add_holders(self, state: NodeState, services: Iterable[str]) -> NodeState:
        """The same state with processes and services: a walk over every process of the machine."""
        host = self.host
        majors = [major for driver, major in state.majors.items() if driver in MODULE_OF_DRIVER]
        found = host.processes.holding(majors) if majors else ()
        known = host.processes.describe(sorted(_gpu_pids(state.gpus.values()) - {process.pid for process in found}))
        units = tuple(dict.fromkeys((*KNOWN_SERVICES, *services)))
        hidden = host.processes.unreadable
        if state.netdevs:
            unread = tuple(group for group in KEPT_GROUPS if not _is_read(group, state))
            state = self.add_links(state, LinkInterest(unread))
        unseen = (Unknown(f"open files of {len(hidden)} process(es)", "not permitted to look; run as root"),)
        return replace(
            state,
            unknown=state.unknown + (unseen if hidden else ()),
            processes={process.pid: process for process in (*found, *known)},
            link_setups=host.links.setups(),
            rdma_holders=host.links.rdma.holders() if state.rdma else {},
            services={service.unit: service for service in host.services.show(units) if service.active},
            nvml_pid=host.nvml.pid(),
        )


def _netdevs(
    host: Host, pci: Mapping[str, PciFunction], control: str
) -> tuple[Mapping[str, Netdev], tuple[Unknown, ...]]:
    """Interfaces with their quality of service, which only physical functions and software devices can have."""
    uses = {name: with_control(own, control) for name, own in host.links.uses().items()}
    found = read_netdevs(host.files, uses)
    own = [name for name, one in found.items() if name != LOOPBACK and not _is_vf(one, pci)]
    try:
        dcb = host.links.dcb.read_all(own)
        vfs = {name: host.links.vfs(name) for name, one in found.items() if _has_vfs(one, pci)}
    except HostError as error:  # the links themselves are known, and so is everything else on the node
        return found, (Unknown("quality of service and virtual functions", str(error)),)
    return {name: replace(one, dcb=dcb.get(name), vfs=vfs.get(name, ())) for name, one in found.items()}, ()


def _settings(
    host: Host, groups: tuple[Group, ...]
) -> tuple[Mapping[str, Mapping[Group, GroupState]], tuple[Unknown, ...]]:
    """All groups at once; where that fails, one by one: a driver that fails in one of them does not hide the others."""
    if not groups:
        return {}, ()
    try:
        return host.links.settings.read_all(groups), ()
    except HostError as error:
        if len(groups) == 1:
            return {}, (Unknown(settings_of(groups[0]), str(error)),)
    found: dict[str, dict[Group, GroupState]] = {}
    unread: tuple[Unknown, ...] = ()
    for group in groups:
        part, unknown = _settings(host, (group,))
        unread += unknown
        for name, settings in part.items():
            found.setdefault(name, {}).update(settings)
    return found, unread


def _is_read(group: Group, state: NodeState) -> bool:
    shown = any(group in one.settings for one in state.netdevs.values())
    return shown or state.why_unknown(settings_of(group)) != ""


def _devlink(host: Host, pci: Mapping[str, PciFunction]) -> tuple[Mapping[str, DevlinkDevice], tuple[Unknown, ...]]:
    try:
        return host.links.devlink.read_all([address for address, found in pci.items() if not found.is_vf]), ()
    except HostError as error:
        return {}, (Unknown("devlink", str(error)),)


def _mlx5(pci: Mapping[str, PciFunction]) -> tuple[str, ...]:
    """Physical functions that can have congestion control."""
    return tuple(address for address, one in pci.items() if one.driver == "mlx5_core" and not one.is_vf)


def with_control(uses: tuple[str, ...], address: str) -> tuple[str, ...]:
    """With the connection that the agent is controlled through, where the interface has its address."""
    has_it = address and any(use.startswith(f"address {address}/") for use in uses)
    return (CONTROL, *uses) if has_it else uses


def _has_vfs(found: Netdev, pci: Mapping[str, PciFunction]) -> bool:
    return found.pci_address in pci and pci[found.pci_address].vf_addresses != ()


def _is_vf(found: Netdev, pci: Mapping[str, PciFunction]) -> bool:
    return found.pci_address in pci and pci[found.pci_address].is_vf


def _described(host: Host, gpus: Iterable[Gpu]) -> Mapping[int, Process]:
    """The processes that NVML names, so that whoever is in the way of a MIG layout has a name; no walk over /proc."""
    pids = _gpu_pids(gpus)
    return {found.pid: found for found in host.processes.describe(sorted(pids))} if pids else {}


def _is_elsewhere(found: Gpu, pci: Mapping[str, PciFunction]) -> bool:
    """Whether another driver has it by now: a session that was open before still lists it."""
    return found.pci_address in pci and pci[found.pci_address].driver not in ("", "nvidia")


def _gpu_pids(gpus: Iterable[Gpu]) -> set[int]:
    return {pid for gpu in gpus for pid in (*gpu.pids, *(pid for one in gpu.instances for pid in one.pids))}


def _module_files(host: Host, interest: Sequence[str]) -> Mapping[str, ModuleFile]:
    return {file.name: file for name in interest for file in host.kmod.lookup(name)}


def _gpus(host: Host) -> tuple[tuple[Gpu, ...], tuple[Unknown, ...]]:
    try:
        gpus, faults = host.nvml.gpus()
    except HostError as error:  # the module is loaded, so that "no driver" is a puzzle and not an absence
        return (), (Unknown("GPUs", str(error)),)
    return gpus, tuple(Unknown(f"GPU {fault.uuid}", fault.reason) for fault in faults)
