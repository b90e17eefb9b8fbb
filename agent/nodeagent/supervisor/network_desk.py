"""What the node offers of its NICs, from the files of other device plugins; for the thread that makes offers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nodeagent.errors import HostError, SpecError
from nodeagent.host.function_facts import read_function_facts
from nodeagent.host.ports import Files
from nodeagent.resources.network_offers import NetworkOffers, NetworkPools, distances, network_offers
from nodeagent.spec.containers import Component
from nodeagent.spec.kubernetes import PluginNetwork
from nodeagent.spec.network_plugins import FunctionPool, SharedPool, parse_functions, parse_shared
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.functions import UIO_DRIVERS, Asked
from nodeagent.state.health import Health
from nodeagent.state.node import NodeState
from nodeagent.supervisor.pairing import Distances, Pairing, near_gpus

Around = tuple[NetworkPools, NodeState, Health, frozenset[str]]


def _same(now: Around, before: Around) -> bool:
    """State and health are values that are replaced as a whole, so that one look at each is enough."""
    return now[1] is before[1] and now[2] is before[2] and (now[0], now[3]) == (before[0], before[3])


@dataclass
class NetworkDesk:
    """Keeps what it read and offered last: a file with a mistake changes nothing until it is right again.

    `answers` says whether anybody listens on a socket of this name in the kubelet's directory.
    """

    files: Files
    answers: Callable[[str], bool] = lambda _: False
    pairing: Pairing = field(default_factory=Pairing)
    found: NetworkOffers = field(default_factory=NetworkOffers)
    near: Distances = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._shared: tuple[SharedPool, ...] = ()
        self._functions: tuple[FunctionPool, ...] = ()
        self._read: dict[str, tuple[str, str]] = {}
        self._problems: dict[str, str] = {}
        self._made = NetworkOffers()
        self._around: Around | None = None

    def look(
        self, spec: NodeSpec, state: NodeState, health: Health, withdrawn: frozenset[str] = frozenset()
    ) -> NetworkOffers:
        """The offers of this moment; `withdrawn` are addresses of functions that a step of ours changes just now."""
        section = spec.kubernetes.network if spec.kubernetes is not None else None
        if section is None or section.offer is Component.OFF:
            self.found, self.near, self._made = NetworkOffers(), {}, NetworkOffers()
            return self.found
        around = (self._pools(section), state, health, withdrawn)
        if self._around is None or not _same(around, self._around):  # the node is looked at less often than this asks
            pools, *_ = self._around = around
            state = self._with_facts(state, pools)
            self._made = network_offers(pools, state, health, self._made, withdrawn)
            self.near = distances((unit for mine in self._made.units.values() for unit in mine), state)
        left = [one.resource for one in self._made.offers if self._is_left(section, one.resource)]
        mine = near_gpus((one for one in self._made.offers if one.resource not in left), self.pairing)
        said = [f"{name} is left to its own plugin; `offer: on` takes it over" for name in left]
        self.found = replace(self._made, offers=mine, remarks=(*self._problems.values(), *said, *self._made.remarks))
        return self.found

    def _with_facts(self, state: NodeState, pools: NetworkPools) -> NodeState:
        """The state with what these pools ask for of functions, and no other ones do."""
        asked = frozenset[Asked]().union(*(pool.asked for pool in pools.functions))
        if not asked and not any(one.driver in UIO_DRIVERS for one in state.pci.values()):
            return state
        return replace(state, functions=read_function_facts(self.files, asked, state.pci))

    def _is_left(self, section: PluginNetwork, resource: str) -> bool:
        """Both plugins name their sockets by the resource (rdma: NAME.sock, SR-IOV: PREFIX_NAME.sock)."""
        name = resource.partition("/")[2]
        sockets = (f"{name}.sock", f"{resource.replace('/', '_')}.sock")
        return section.offer is Component.AUTO and any(map(self.answers, sockets))

    def _pools(self, section: PluginNetwork) -> NetworkPools:
        shared = self._text("shared", section.rdma_config_file, "")
        if shared is not None:
            try:
                self._shared = parse_shared(shared, section.rdma_config_file) if shared else ()
            except SpecError as error:
                self._problems["shared"] = str(error)
        functions = self._text("functions", section.sriov_config_file, section.sriov_prefix)
        if functions is not None:
            try:
                place = section.sriov_config_file
                self._functions = parse_functions(functions, place, section.sriov_prefix) if functions else ()
            except SpecError as error:
                self._problems["functions"] = str(error)
        return NetworkPools(self._shared, self._functions, section.cdi)

    def _text(self, name: str, path: str, prefix: str) -> str | None:
        """The file's text where it is another than last time, "" without a file, None where nothing changed."""
        try:
            text = self.files.read(path) if path else ""
        except HostError as error:
            self._problems[name] = f"{error}; what it said before still counts"
            self._read.pop(name, None)
            return None
        if self._read.get(name) == (text, prefix):
            return None
        self._read[name] = (text, prefix)
        self._problems.pop(name, None)
        return text
