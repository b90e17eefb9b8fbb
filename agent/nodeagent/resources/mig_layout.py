"""From the GPU instances that are there to those that are wanted, with the least change; pure.

GPU instances that fit stay, those in use always. Of all ways the one counts that destroys the fewest GPU instances,
then the fewest compute instances, then creates the fewest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from nodeagent.resources.mig_compute import ComputeChange, change
from nodeagent.resources.mig_placement import Board, Slot, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nodeagent.state.gpu import GpuInstance

Kept = tuple["GpuInstance", ComputeChange]


@dataclass(frozen=True)
class Layout:
    """What stays, with the change to its compute instances, what goes, and what is created where."""

    keep: tuple[Kept, ...] = ()
    destroy: tuple[GpuInstance, ...] = ()
    create: tuple[tuple[Wanted, Slot], ...] = ()

    @property
    def cost(self) -> tuple[int, int, int]:
        """Destroyed GPU instances, destroyed compute instances, and everything created, in the order they count."""
        costs = [found.cost for _, found in self.keep]
        return len(self.destroy), sum(one for one, _ in costs), len(self.create) + sum(one for _, one in costs)

    @property
    def is_change(self) -> bool:
        return self.cost != (0, 0, 0)


def slot_of(instance: GpuInstance) -> Slot:
    return Slot(instance.placement, instance.profile)


def arrange(board: Board, wanted: Sequence[Wanted], standing: Sequence[GpuInstance]) -> Layout | None:
    """The least change from what stands to what is wanted, None where instances in use do not let it be."""
    return _Search(board, wanted, standing).best()


def arrange_any(
    board: Board, alternatives: Sequence[Sequence[Wanted]], standing: Sequence[GpuInstance]
) -> Layout | None:
    """The first of the alternatives that can be reached; one that is there already comes before all others."""
    found = [layout for wanted in alternatives if (layout := arrange(board, wanted, standing)) is not None]
    return next((layout for layout in found if not layout.is_change), found[0] if found else None)


class _Search:
    def __init__(self, board: Board, wanted: Sequence[Wanted], standing: Sequence[GpuInstance]) -> None:
        self._board, self._wanted = board, list(wanted)
        self._busy = [one for one in standing if one.in_use]
        self._idle = sorted((one for one in standing if not one.in_use), key=lambda one: one.placement)
        self._changes: dict[tuple[int, tuple[int, ...]], ComputeChange | None] = {}

    def best(self) -> Layout | None:
        """Layouts that keep more come first; among those that keep equally many the cheapest."""
        if not self._board.within_limits([one.profile for one in self._wanted]):
            return None
        found: Layout | None = None
        kept = -1
        for keep in self._keep_sets():
            if found is not None and len(keep) < kept:
                break
            layout = self._with(keep)
            if layout is not None and (found is None or layout.cost < found.cost):
                found, kept = layout, len(keep)
                if layout.cost[1:] == (0, len(layout.create)):
                    break
        return found

    def _keep_sets(self) -> Iterator[tuple[GpuInstance, ...]]:
        """Every selection of idle instances that are wanted, the largest selections first."""
        missing = Counter(one.profile for one in self._wanted)
        missing.subtract(one.profile for one in self._busy)
        if min(missing.values(), default=0) < 0:
            return  # something in use is not wanted
        useful = [one for one in self._idle if missing[one.profile] > 0]
        for size in range(len(useful), -1, -1):
            for keep in combinations(useful, size):
                if all(count <= missing[name] for name, count in Counter(one.profile for one in keep).items()):
                    yield keep

    def _with(self, keep: tuple[GpuInstance, ...]) -> Layout | None:
        matched = self._matched((*self._busy, *keep))
        if matched is None:
            return None
        pairs, rest = matched
        created = self._board.place(rest, [slot_of(one) for one, _ in pairs])
        if created is None:
            return None
        gone = tuple(one for one in self._idle if one not in keep)
        return Layout(pairs, gone, created)

    def _matched(self, keep: Sequence[GpuInstance]) -> tuple[tuple[Kept, ...], list[Wanted]] | None:
        """Every kept instance with its change, and what is still wanted.

        What is wanted at a place where a kept instance of its profile stands is that instance: nothing else can stand
        there. The others are shared out among the wanted ones without a place, at the least cost.
        """
        rest = list(self._wanted)
        pairs: list[Kept] = []
        loose: list[GpuInstance] = []
        for one in keep:
            pinned = next((item for item in rest if _is_pinned_to(item, one)), None)
            if pinned is None:
                loose.append(one)
                continue
            found = self._change(one, pinned)
            if found is None:
                return None
            rest.remove(pinned)
            pairs.append((one, found))
        shared = self._shared(loose, rest)
        return None if shared is None else ((*pairs, *shared[0]), shared[1])

    def _shared(self, loose: Sequence[GpuInstance], rest: list[Wanted]) -> tuple[tuple[Kept, ...], list[Wanted]] | None:
        if not loose:
            return (), rest
        best: tuple[tuple[Kept, ...], list[Wanted]] | None = None
        first = loose[0]
        for item in dict.fromkeys(one for one in rest if one.start is None and one.profile == first.profile):
            found = self._change(first, item)
            left = [*rest]
            left.remove(item)
            others = None if found is None else self._shared(loose[1:], left)
            if found is None or others is None:
                continue
            pairs = ((first, found), *others[0])
            if best is None or _price(pairs) < _price(best[0]):
                best = pairs, others[1]
        return best

    def _change(self, one: GpuInstance, item: Wanted) -> ComputeChange | None:
        key = (one.placement.start, item.compute)
        if key not in self._changes:
            slices = self._board.profiles[one.profile].slice_count
            self._changes[key] = change(one, item.compute, slices)
        return self._changes[key]


def _is_pinned_to(item: Wanted, one: GpuInstance) -> bool:
    return item.profile == one.profile and item.start == one.placement.start


def _price(pairs: Sequence[Kept]) -> tuple[int, int]:
    costs = [found.cost for _, found in pairs]
    return sum(one for one, _ in costs), sum(one for _, one in costs)
