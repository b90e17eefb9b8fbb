"""Settings of a network interface that are one number each: rings, queues, coalescing, offloads, address resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

Values = tuple[tuple[str, int], ...]  # settings of one group by name


class Group(StrEnum):
    """Settings that the kernel reads and writes together; the name is that of the node file's key."""

    RINGS = "rings"
    CHANNELS = "channels"
    COALESCING = "coalescing"
    PAUSE = "pause"
    FEATURES = "features"
    PRIVATE_FLAGS = "private_flags"
    IPV4 = "ipv4"
    DEVICE = "device"


# Most drivers stop and start their queues for these, and some the link (mlx5e_safe_switch_params, igb_down/igb_up).
RESTARTING = frozenset({Group.RINGS, Group.CHANNELS, Group.PAUSE, Group.PRIVATE_FLAGS})

DESCRIPTOR_MULTIPLES = (8, 32)


@dataclass(frozen=True)
class Setting:
    """One setting as it is: `most` is the device's limit where it tells one, `fixed` means that nobody can change it.

    Switches are 0 or 1, coalescing is in microseconds and frames.
    """

    name: str
    value: int
    most: int | None = None
    fixed: bool = False


GroupState = tuple[Setting, ...]
SettingsState = Mapping[Group, GroupState]  # a group that is absent is not offered by the driver, or was not read


def find(found: GroupState, name: str) -> Setting | None:
    return next((one for one in found if one.name == name), None)


def fulfils(group: Group, now: int, wanted: int) -> bool:
    """Whether a value is what was asked for, or what drivers make of that ring size: they round it up."""
    return now == wanted or (group is Group.RINGS and now in _rounded(wanted))


def _rounded(ring: int) -> tuple[int, ...]:
    """mlx5 takes a power of two, igb and ixgbe a multiple of 8, i40e and ice of 32 (REQ_DESCRIPTOR_MULTIPLE)."""
    multiples = (-(-ring // step) * step for step in DESCRIPTOR_MULTIPLES)
    return (1 << max(ring - 1, 0).bit_length(), *multiples)


def not_taken(group: Group, found: GroupState, values: Values) -> tuple[tuple[str, int, int | None], ...]:
    """(name, wanted, what it is) of each value that is not in force; None where the driver does not have it."""
    pairs = ((name, value, find(found, name)) for name, value in values)
    wrong = ((name, value, one) for name, value, one in pairs if one is None or not fulfils(group, one.value, value))
    return tuple((name, value, one.value if one else None) for name, value, one in wrong)
