"""The steps on virtual functions: make them, remove them, set one up, give it to a driver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.base import Disturbs, SettingStep, Step
from nodeagent.state.network import VfSetting
from nodeagent.state.things import Thing, pci

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState


@dataclass(frozen=True, kw_only=True)
class MakeVfs(Step):
    """Make the virtual functions of a physical one that has none; without `bind` they get no driver yet."""

    count: int
    bind: bool = True
    known: tuple[str, ...] = ()  # addresses of those that were there before and come back with a driver

    def __str__(self) -> str:
        return f"make {self.count} virtual function(s) on {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.functions.set_vf_count(self.subject.name, self.count, bind=self.bind)

    def undo(self) -> Step:
        return RemoveVfs(subject=self.subject, unit=self.unit, reason="undo", count=self.count, bind=self.bind)

    def satisfied(self, state: NodeState) -> bool:
        found = state.pci.get(self.subject.name)
        return found is not None and len(found.vf_addresses) == self.count

    @property
    def back(self) -> tuple[Thing, ...]:
        return tuple(pci(address) for address in self.known)


@dataclass(frozen=True, kw_only=True)
class RemoveVfs(Step):
    """Remove all virtual functions of a physical one; `addresses` are theirs, and nobody may stand on them."""

    count: int
    bind: bool = True
    addresses: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"remove {self.count} virtual function(s) of {self.subject.name}"

    def apply(self, host: Host) -> None:
        host.links.functions.set_vf_count(self.subject.name, 0)

    def undo(self) -> Step:
        return MakeVfs(subject=self.subject, unit=self.unit, reason="undo", count=self.count, bind=self.bind)

    def satisfied(self, state: NodeState) -> bool:
        found = state.pci.get(self.subject.name)
        return found is not None and not found.vf_addresses

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC

    @property
    def claims(self) -> tuple[Thing, ...]:
        return tuple(pci(address) for address in self.addresses)

    @property
    def gone(self) -> tuple[Thing, ...]:
        return tuple(pci(address) for address in self.addresses)


@dataclass(frozen=True, kw_only=True)
class SetVf(SettingStep):
    """Write one setting that the driver of the physical function (interface `netdev`) keeps for a virtual one."""

    netdev: str
    index: int
    setting: VfSetting
    wanted: tuple[int | str, ...]
    before: tuple[int | str, ...]

    def __str__(self) -> str:
        value = " ".join(map(str, self.wanted))
        return f"set {self.setting} of {self.subject.name} to {value}"

    def apply(self, host: Host) -> None:
        host.links.set_vf(self.netdev, self.index, self.setting, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.netdev)
        vfs = found.vfs if found is not None else ()
        return any(one.index == self.index and one.value(self.setting) == self.wanted for one in vfs)


@dataclass(frozen=True, kw_only=True)
class BindFunction(Step):
    """Give a function to a driver, "" to the one the kernel chooses. Its interface goes away and comes anew."""

    driver: str
    before: str

    def __str__(self) -> str:
        if self.driver == self.before or not self.driver:
            return f"bind {self.subject.name} {'anew' if self.before and not self.driver else 'to its driver'}"
        return f"bind {self.subject.name} to {self.driver}"

    def apply(self, host: Host) -> None:
        host.links.functions.set_driver(self.subject.name, self.driver)

    def undo(self) -> Step:
        vfio = self.before if self.before == "vfio-pci" else ""
        return BindFunction(subject=self.subject, unit=self.unit, reason="undo", driver=vfio, before=self.driver)

    def satisfied(self, state: NodeState) -> bool:
        found = state.pci.get(self.subject.name)
        return found is not None and (
            found.driver == self.driver if self.driver else found.driver not in ("", "vfio-pci")
        )

    @property
    def disturbs(self) -> Disturbs:
        return Disturbs.NIC if self.before else Disturbs.NOTHING

    @property
    def claims(self) -> tuple[Thing, ...]:
        return (self.subject,) if self.before else ()
