"""Where GPU instances fit on a GPU: a search over the placements that the driver reports; pure.

Limits that placements alone do not show: the compute slices of all instances together are at most those of the largest
profile (3g + 3g wastes one of seven), and each profile has a largest count. Source: MIG User Guide, profile listings;
nvml.h nvmlGpuInstanceProfileInfo_t.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from nodeagent.state.gpu import MigProfile, Placement


@dataclass(frozen=True, order=True)
class Slot:
    """A GPU instance of a profile at a place."""

    placement: Placement
    profile: str

    def __str__(self) -> str:
        return f"{self.profile} at {self.placement.start}"


@dataclass(frozen=True)
class Layout:
    """Which idle instances stay, which go, and which are created where."""

    keep: tuple[Slot, ...]
    destroy: tuple[Slot, ...]
    create: tuple[Slot, ...]


def arrange(
    profiles: Sequence[MigProfile], wanted: Mapping[str, int], busy: Sequence[Slot], idle: Sequence[Slot]
) -> Layout | None:
    """The layout that has the wanted instances and destroys as few as possible, None where there is none.

    Busy instances stay in any case and count as wanted; `idle` may be kept or destroyed.
    """
    board = Board.of(profiles)
    missing = Counter(wanted) - Counter(slot.profile for slot in busy)
    for keep in _keep_sets(missing, idle):
        rest = missing - Counter(slot.profile for slot in keep)
        created = board.place(rest, (*busy, *keep))
        if created is not None:
            return Layout(keep, tuple(slot for slot in sorted(idle) if slot not in keep), created)
    return None


def _keep_sets(missing: Counter[str], idle: Sequence[Slot]) -> Iterator[tuple[Slot, ...]]:
    """Every selection of idle instances that are wanted, the largest selections first."""
    useful = [slot for slot in sorted(idle) if missing[slot.profile]]
    for size in range(len(useful), -1, -1):
        for keep in combinations(useful, size):
            if not Counter(slot.profile for slot in keep) - missing:
                yield keep


def refusal(profiles: Sequence[MigProfile], wanted: Mapping[str, int]) -> str:
    """Why these instances do not fit on an empty GPU, "" if they do."""
    board = Board.of(profiles)
    for name, count in wanted.items():
        if count > board.profiles[name].instance_count:
            return f"{count} x {name} wanted, the board has room for {board.profiles[name].instance_count}"
    slices = sum(board.profiles[name].slice_count * count for name, count in wanted.items())
    if slices > board.compute_slices:
        return f"they need {slices} compute slices, the board has {board.compute_slices}"
    if board.place(Counter(wanted), ()) is None:
        return "no arrangement of their placements fits"
    return ""


@dataclass(frozen=True)
class Board:
    """The profiles of a board by name, and its compute slices."""

    profiles: Mapping[str, MigProfile]
    compute_slices: int

    @classmethod
    def of(cls, profiles: Sequence[MigProfile]) -> Board:
        return cls({one.name: one for one in profiles}, max((one.slice_count for one in profiles), default=0))

    def place(self, wanted: Counter[str], fixed: Sequence[Slot]) -> tuple[Slot, ...] | None:
        """Slots for the wanted instances beside the fixed ones, biggest first; None where they do not fit."""
        if not self._within_limits((*(slot.profile for slot in fixed), *wanted.elements())):
            return None
        order = sorted(wanted.elements(), key=self._biggest_first)
        return self._search(order, (), _spans(slot.placement for slot in fixed))

    def _biggest_first(self, name: str) -> tuple[int, str]:
        return -max((place.size for place in self.profiles[name].placements), default=0), name

    def _within_limits(self, names: Sequence[str]) -> bool:
        known = [name for name in names if name in self.profiles]
        counts = Counter(known)
        return (
            sum(self.profiles[name].slice_count for name in known) <= self.compute_slices
            and all(count <= self.profiles[name].instance_count for name, count in counts.items())
            and _media_engines_suffice(names)
        )

    def _search(self, order: Sequence[str], chosen: tuple[Slot, ...], taken: int) -> tuple[Slot, ...] | None:
        """Depth-first; equal instances follow each other at rising places, so that no arrangement is tried twice."""
        if len(chosen) == len(order):
            return chosen
        name = order[len(chosen)]
        least = chosen[-1].placement.start if chosen and chosen[-1].profile == name else -1
        for place in sorted(self.profiles[name].placements):
            span = _spans((place,))
            if place.start > least and not span & taken:
                found = self._search(order, (*chosen, Slot(place, name)), taken | span)
                if found is not None:
                    return found
        return None


def _spans(places: Iterable[Placement]) -> int:
    """Memory slices as a bit set."""
    taken = 0
    for place in places:
        taken |= ((1 << place.size) - 1) << place.start
    return taken


def _media_engines_suffice(names: Sequence[str]) -> bool:
    """One +me.all instance takes every media engine: only -me instances fit beside it (nvml.h)."""
    greedy = [name for name in names if name.endswith("+me.all")]
    return not greedy or (len(greedy) == 1 and all(name.endswith("-me") for name in names if name not in greedy))
