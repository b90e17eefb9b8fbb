"""Where a GPU's metric gets its value: an NVML function, a field value, a GPM metric, or what was counted over time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.state.gpu import GpuSample

if TYPE_CHECKING:
    from nodeagent.metrics.tally import GpuTally
    from nodeagent.state.gpu import InstanceSample

    Sample = GpuSample | InstanceSample

_MIB = 1 << 20


class Conversion(StrEnum):
    """From NVML's unit to the one that is shown."""

    NONE = "none"
    MILLI = "by 1000"
    NANO = "by 1e9"
    MIB = "bytes to whole MiB"
    FROM_KIB = "times 1024"
    FROM_MIB = "times 1048576"
    MEGA = "times 1e6"
    PERCENT = "by 100"


_CONVERT: Mapping[Conversion, Callable[[float], float]] = MappingProxyType(
    {
        Conversion.NONE: lambda value: value,
        Conversion.MILLI: lambda value: value / 1000,
        Conversion.NANO: lambda value: value / 1e9,
        Conversion.MIB: lambda value: value // _MIB,
        Conversion.FROM_KIB: lambda value: value * 1024,
        Conversion.FROM_MIB: lambda value: value * _MIB,
        Conversion.MEGA: lambda value: value * 1_000_000,
        Conversion.PERCENT: lambda value: value / 100,
    }
)


def convert(value: float, conversion: Conversion) -> float:
    """Whole numbers stay whole where the unit allows."""
    return _CONVERT[conversion](value)


@dataclass(frozen=True)
class Getter:
    """The result of an NVML function, kept under this name in the sample; `on_instances`: instances have their own."""

    attribute: str
    function: str
    on_instances: bool = False

    def read(self, sample: Sample, _tally: GpuTally) -> float | None:
        found: float | None = getattr(sample, self.attribute, None)
        return found

    def __str__(self) -> str:
        return self.function


@dataclass(frozen=True)
class Field:
    """NVML field values (nvmlDeviceGetFieldValues), added up; None unless the GPU has one of them."""

    numbers: tuple[int, ...]
    on_instances: bool = False

    def read(self, sample: Sample, _tally: GpuTally) -> float | None:
        if not isinstance(sample, GpuSample):
            return None
        found = [sample.fields[number] for number in self.numbers if number in sample.fields]
        return sum(found) if found else None

    def __str__(self) -> str:
        return "field " + " + ".join(map(str, self.numbers))


@dataclass(frozen=True)
class Gpm:
    """A GPM metric: the mean since the sample before; Hopper and later."""

    number: int
    on_instances: bool = True

    def read(self, sample: Sample, _tally: GpuTally) -> float | None:
        return sample.gpm.get(self.number)

    def __str__(self) -> str:
        return f"GPM metric {self.number}"


@dataclass(frozen=True)
class Counted:
    """What the agent derives from several samples; the attribute of GpuTally."""

    attribute: str
    origin: str
    on_instances: bool = False

    def read(self, sample: Sample, tally: GpuTally) -> float | None:
        if not isinstance(sample, GpuSample):
            return None
        found: float | None = getattr(tally, self.attribute)
        return found

    def __str__(self) -> str:
        return self.origin


Source = Getter | Field | Gpm | Counted
