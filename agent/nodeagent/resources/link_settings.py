"""Settings of interfaces as the node file wants them: which there are, steps, and what a device cannot have; pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING

from nodeagent.resources.base import LinkStep, Obstacle, SettingStep, Step
from nodeagent.spec.links import LinkEntry
from nodeagent.state.link_settings import RESTARTING, Group, GroupState, Setting, Values, find, fulfils, not_taken
from nodeagent.state.network import Netdev
from nodeagent.state.things import netdev

if TYPE_CHECKING:
    from nodeagent.host.ports import Host
    from nodeagent.spec.schema import NodeSpec
    from nodeagent.state.node import NodeState

WANTED = "the node file wants it so"
# ethtool's short words where they mean one offload (ethtool.c, off_flag_def); tso means four.
FEATURE_NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "rx": ("rx-checksum",),
        "sg": ("tx-scatter-gather",),
        "tso": ("tx-tcp-segmentation", "tx-tcp6-segmentation"),
        "gso": ("tx-generic-segmentation",),
        "gro": ("rx-gro",),
        "lro": ("rx-lro",),
        "rxhash": ("rx-hashing",),
        "ntuple": ("rx-ntuple-filter",),
        "rxvlan": ("rx-vlan-hw-parse",),
        "txvlan": ("tx-vlan-hw-insert",),
    }
)
# Private flags decide what rings and queues there can be, queues how many rings.
ORDER = (
    Group.PRIVATE_FLAGS,
    Group.CHANNELS,
    Group.RINGS,
    Group.COALESCING,
    Group.PAUSE,
    Group.FEATURES,
    Group.DEVICE,
    Group.IPV4,
)


@dataclass(frozen=True, kw_only=True)
class SetLinkSettings(LinkStep, SettingStep):
    """Write settings of one group; `disturbed` is what stands on the interface if the driver restarts for it."""

    group: Group
    wanted: Values
    before: Values

    def __str__(self) -> str:
        was = dict(self.before)
        changes = (f"{name} {value} (is {was[name]})" for name, value in self.wanted)
        return f"set {self.group.value.replace('_', ' ')} of {self.subject.name}: {', '.join(changes)}"

    def apply(self, host: Host) -> None:
        host.links.settings.write(self.subject.name, self.group, self.wanted)

    def satisfied(self, state: NodeState) -> bool:
        found = state.netdevs.get(self.subject.name)
        return found is not None and not not_taken(self.group, found.settings.get(self.group, ()), self.wanted)


def wanted_settings(entry: LinkEntry) -> Mapping[tuple[Group, str], int]:
    """Every setting that an entry has a say in, by group and the kernel's name."""
    found: dict[tuple[Group, str], int] = {}
    for group in (Group.RINGS, Group.CHANNELS, Group.COALESCING, Group.PAUSE, Group.IPV4):
        section = getattr(entry, group.value)
        names = fields(section) if section is not None else ()
        values = ((one.name, getattr(section, one.name)) for one in names)
        found |= {(group, name): int(value) for name, value in values if value is not None}
    for name, is_on in (entry.features or {}).items():
        found |= {(Group.FEATURES, real): int(is_on) for real in FEATURE_NAMES.get(name, (name,))}
    found |= {(Group.PRIVATE_FLAGS, name): int(is_on) for name, is_on in (entry.private_flags or {}).items()}
    if entry.tx_queue_length is not None:
        found[Group.DEVICE, "tx_queue_length"] = entry.tx_queue_length
    return found


def groups_of(spec: NodeSpec) -> tuple[Group, ...]:
    """The groups that must be read to plan this node file."""
    wanted = {group for entry in spec.links for group, _ in wanted_settings(entry)}
    return tuple(group for group in ORDER if group in wanted)


def settings_steps(found: Netdev, wanted: Mapping[tuple[Group, str], int]) -> Iterator[Step]:
    """One step per group that differs; what the device cannot have is left out, `settings_obstacles` tells it."""
    for group in ORDER:
        present = found.settings.get(group, ())
        pairs = [(name, value) for (of, name), value in wanted.items() if of is group]
        possible = [(find(present, name), value) for name, value in pairs if not impossible(present, name, value)]
        differ = [(one, value) for one, value in possible if one is not None and not fulfils(group, one.value, value)]
        if differ:
            yield SetLinkSettings(
                subject=netdev(found.name),
                unit=f"links/{found.name}",
                reason=WANTED,
                group=group,
                wanted=tuple((one.name, value) for one, value in differ),
                before=tuple((one.name, one.value) for one, _ in differ),
                disturbed=found.uses if found.up and group in RESTARTING else (),
            )


def settings_obstacles(found: Netdev, wanted: Mapping[tuple[Group, str], int]) -> Iterator[Obstacle]:
    """What the device cannot have, one for each setting; the rest of the interface goes on."""
    for (group, name), value in wanted.items():
        refused = impossible(found.settings.get(group, ()), name, value)
        if refused:
            subject, unit = netdev(found.name), f"links/{found.name}/{group}"
            yield Obstacle(unit, subject, f"{group}.{name} {value} is not possible: {refused[0]}", refused[1])


def impossible(present: GroupState, name: str, value: int) -> tuple[str, str] | None:
    """(why, advice) where the device cannot have a value; None where it has it or may have it."""
    if not present:
        return "the driver does not offer this group", "leave it out for this interface"
    one = find(present, name)
    if one is None:
        return "the driver does not have it", _known(present)
    if one.value == value:
        return None
    if one.fixed:
        return f"it is fixed at {one.value}", "leave it out for this interface"
    if one.most is not None and value > one.most:
        return f"it takes up to {one.most}", _limits(present)
    return None


def _known(present: GroupState) -> str:
    changeable = [one.name for one in present if not one.fixed]
    return f"it has {', '.join(changeable)}" if changeable else "it has none that can be changed"


def _limits(present: GroupState) -> str:
    return f"limits here: {', '.join(_limit(one) for one in present if one.most is not None and not one.fixed)}"


def _limit(one: Setting) -> str:
    return f"{one.name} {one.most}"
