"""The network half of a round of telemetry: RDMA ports, interfaces, quality of service, what drivers count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from nodeagent.errors import HostError
from nodeagent.host.gid_facts import read_gids
from nodeagent.host.link_facts import read_netdevs, read_rdma_device
from nodeagent.host.paths import SYS_CLASS_INFINIBAND
from nodeagent.host.ports import Host
from nodeagent.metrics.unwrap import Unwrap
from nodeagent.resources.gid_selection import choose_gid
from nodeagent.state.network import Netdev, RdmaDevice, RdmaPort
from nodeagent.state.node import NodeState

Statistics = Mapping[str, Mapping[str, int]]
GidIndexes = Mapping[tuple[str, int], int]


def no_statistics(_netdevs: Sequence[str]) -> Statistics:
    """For one-shot commands, which do not ask the drivers."""
    return {}


@dataclass(frozen=True)
class NetworkSample:
    """The state with interfaces and counters as they are now, what drivers count, and GIDs by (device, port)."""

    state: NodeState
    statistics: Statistics
    gid_indexes: GidIndexes


class NetworkSampler:
    """One thread's. `errors` counts what could not be read; each device fails for itself."""

    def __init__(self, host: Host) -> None:
        self.statistics: Callable[[Sequence[str]], Statistics] = no_statistics
        self.errors = 0
        self._host = host
        self._unwrap = Unwrap()
        self._gids: tuple[int, GidIndexes] = (-1, {})

    def read(self, observed: NodeState, passes: int) -> NetworkSample:
        """`observed` is what pass number `passes` saw."""
        rdma = self._unwrap(self._rdma())
        seen = {(name, port.port): port for name, device in observed.rdma.items() for port in device.ports}
        known = {name: _with_roce(device, seen) for name, device in rdma.items()}
        below = {port.netdev for device in known.values() for port in device.ports}
        netdevs = self._netdevs(below)
        return NetworkSample(
            replace(observed, rdma=known, netdevs=netdevs),
            self.statistics(sorted(below & netdevs.keys())),
            self._gid_indexes(known, passes),
        )

    def _rdma(self) -> Mapping[str, RdmaDevice]:
        """A device whose driver answers with an error does not take the others with it."""
        found = {}
        for name in self._host.files.names(SYS_CLASS_INFINIBAND):
            try:
                found[name] = read_rdma_device(self._host.files, name)
            except HostError:
                self.errors += 1
        return found

    def _netdevs(self, below_rdma: set[str]) -> Mapping[str, Netdev]:
        """Interfaces, those below RDMA ports with their quality of service."""
        found = read_netdevs(self._host.files, {})
        try:
            dcb = self._host.links.dcb.read_all(sorted(below_rdma & found.keys()))
        except HostError:
            self.errors += 1
            return found
        return {name: replace(one, dcb=dcb.get(name)) for name, one in found.items()}

    def _gid_indexes(self, rdma: Mapping[str, RdmaDevice], passes: int) -> GidIndexes:
        """Read once for each pass of the loop: a table has up to 256 slots, each a file, and changes with addresses."""
        if self._gids[0] != passes:
            found = {
                (name, port.port): self._gid_index(name, port) for name, device in rdma.items() for port in device.ports
            }
            self._gids = passes, {key: index for key, index in found.items() if index is not None}
        return self._gids[1]

    def _gid_index(self, device: str, port: RdmaPort) -> int | None:
        try:
            gid = choose_gid(read_gids(self._host.files, device, port.port), port.netdev).gid
        except HostError:
            self.errors += 1
            return None
        return gid.index if gid else None


def _with_roce(device: RdmaDevice, observed: Mapping[tuple[str, int], RdmaPort]) -> RdmaDevice:
    """With what the last pass saw of rdma_cm's defaults, which live in a directory that a reader has to make."""
    ports = (
        replace(port, roce_tos=seen.roce_tos, traffic_class=seen.traffic_class)
        if (seen := observed.get((device.name, port.port)))
        else port
        for port in device.ports
    )
    return replace(device, ports=tuple(ports))
