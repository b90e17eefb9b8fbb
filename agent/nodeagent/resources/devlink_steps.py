"""The steps through devlink: one parameter, a reload with new values, another mode of the embedded switch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nodeagent.resources.base import NicStep, SettingStep, Step
from nodeagent.state.devlink import Cmode, DevlinkDevice, EswitchMode
from nodeagent.state.things import Thing, netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.state.node import NodeState

Values = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class SetDevlinkParameter(SettingStep):
    """Write one parameter that takes force at once, or with the card's next reset."""

    name: str
    cmode: Cmode
    wanted: str
    before: str

    def __str__(self) -> str:
        when = " with its next reset" if self.cmode is Cmode.PERMANENT else ""
        return f"set devlink parameter {self.name} of {self.subject.name} to {self.wanted}{when} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.devlink.set_parameter(self.subject.name, self.name, self.cmode, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        found = state.devlink.get(self.subject.name)
        return found is not None and value_of(found, self.name, self.cmode) == self.wanted


@dataclass(frozen=True, kw_only=True)
class ReloadDevice(NicStep, SettingStep):
    """Write driverinit values and let the driver begin anew: interfaces and virtual functions go, and come back."""

    wanted: Values
    before: Values

    def __str__(self) -> str:
        values = ", ".join(f"{name} {value}" for name, value in self.wanted)
        return f"reload {self.subject.name} with {values}"

    def apply(self, host: Host) -> None:
        host.links.devlink.reinitialize(self.subject.name, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        found = state.devlink.get(self.subject.name)
        return (
            found is not None
            and not found.reload_owed
            and all(value_of(found, name, Cmode.DRIVERINIT) == value for name, value in self.wanted)
        )

    @property
    def resets(self) -> tuple[Thing, ...]:
        return (self.subject,)


@dataclass(frozen=True, kw_only=True)
class SetEswitchMode(NicStep):
    """Change the mode of a physical function's embedded switch, while it has no virtual functions."""

    mode: EswitchMode
    before: EswitchMode
    interface: str = ""  # of the physical function; mlx5 makes it anew

    def __str__(self) -> str:
        return f"set eswitch mode of {self.subject.name} to {self.mode} (is {self.before})"

    def apply(self, host: Host) -> None:
        host.links.devlink.set_eswitch_mode(self.subject.name, self.mode)

    def undo(self) -> Step:
        return replace(self, mode=self.before, before=self.mode, reason="undo")

    def satisfied(self, state: NodeState) -> bool:
        found = state.devlink.get(self.subject.name)
        return found is not None and found.eswitch_mode is self.mode

    @property
    def resets(self) -> tuple[Thing, ...]:
        return (netdev(self.interface),) if self.interface else ()


def value_of(found: DevlinkDevice, name: str, cmode: Cmode) -> str | None:
    parameter = found.parameter(name)
    return parameter.value(cmode) if parameter is not None else None
