"""Where GPU instances fit on a GPU: a search over the placements that the driver reports; pure.

Limits that placements alone do not show: the compute slices of all instances together are at most those of the largest
profile (3g + 3g wastes one of seven), each profile has a largest count, and an instance has its media engines to
itself: an A30 has one JPEG engine and one OFA, so 1g+me and 2g+me exclude each other. Sources: MIG User Guide, profile
listings (hardware units); nvml.h nvmlGpuInstanceProfileInfo_t; open-gpu-kernel-modules kernel_mig_manager.c
(kmigmgrAllocateInstanceEngines).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nodeagent.state.gpu import GpuInstance, MigProfile, Placement

FILLS = 0
"""The width of the compute instance that has all multiprocessors of its GPU instance; others count compute slices."""


@dataclass(frozen=True, order=True)
class Slot:
    """A GPU instance of a profile at a place."""

    placement: Placement
    profile: str

    def __str__(self) -> str:
        return f"{self.profile} at {self.placement.start}"


@dataclass(frozen=True)
class Wanted:
    """A GPU instance that shall be there: at `start` if that is given, with compute instances of these widths."""

    profile: str
    compute: tuple[int, ...] = (FILLS,)
    start: int | None = None


@dataclass(frozen=True)
class Board:
    """The profiles of a board by name, its compute slices, and as many media engines as instances share out."""

    profiles: Mapping[str, MigProfile]
    compute_slices: int
    media: Mapping[str, int]

    @classmethod
    def of(cls, profiles: Sequence[MigProfile], standing: Iterable[GpuInstance] = ()) -> Board:
        """The board by its profiles; what the driver let stand is never called impossible."""
        slices = max((one.slice_count for one in profiles), default=0)
        by_name = {one.name: one for one in profiles}
        media = _media_of(profiles)
        taken = [by_name[one.profile].media for one in standing if one.profile in by_name]
        real = {kind: there for kind, there in media.items() if sum(getattr(one, kind) for one in taken) <= there}
        return cls(by_name, slices, real)

    @property
    def memory_slices(self) -> int:
        """Memory slices of the whole board, as far as instances can reach them."""
        places = (place for one in self.profiles.values() for place in one.placements)
        return max((place.start + place.size for place in places), default=0)

    def size(self, name: str) -> int:
        """Memory slices of an instance of this profile."""
        return max((place.size for place in self.profiles[name].placements), default=0)

    def place(self, wanted: Sequence[Wanted], fixed: Sequence[Slot]) -> tuple[tuple[Wanted, Slot], ...] | None:
        """Slots for the wanted instances beside the fixed ones, biggest first; None where they do not fit."""
        if not self.within_limits([*(slot.profile for slot in fixed), *(one.profile for one in wanted)]):
            return None
        order = sorted(wanted, key=self._order)
        slots = self._search(order, (), spans(slot.placement for slot in fixed))
        return None if slots is None else tuple(zip(order, slots, strict=True))

    def within_limits(self, names: Sequence[str]) -> bool:
        """Whether compute slices, largest counts and media engines allow these instances together, in any places."""
        known = [self.profiles[name] for name in names if name in self.profiles]
        return (
            sum(one.slice_count for one in known) <= self.compute_slices
            and all(count <= self.profiles[name].instance_count for name, count in self._counts(names))
            and not self.media_shortage(names)
        )

    def media_shortage(self, names: Sequence[str]) -> str:
        """Which media engines these instances have too many of together, "" if none."""
        known = [self.profiles[name].media for name in names if name in self.profiles]
        for kind, there in self.media.items():
            needed = sum(getattr(one, kind) for one in known)
            if needed > there:
                return f"they need {needed} {kind}, the board has {there}"
        return "" if _is_alone(names) else "beside an instance with +me.all only instances with -me fit"

    def _counts(self, names: Sequence[str]) -> Iterator[tuple[str, int]]:
        return ((name, count) for name, count in Counter(names).items() if name in self.profiles)

    def _order(self, one: Wanted) -> tuple[bool, int, str, tuple[int, ...]]:
        """Those with a fixed place first, then the biggest; equal profiles beside each other."""
        return one.start is None, -self.size(one.profile), one.profile, one.compute

    def _search(self, order: Sequence[Wanted], chosen: tuple[Slot, ...], taken: int) -> tuple[Slot, ...] | None:
        """Depth-first; equal instances follow each other at rising places, so that no arrangement is tried twice."""
        if len(chosen) == len(order):
            return chosen
        one = order[len(chosen)]
        follows = one.start is None and bool(chosen) and chosen[-1].profile == one.profile
        least = chosen[-1].placement.start if follows and order[len(chosen) - 1].start is None else -1
        for place in self.profiles[one.profile].placements:
            span = ((1 << place.size) - 1) << place.start
            if place.start > least and not span & taken and one.start in (None, place.start):
                found = self._search(order, (*chosen, Slot(place, one.profile)), taken | span)
                if found is not None:
                    return found
        return None


def refusal(board: Board, wanted: Sequence[Wanted]) -> str:
    """Why these instances do not fit on an empty GPU, "" if they do. All profiles must be known."""
    for name, count in Counter(one.profile for one in wanted).items():
        if count > board.profiles[name].instance_count:
            return f"{count} x {name} wanted, the board has room for {board.profiles[name].instance_count}"
    slices = sum(board.profiles[one.profile].slice_count for one in wanted)
    if slices > board.compute_slices:
        return f"they need {slices} compute slices, the board has {board.compute_slices}"
    shortage = board.media_shortage([one.profile for one in wanted])
    if shortage:
        return shortage
    if board.place(wanted, ()) is None:
        return "no arrangement of their placements fits"
    return ""


def spans(places: Iterable[Placement]) -> int:
    """Memory slices as a bit set."""
    taken = 0
    for place in places:
        taken |= ((1 << place.size) - 1) << place.start
    return taken


def _media_of(profiles: Sequence[MigProfile]) -> dict[str, int]:
    """The media engines that instances share out: those of the largest profile, which has them all.

    Only where the driver's own largest counts agree with it: elsewhere the numbers mean something else.
    """
    whole = max(profiles, key=lambda one: (one.slice_count, sum(_counts(one))), default=None)
    if whole is None or not any(_counts(whole)):
        return {}
    kinds = [entry.name for entry in fields(whole.media)]
    return {
        kind: getattr(whole.media, kind)
        for kind in kinds
        if all(getattr(one.media, kind) * one.instance_count <= getattr(whole.media, kind) for one in profiles)
    }


def _counts(one: MigProfile) -> tuple[int, ...]:
    return tuple(getattr(one.media, entry.name) for entry in fields(one.media))


def _is_alone(names: Sequence[str]) -> bool:
    """One +me.all instance takes every media engine: only -me instances fit beside it (nvml.h)."""
    greedy = [name for name in names if name.endswith("+me.all")]
    return not greedy or (len(greedy) == 1 and all(name.endswith("-me") for name in names if name not in greedy))
