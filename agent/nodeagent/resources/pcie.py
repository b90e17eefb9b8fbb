"""Section `pcie`: read request size and relaxed ordering of NICs, ACS redirect on bridges between a GPU and a NIC.

Sources: PCI Express Base Specification 5.0, 7.5.3.4 (Device Control) and 7.7.11 (ACS); NVIDIA GPUDirect RDMA guide and
rdma-core's rdma_topo for ACS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, SettingStep, Step, Wish
from nodeagent.resources.topology import SILENT, SILENT_ADVICE, bridges_between, reordering_port
from nodeagent.spec.pcie import Pcie
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.network import PciFunction
from nodeagent.state.node import NodeState
from nodeagent.state.rails import MELLANOX, SWITCHED, gpus_of, nics_of, relation
from nodeagent.state.things import Kind, Thing, pci
from nodeagent.state.topology import ACS_REDIRECT_BITS, PcieSetting, PortKind

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

WANTED = "the node file wants it so"
TRANSLATING = ("DMA", "DMA-FQ")
VGPU_MODULE = "nvidia_vgpu_vfio"
DATA_DIRECT = "2100"  # device of ConnectX-8's and later data-direct function (pci.ids, rdma-core rdma_topo)


@dataclass(frozen=True, kw_only=True)
class SetPcie(SettingStep):
    """Write one setting of a function's configuration space; `wanted` and `before` are what `PcieConfig.value` gives.

    Nothing is disturbed: the kernel and setpci change them on working functions as well (drivers/pci/pci.c,
    pcie_set_readrq). It is MaxPayload that needs quiet functions.
    """

    setting: PcieSetting
    wanted: int
    before: int

    def __str__(self) -> str:
        return (
            f"set {self.setting} of {self.subject.name} to {self._words(self.wanted)} (is {self._words(self.before)})"
        )

    def _words(self, value: int) -> str:
        if self.setting is PcieSetting.MAX_READ_REQUEST:
            return str(value)
        return ("on" if value else "off") if self.setting is PcieSetting.RELAXED_ORDERING else f"0x{value:x}"

    def apply(self, host: Host) -> None:
        host.links.functions.set_pcie(self.subject.name, self.setting, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        found = state.pcie.get(self.subject.name)
        return found is not None and found.config is not None and found.config.value(self.setting) == self.wanted


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for what differs; what cannot be set where it is wished is an obstacle that says why."""
    if spec.pcie is None:
        return Wish()
    wanted = _wanted(spec.pcie)
    found = [item for nic in nics_of(state) if wanted for item in _nic_items(nic, wanted, state)]
    if spec.pcie.acs_redirect is not None:
        found += _acs_items(spec.pcie.acs_redirect, state)
    steps = tuple(item for item in found if isinstance(item, Step))
    return Wish(steps, tuple(item for item in found if isinstance(item, Obstacle)))


def _wanted(wish: Pcie) -> Mapping[PcieSetting, int]:
    values = {
        PcieSetting.MAX_READ_REQUEST: wish.max_read_request,
        PcieSetting.RELAXED_ORDERING: None if wish.relaxed_ordering is None else int(wish.relaxed_ordering),
    }
    return {setting: value for setting, value in values.items() if value is not None}


def _nic_items(nic: PciFunction, wanted: Mapping[PcieSetting, int], state: NodeState) -> Iterator[Step | Obstacle]:
    node = state.pcie.get(nic.address)
    if node is not None and node.silent:
        yield _obstacle(nic.address, SILENT, SILENT_ADVICE)
        return
    if node is None or node.config is None:
        yield _obstacle(nic.address, "its configuration space cannot be read", "run as root, without kernel lockdown")
        return
    for setting, value in wanted.items():
        before = node.config.value(setting)
        if before is None or before == value:
            continue
        port = reordering_port(nic, state.pcie) if setting is PcieSetting.RELAXED_ORDERING and value else ""
        if port:
            problem = f"root port {port} above it gets relaxed ordering wrong"
            yield _obstacle(nic.address, problem, "remove pcie.relaxed_ordering, or put the card behind another CPU")
        else:
            yield _step(nic.address, setting, value, before)


def _acs_items(redirect: bool, state: NodeState) -> Iterator[Step | Obstacle]:
    bridges = redirecting_bridges(state)
    changes: dict[str, tuple[int, int]] = {}
    for address in bridges:
        config = state.pcie[address].config
        if config is not None and config.acs is not None:
            before = config.acs & ACS_REDIRECT_BITS
            wanted = (config.acs_capable or 0) & ACS_REDIRECT_BITS if redirect else 0
            if before != wanted:
                changes[address] = (wanted, before)
    reason = "" if redirect or not changes else why_acs_stays(state)
    if reason:
        names = ", ".join(changes)
        yield _obstacle("acs", f"redirect stays on {names}: {reason}", "remove pcie.acs_redirect if that is meant")
        return
    for address, (wanted, before) in changes.items():
        yield _step(address, PcieSetting.ACS_REDIRECT, wanted, before)


def redirecting_bridges(state: NodeState) -> tuple[str, ...]:
    """Bridges with ACS between a GPU and a NIC on one PCIe switch, whatever they are set to."""
    pairs = ((gpu, nic) for gpu in gpus_of(state) for nic in nics_of(state))
    near = (pair for pair in pairs if relation(*pair).distance <= SWITCHED)
    found = dict.fromkeys(address for pair in near for address in bridges_between(*pair))
    return tuple(address for address in sorted(found) if _has_acs(address, state))


def _has_acs(address: str, state: NodeState) -> bool:
    config = state.pcie[address].config if address in state.pcie else None
    return config is not None and config.acs is not None and config.kind is not PortKind.ENDPOINT


def why_acs_stays(state: NodeState) -> str:
    """What speaks against traffic between functions that no IOMMU sees; empty if nothing does."""
    guests = [one.address for one in state.pci.values() if "vfio" in one.driver or "vfio" in one.driver_override]
    if guests:
        return f"functions go to virtual machines ({', '.join(sorted(guests))}), which it keeps apart"
    if state.is_loaded(VGPU_MODULE):
        return f"module {VGPU_MODULE} gives GPUs to virtual machines, which it keeps apart"
    direct = [one.address for one in state.pci.values() if (one.vendor, one.device) == (MELLANOX, DATA_DIRECT)]
    if direct:
        return f"NICs with a data-direct function ({', '.join(sorted(direct))}) need it set port by port (rdma_topo)"
    functions = {one.address for one in (*gpus_of(state), *nics_of(state))}
    translated = [
        one.address for one in state.pcie.values() if one.iommu_type in TRANSLATING and one.address in functions
    ]
    if translated:
        return f"the IOMMU translates the DMA of {', '.join(sorted(translated))}; boot with iommu=pt first"
    return ""


def _step(address: str, setting: PcieSetting, wanted: int, before: int) -> SetPcie:
    unit = f"pcie/{address}"
    return SetPcie(subject=pci(address), unit=unit, reason=WANTED, setting=setting, wanted=wanted, before=before)


def _obstacle(name: str, problem: str, advice: str) -> Obstacle:
    return Obstacle(f"pcie/{name}", Thing(Kind.PCI, name), problem, advice)
