"""Compute instances inside one GPU instance: which stay, which go and where the others fit; pure.

A GPU instance of N compute slices offers widths of 1, 2, 3, 4 and 7 slices up to N, but not 3 in 4. Legal places are
multiples of the width, of 4 for a width of 3. This rule stands in where no GPU instance is there yet to be asked.
Source: MIG User Guide, compute instance listings; nvml.h nvmlGpuInstanceGetComputeInstancePossiblePlacements.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from nodeagent.resources.mig_placement import FILLS, spans
from nodeagent.state.gpu import Placement

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nodeagent.state.gpu import ComputeInstance, GpuInstance

_WIDTH = re.compile(r"([1-9])c\.")
_WIDTHS = (1, 2, 3, 4, 7)

Places = dict[int, tuple[Placement, ...]]
"""Where a compute instance of each width can stand, in compute slices."""


@dataclass(frozen=True)
class ComputeChange:
    """What makes the compute instances of a GPU instance the wanted ones.

    `create` has widths with places, `gone` those of the ones to destroy.
    """

    destroy: tuple[ComputeInstance, ...] = ()
    create: tuple[tuple[int, Placement], ...] = ()
    gone: tuple[tuple[int, Placement], ...] = ()

    @property
    def cost(self) -> tuple[int, int]:
        """Fewer destroyed ones count more than fewer created ones."""
        return len(self.destroy), len(self.create)


NO_CHANGE = ComputeChange()


def width(one: ComputeInstance, inside: GpuInstance) -> int:
    """Its width in compute slices, FILLS for one that has all multiprocessors of the GPU instance.

    Where the driver was not asked, that is the one with the name of the GPU instance.
    """
    known = next((profile for profile in inside.compute_profiles if profile.name == one.profile), None)
    if known is not None:
        return FILLS if known.fills else known.slice_count
    found = _WIDTH.match(one.profile)
    return int(found[1]) if found else FILLS


def widths(instance: GpuInstance) -> tuple[int, ...]:
    """The widths of its compute instances, in rising order."""
    return tuple(sorted(width(one, instance) for one in instance.compute_instances))


def offered(slices: int) -> tuple[int, ...]:
    """Widths smaller than the whole that a GPU instance of so many compute slices offers."""
    return tuple(one for one in _WIDTHS if one < slices and not (slices == 4 and one == 3))


def places_by_rule(slices: int) -> Places:
    """Where compute instances can stand in a GPU instance that is yet to be created."""
    rule = {
        one: tuple(Placement(start, one) for start in range(0, slices - one + 1, 4 if one == 3 else one))
        for one in offered(slices)
    }
    return {FILLS: (Placement(0, slices),), **rule}


def places_of(instance: GpuInstance, slices: int) -> Places:
    """Where compute instances can stand in this GPU instance, by what the driver says about it."""
    if not instance.compute_profiles:
        return places_by_rule(slices)
    return {FILLS if one.fills else one.slice_count: one.placements for one in instance.compute_profiles}


def in_terms_of(instance: GpuInstance, wanted: Sequence[int]) -> tuple[int, ...]:
    """The wanted widths, FILLS for one that has all multiprocessors of this GPU instance.

    On some boards the narrow one slice of a double-memory profile has as many as the wide one.
    """
    filling = {one.slice_count for one in instance.compute_profiles if one.fills}
    parts = {one.slice_count for one in instance.compute_profiles if not one.fills}
    return tuple(FILLS if one in filling - parts else one for one in wanted)


def fits(wanted: Sequence[int], slices: int) -> bool:
    """Whether compute instances of these widths fit together into a new GPU instance."""
    return _place(sorted(wanted, key=_narrowest_last), places_by_rule(slices), 0) is not None


def change(instance: GpuInstance, wanted: Sequence[int], slices: int) -> ComputeChange | None:
    """The least change to exactly these widths, those in use staying; None where they are in the way."""
    there = [(one, width(one, instance)) for one in instance.compute_instances]
    wanted = in_terms_of(instance, wanted)
    if Counter(wide for _, wide in there) == Counter(wanted):
        return NO_CHANGE
    busy = [one for one, _ in there if one.in_use]
    used = Counter(wide for one, wide in there if one.in_use)
    missing = Counter(wanted) - used
    if used - Counter(wanted):
        return None
    places = places_of(instance, slices)
    for keep, wides in _keep_sets(missing, [pair for pair in there if not pair[0].in_use]):
        rest = missing - wides
        taken = spans(_place_of(one, slices) for one in (*busy, *keep))
        made = _place(sorted(rest.elements(), key=_narrowest_last), places, taken)
        if made is not None:
            gone = tuple((one, wide) for one, wide in there if one not in keep and not one.in_use)
            return ComputeChange(
                tuple(one for one, _ in gone), made, tuple((wide, one.placement) for one, wide in gone)
            )
    return None


def _keep_sets(
    missing: Counter[int], idle: Sequence[tuple[ComputeInstance, int]]
) -> Iterator[tuple[tuple[ComputeInstance, ...], Counter[int]]]:
    useful = [(one, wide) for one, wide in idle if missing[wide]]
    for size in range(len(useful), -1, -1):
        for keep in combinations(useful, size):
            wides = Counter(wide for _, wide in keep)
            if not wides - missing:
                yield tuple(one for one, _ in keep), wides


def _place_of(instance: ComputeInstance, slices: int) -> Placement:
    return instance.placement if instance.placement.size else Placement(0, slices)


def _narrowest_last(one: int) -> int:
    return -100 if one == FILLS else -one


def _place(
    order: Sequence[int], places: Mapping[int, Sequence[Placement]], taken: int
) -> tuple[tuple[int, Placement], ...] | None:
    if not order:
        return ()
    for place in places.get(order[0], ()):
        span = spans((place,))
        rest = None if span & taken else _place(order[1:], places, taken | span)
        if rest is not None:
            return ((order[0], place), *rest)
    return None
