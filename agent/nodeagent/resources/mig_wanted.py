"""What an entry of the MIG section wants of one GPU: alternatives of GPU instances with their compute instances; pure.

Counts are of devices, that is compute instances, as in nvidia-mig-parted. Those that have their GPU instance to
themselves leave no choice; parts such as `1c.3g.20gb` may share GPU instances, and the alternatives begin with the one
that takes the fewest GPU instances.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from nodeagent.resources.mig_compute import fits, offered
from nodeagent.resources.mig_names import (
    DISABLED,
    Device,
    UnknownNameError,
    device_name,
    layout_counts,
    listing,
    resolve,
)
from nodeagent.resources.mig_placement import FILLS, Wanted
from nodeagent.state.gpu import MigMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nodeagent.spec.schema import MigEntry, MigInstance
    from nodeagent.state.gpu import MigProfile

Alternative = tuple[Wanted, ...]


@dataclass(frozen=True)
class Wants:
    """What is wanted of one GPU; `text` says it in the words of the driver."""

    alternatives: tuple[Alternative, ...]
    text: str


def wanted_mode(entry: MigEntry) -> MigMode:
    """The mode an entry asks for, which a layout may say instead."""
    if entry.mode is not None:
        return entry.mode
    return MigMode.DISABLED if entry.layout == DISABLED else MigMode.ENABLED


def leaves_instances(entry: MigEntry) -> bool:
    """Whether the entry says nothing about instances."""
    return entry.devices is None and entry.instances is None and entry.layout is None


def wants_of(entry: MigEntry, profiles: Sequence[MigProfile]) -> Wants:
    """The entry on a GPU that offers these profiles. Raises UnknownNameError."""
    if entry.instances is not None:
        wanted = tuple(_exact(one, profiles) for one in entry.instances)
        return Wants((wanted,), _exact_text(wanted))
    counts = layout_counts(entry.layout, profiles) if entry.layout is not None else entry.devices or {}
    return counted(counts, profiles)


def counted(counts: Mapping[str, int], profiles: Sequence[MigProfile]) -> Wants:
    """So many devices of each name, in whatever places. Raises UnknownNameError."""
    devices: Counter[Device] = Counter()
    for name, count in counts.items():
        devices[resolve(name, profiles)] += count
    present = {device: count for device, count in devices.items() if count > 0}
    text = listing([str(device) for device, count in present.items() for _ in range(count)])
    return Wants(tuple(_alternatives(present)), text)


def _alternatives(devices: Mapping[Device, int]) -> list[Alternative]:
    """Every way to share out the devices among GPU instances, the fewest GPU instances first."""
    parts: dict[MigProfile, list[int]] = {}
    for device, count in devices.items():
        parts.setdefault(device.profile, []).extend([device.width] * count)
    ways = [[_wanted(profile, bins) for bins in _packings(profile, widths)] for profile, widths in parts.items()]
    if not all(ways):
        raise _too_many(parts)
    chosen = (tuple(one for part in choice for one in part) for choice in product(*ways))
    return sorted(chosen, key=len)


def _wanted(profile: MigProfile, bins: Sequence[tuple[int, ...]]) -> Alternative:
    return tuple(Wanted(profile.name, widths) for widths in bins)


def _packings(profile: MigProfile, widths: Sequence[int]) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Every way to share out compute instances among GPU instances of the profile, each way once.

    Whole ones take a GPU instance each; too many of those are left to the check of the board, which says so.
    """
    whole = tuple((FILLS,) for one in widths if one == FILLS)
    rest = sorted((one for one in widths if one != FILLS), reverse=True)
    seen: set[tuple[tuple[int, ...], ...]] = set()
    for bins in _bins(rest, (), profile):
        if bins not in seen:
            seen.add(bins)
            yield (*whole, *bins)


def _bins(
    widths: Sequence[int], bins: tuple[tuple[int, ...], ...], profile: MigProfile
) -> Iterator[tuple[tuple[int, ...], ...]]:
    if not widths:
        yield tuple(sorted(bins))
        return
    first, rest = widths[0], widths[1:]
    for index, one in enumerate(bins):
        grown = tuple(sorted((*one, first)))
        if one not in bins[:index] and fits_into(grown, profile):
            yield from _bins(rest, (*bins[:index], grown, *bins[index + 1 :]), profile)
    if len(bins) < profile.instance_count:
        yield from _bins(rest, (*bins, (first,)), profile)


def fits_into(widths: Sequence[int], profile: MigProfile) -> bool:
    """Whether compute instances of these widths fit into one GPU instance; a narrow one slice has it to itself."""
    if profile.slice_count == 1 and list(widths) == [1]:
        return True
    return fits(widths, profile.slice_count)


def _too_many(parts: Mapping[MigProfile, Sequence[int]]) -> UnknownNameError:
    names = [device_name(profile.name, one) for profile, widths in parts.items() for one in widths]
    room = ", ".join(f"{one.instance_count} x {one.name}" for one in parts)
    return UnknownNameError(f"{listing(names)} do not fit: too many compute instances", f"there is room for {room}")


def _exact(one: MigInstance, profiles: Sequence[MigProfile]) -> Wanted:
    device = resolve(one.profile, profiles)
    if device.width != FILLS:
        raise UnknownNameError(f"{one.profile} is part of a GPU instance", f"write profile {device.profile.name}")
    starts = tuple(place.start for place in device.profile.placements)
    if one.start is not None and one.start not in starts:
        places = ", ".join(map(str, starts))
        raise UnknownNameError(f"{device.profile.name} cannot start at {one.start}", f"it can at {places}")
    return Wanted(device.profile.name, _compute(one, device.profile, profiles), one.start)


def _compute(one: MigInstance, profile: MigProfile, profiles: Sequence[MigProfile]) -> tuple[int, ...]:
    widths = tuple(
        resolve(f"{name}.{profile.name}", profiles).width for name, count in one.compute.items() for _ in range(count)
    )
    if widths and not fits_into(widths, profile):
        valid = ", ".join(f"{width}c" for width in offered(profile.slice_count))
        problem = f"compute instances {listing([f'{name}' for name, n in one.compute.items() for _ in range(n)])}"
        raise UnknownNameError(f"{problem} do not fit into {profile.name}", f"widths are {valid or 'the whole only'}")
    return tuple(sorted(widths)) or (FILLS,)


def _exact_text(wanted: Sequence[Wanted]) -> str:
    texts = []
    for one in wanted:
        place = "" if one.start is None else f" at {one.start}"
        compute = "" if one.compute == (FILLS,) else f" ({', '.join(f'{width}c' for width in one.compute)})"
        texts.append(f"{one.profile}{place}{compute}")
    return " + ".join(texts) or "none"
