"""What the node offers to pods, kept as the node is: each look at node or health becomes offers to the kubelet.

A thread of its own, because the kubelet may be away, and NVLinks are asked of NVML. It imports gRPC once there is a
kubelet to talk to: a node without one does not pay for it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from nodeagent.errors import HostError, SpecError
from nodeagent.host.mps import MpsWish
from nodeagent.host.paths import KUBELET_PLUGINS
from nodeagent.host.ports import Host
from nodeagent.host.rounds import Complaint, Rest, Rounds
from nodeagent.host.unix_socket import answers
from nodeagent.resources.gpu_offers import GpuOffers, gpu_offers, wanted_mps
from nodeagent.resources.gpu_units import Around
from nodeagent.spec.containers import Component
from nodeagent.spec.foreign import Imported
from nodeagent.spec.plugin_config import applied, read_plugin_config
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.health import Health
from nodeagent.state.node import NodeState
from nodeagent.state.topology import NvLinks
from nodeagent.supervisor.mps_keeper import MpsKeeper
from nodeagent.supervisor.network_desk import NetworkDesk
from nodeagent.supervisor.pairing import near_ports

if TYPE_CHECKING:
    from nodeagent.kubernetes.plugins import DevicePlugins

log = logging.getLogger("nodeagent")
LOOK_SECONDS = 1.0
GPUS, NETWORK = "gpus", "network"
RIVAL = "nvidia-gpu.sock"  # of NVIDIA's plugin (k8s-device-plugin internal/plugin/server.go)
PATIENCE_SECONDS = 5.0


@dataclass
class OfferDesk:
    """`state` is the node as last observed, `health` the last verdicts; `hardware` is held while NVML is asked.

    `path_of` says where a path of the machine really is. `held` are GPUs that are kept from pods, with the reason.
    """

    host: Host
    spec: NodeSpec
    state: Callable[[], NodeState | None]
    health: Callable[[], Health]
    hardware: threading.Lock
    path_of: Callable[[str], str] = str
    held: Callable[[], Mapping[str, str]] = dict
    mps: Callable[[], frozenset[str]] = frozenset
    keeper: MpsKeeper | None = None
    found: GpuOffers = field(default_factory=GpuOffers)
    _plugins: DevicePlugins | None = None

    def __post_init__(self) -> None:
        self._links: tuple[frozenset[str], Mapping[str, NvLinks]] = (frozenset(), {})
        self._lock = threading.Lock()
        self._complaint = Complaint("device plugins")
        self._said: tuple[str, ...] = ()
        self._seen: NodeState | None = None
        self._configuration: tuple[str, Imported] | None = None
        self._effective: NodeSpec | None = None
        self._rounds = Rounds("offers", self.look, lambda: Rest(LOOK_SECONDS), at_end=self._close)
        self.network = NetworkDesk(self.host.files, self._has_rival)
        self.host.offering.on_change = self.publish

    def start(self) -> None:
        self._rounds.start()
        if self.keeper is not None:
            self.keeper.start()

    def stop(self) -> None:
        if self.keeper is not None:
            self.keeper.stop()
        self._rounds.stop(PATIENCE_SECONDS)

    def take_over(self, spec: NodeSpec) -> None:
        """The node file was read again."""
        self.spec = spec
        self.ask()

    def ask(self) -> None:
        """Something may have changed; returns at once."""
        self._rounds.wake()

    def look(self) -> None:
        """One round."""
        problems = []
        for part in (self._read_configuration, self._follow_kubelet, self._read_links):
            try:
                part()
            except (HostError, SpecError) as error:
                problems.append(str(error))
        self.publish()
        self._complaint.say("; ".join(problems))

    @property
    def directory(self) -> str:
        """The kubelet's, "" where nothing is to be offered."""
        section = self.spec.kubernetes
        return self.path_of(section.plugin_directory or KUBELET_PLUGINS) if section is not None else ""

    def _follow_kubelet(self) -> None:
        """Begin when there is a kubelet; end when the node file does not want it any more.

        Not while steps are taken: what they change was not offered when they were planned, and so is not withdrawn.
        """
        directory = self.directory
        if self._plugins is not None and self._plugins.directory != directory:
            self._close()
        is_due = self._plugins is None and directory and os.path.exists(f"{directory}/kubelet.sock")
        if not is_due or not self.hardware.acquire(timeout=LOOK_SECONDS):
            return
        try:
            self._begin(directory)
            self.publish()
        finally:
            self.hardware.release()

    def _begin(self, directory: str) -> None:
        try:
            from nodeagent.kubernetes.plugins import DevicePlugins  # noqa: PLC0415 - gRPC is 12 MB
        except ImportError as error:
            raise HostError(
                "offer devices at", directory, f"{error.name} is missing", "install nodeagent[kubernetes]"
            ) from error
        self._plugins = DevicePlugins(directory)
        self._plugins.start()

    def _close(self) -> None:
        with self._lock:
            plugins, self._plugins = self._plugins, None
            self.found = GpuOffers()
            self.host.offering.announce(frozenset())
        if plugins is not None:
            plugins.stop()

    def _read_links(self) -> None:
        """NVLinks, anew when there are other GPUs; without them PCIe decides alone."""
        state = self.state() if self._plugins is not None else None
        there = frozenset(state.gpus) if state is not None else frozenset()
        if there == self._links[0] or not self.hardware.acquire(timeout=LOOK_SECONDS):
            return
        try:
            self._links = (there, {one.pci_address: one for one in self.host.nvml.nvlinks()} if there else {})
        finally:
            self.hardware.release()

    def publish(self) -> None:
        """Offer what follows from what is known now; in any thread, and done when it returns."""
        with self._lock:
            state = self.state()
            if self._plugins is None or state is None:
                return
            if state is not self._seen:
                self._seen = state
                self.host.offering.settle()
            network = self.network.look(self.spec, state, self.health(), self.host.offering.withdrawn)
            self.found = self._offers(state)
            functions = {one.id for offer in network.offers for one in offer.devices if one.id in state.pci}
            self.host.offering.announce(frozenset(unit.gpu for unit in self.found.units) | functions)
            places = {unit.uuid: unit.pci_address for unit in self.found.units}
            paired = near_ports(self.found.offers, self.network.pairing, places, self.network.near)
            self._plugins.publish(paired, GPUS)
            self._plugins.publish(network.offers, NETWORK)
        self._say((*self.found.remarks, *network.remarks))

    def _offers(self, state: NodeState) -> GpuOffers:
        spec = self._effective
        section = spec.kubernetes if spec is not None else None
        if spec is None or section is None:
            return GpuOffers()
        if section.gpus.offer is Component.AUTO and answers(f"{self.directory}/{RIVAL}"):
            return GpuOffers(remarks=("GPUs are left to NVIDIA's device plugin; `offer: on` takes them over",))
        around = Around(
            health=self.health(),
            nvlinks=self._links[1],
            withdrawn=self.host.offering.withdrawn,
            held=self.held(),
            mps=self.mps(),
        )
        return gpu_offers(spec, state, around, self.found.units)

    def _read_configuration(self) -> None:
        """The configuration file of NVIDIA's plugin, where one is named; HostError, SpecError: the last good one stays.

        `_effective` is the node file with what it says; nothing is offered before it was read once.
        """
        section = self.spec.kubernetes
        if section is None or not section.gpus.config_file:
            self._effective, self._configuration = self.spec, None
            return
        path = section.gpus.config_file
        text = self.host.files.read(path)
        if self._configuration is None or self._configuration[0] != text:
            self._configuration = (text, read_plugin_config(text, path))
            for remark in self._configuration[1].remarks:
                log.info("device plugins: %s", remark)
        gpus = applied(section.gpus, self._configuration[1])
        self._effective = replace(self.spec, kubernetes=replace(section, gpus=gpus))

    def _has_rival(self, name: str) -> bool:
        """Whether another plugin's socket answers, where plugins put them now or did before."""
        parent = os.path.dirname(self.directory)
        return any(answers(f"{place}/{name}") for place in (self.directory, f"{parent}/plugins_registry"))

    def _say(self, remarks: Iterable[str]) -> None:
        remarks = tuple(remarks)
        for remark in remarks:
            if remark not in self._said:
                log.info("device plugins: %s", remark)
        self._said = remarks

    def wanted_mps(self) -> Mapping[str, MpsWish]:
        """The MPS control daemons that the offers need, by resource."""
        spec, state, units = self._effective, self.state(), self.found.units
        if spec is None or state is None:
            return {}
        needs = wanted_mps(spec, state, units)
        return {name: MpsWish(self.path_of(one.directory), one.gpus, one.shares) for name, one in needs.items()}

    def document(self) -> dict[str, Any]:
        """For the control socket."""
        plugins = self._plugins
        return {
            "schemaVersion": 1,
            "directory": self.directory,
            "kubelet": plugins is not None,
            "problem": self._complaint.text,
            "remarks": [*self.found.remarks, *self.network.found.remarks],
            "resources": list(plugins.rows()) if plugins is not None else [],
        }
