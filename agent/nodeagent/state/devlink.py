"""What devlink tells of a PCI function: the mode of its embedded switch, and the parameters of its driver."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EswitchMode(StrEnum):
    """Mode of the switch between a physical function and its virtual ones (DEVLINK_ESWITCH_MODE_*).

    legacy: the card forwards by MAC address and VLAN. switchdev: every virtual function has a representor on the host.
    """

    LEGACY = "legacy"
    SWITCHDEV = "switchdev"


class Cmode(StrEnum):
    """When a parameter takes force (DEVLINK_PARAM_CMODE_*): at once, with the next reload, with the next reset."""

    RUNTIME = "runtime"
    DRIVERINIT = "driverinit"
    PERMANENT = "permanent"


class ParameterKind(StrEnum):
    """Type of a parameter's value."""

    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    STRING = "string"
    BOOL = "bool"


@dataclass(frozen=True)
class DevlinkParameter:
    """One parameter with its value in each mode that it has; switches are `true` and `false`, numbers decimal."""

    name: str
    kind: ParameterKind
    values: tuple[tuple[Cmode, str], ...] = ()

    def value(self, cmode: Cmode) -> str | None:
        return next((text for mode, text in self.values if mode is cmode), None)

    @property
    def cmodes(self) -> tuple[Cmode, ...]:
        return tuple(mode for mode, _ in self.values)


@dataclass(frozen=True)
class DevlinkDevice:
    """A PCI function that devlink knows. `eswitch_mode` is None where the driver has no such switch.

    `reload_owed`: driverinit values were written and the reload after it did not come (a crash in between): the kernel
    shows such a value as if it were in force.
    """

    address: str
    eswitch_mode: EswitchMode | None = None
    parameters: tuple[DevlinkParameter, ...] = ()
    reload_owed: bool = False

    def parameter(self, name: str) -> DevlinkParameter | None:
        return next((found for found in self.parameters if found.name == name), None)
