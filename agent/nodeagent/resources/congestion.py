"""`roce.devices[].congestion`: congestion notifications and DCQCN's parameters, where the driver has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Obstacle, SettingStep, Step, Wish
from nodeagent.resources.link_selection import select_rdma
from nodeagent.spec.roce import Congestion
from nodeagent.spec.schema import NodeSpec
from nodeagent.state.congestion import PRIORITIES, ecn_setting
from nodeagent.state.node import NodeState
from nodeagent.state.things import Kind, Thing, pci

if TYPE_CHECKING:
    from nodeagent.host.ports import Host

WANTED = "the node file wants it so"
FIRMWARE = "or set CNP_DSCP_P1 and ROCE_CC_PRIO_MASK_P1 in firmware with mlxconfig"


@dataclass(frozen=True, kw_only=True)
class SetCongestion(SettingStep):
    """Write one setting of a function; flows that are there go on, and follow it from then on."""

    setting: str
    wanted: int
    before: int

    def __str__(self) -> str:
        return f"set {self.setting} of {self.subject.name} to {self.wanted} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.functions.set_congestion(self.subject.name, self.setting, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        return state.congestion.get(self.subject.name, {}).get(self.setting) == self.wanted


def plan(spec: NodeSpec, state: NodeState) -> Wish:
    """Steps for every function of the matched devices; who matches nothing or twice is told by section `roce`."""
    found = [
        item
        for entry in (spec.roce.devices if spec.roce else ())
        if entry.congestion is not None
        for address in _addresses(entry.match, state)
        for item in _items(address, wanted_settings(entry.congestion), state)
    ]
    steps = tuple(item for item in found if isinstance(item, Step))
    return Wish(steps, tuple(item for item in found if isinstance(item, Obstacle)))


def _addresses(match: str, state: NodeState) -> tuple[str, ...]:
    """PCI addresses, so that a rename of the RDMA device in the same pass changes nothing."""
    devices = (state.rdma[name] for name in select_rdma(match, state))
    return tuple(dict.fromkeys(one.pci_address for one in devices if one.pci_address))


def wanted_settings(wish: Congestion) -> Mapping[str, int]:
    """What the wish comes to, by the driver's names. np_cnp_prio_mode follows from np_cnp_prio in the driver."""
    settings = {"np_cnp_dscp": wish.cnp_dscp, "np_cnp_prio": wish.cnp_priority, **wish.parameters}
    if wish.ecn is not None:
        settings |= {ecn_setting(priority): int(priority in wish.ecn) for priority in range(PRIORITIES)}
    return {name: value for name, value in settings.items() if value is not None}


def congestion_of(spec: NodeSpec) -> tuple[str, ...]:
    """The settings that must be read to plan this node file."""
    wishes = (entry.congestion for entry in (spec.roce.devices if spec.roce else ()))
    return tuple(dict.fromkeys(name for one in wishes if one is not None for name in wanted_settings(one)))


def _items(address: str, wanted: Mapping[str, int], state: NodeState) -> Iterator[Step | Obstacle]:
    offered = state.congestion.get(address, {})
    missing = [name for name in wanted if name not in offered]
    if missing:
        problem = f"its driver does not offer {', '.join(missing)}"
        advice = f"run as root with debugfs, without kernel lockdown; ecn_prio needs OFED's driver; {FIRMWARE}"
        yield Obstacle(_unit(address), Thing(Kind.PCI, address), problem, advice)
        return
    for name, value in wanted.items():
        if offered[name] != value:
            yield SetCongestion(
                subject=pci(address),
                unit=_unit(address),
                reason=WANTED,
                setting=name,
                wanted=value,
                before=offered[name],
            )


def _unit(address: str) -> str:
    return f"congestion/{address}"
