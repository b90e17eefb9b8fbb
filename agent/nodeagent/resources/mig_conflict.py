"""Who stands in the way of a layout, what is possible beside what is in use, and every layout that is; pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING

from nodeagent.resources.mig_compute import width
from nodeagent.resources.mig_layout import arrange, arrange_any, slot_of
from nodeagent.resources.mig_names import device_name, listing
from nodeagent.resources.mig_placement import Board, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from nodeagent.state.gpu import GpuInstance


def in_the_way(
    board: Board, alternatives: Sequence[Sequence[Wanted]], standing: Sequence[GpuInstance]
) -> tuple[GpuInstance, ...]:
    """The fewest instances in use without whose users the layout could be; all of them if it never can."""
    busy = [one for one in standing if one.in_use]
    for size in range(1, len(busy) + 1):
        for chosen in combinations(busy, size):
            freed = [_idle(one) if one in chosen else one for one in standing]
            if arrange_any(board, alternatives, freed) is not None:
                return chosen
    return tuple(busy)


def _idle(one: GpuInstance) -> GpuInstance:
    return replace(
        one, compute_instances=tuple(replace(compute, pids=(), pods=()) for compute in one.compute_instances)
    )


def possible_instead(board: Board, wanted: Sequence[Wanted], standing: Sequence[GpuInstance]) -> str:
    """What is in use and as much of what is wanted as fits beside it, the biggest first."""
    busy = [one for one in standing if one.in_use]
    chosen = [Wanted(one.profile, _used(one), one.placement.start) for one in busy]
    rest = list(wanted)
    for one in busy:
        used = next((item for item in rest if item.profile == one.profile), None)
        if used is not None:
            rest.remove(used)
    for item in sorted(rest, key=lambda item: -board.size(item.profile)):
        if arrange(board, [*chosen, item], standing) is not None:
            chosen.append(item)
    return listing([device_name(item.profile, width) for item in chosen for width in item.compute])


def _used(one: GpuInstance) -> tuple[int, ...]:
    """Widths of the compute instances in use."""
    return tuple(sorted(width(compute, one) for compute in one.compute_instances if compute.in_use))


def layouts(
    board: Board, wanted: Sequence[str], standing: Sequence[GpuInstance]
) -> Iterator[tuple[tuple[str, int], ...]]:
    """Every set of profiles that holds the wanted ones, fits beside what is in use, and has no room for one more.

    Each is (profile, count) by the board's order. What is in use and not wanted counts as part of the layout.
    """
    busy = [one for one in standing if one.in_use]
    fixed = [slot_of(one) for one in busy]
    names = list(board.profiles)
    missing = Counter(wanted) - Counter(one.profile for one in busy)
    start = tuple(missing[name] for name in names)

    def fits(counts: tuple[int, ...]) -> bool:
        items = [Wanted(name) for name, count in zip(names, counts, strict=True) for _ in range(count)]
        return board.place(items, fixed) is not None

    possible = _grown(start, fits)
    there = Counter(one.profile for one in busy)
    for counts in sorted(possible, reverse=True):
        if not any(_one_more(counts, index) in possible for index in range(len(names))):
            total = Counter(dict(zip(names, counts, strict=True))) + there
            yield tuple((name, total[name]) for name in names if total[name])


def _grown(start: tuple[int, ...], fits: Callable[[tuple[int, ...]], bool]) -> set[tuple[int, ...]]:
    """All counts from `start` on that fit: what does not fit does not fit with one more either."""
    found = {start} if fits(start) else set()
    fresh = list(found)
    refused: set[tuple[int, ...]] = set()
    while fresh:
        counts = fresh.pop()
        for index in range(len(counts)):
            more = _one_more(counts, index)
            if more in found or more in refused:
                continue
            if fits(more):
                found.add(more)
                fresh.append(more)
            else:
                refused.add(more)
    return found


def _one_more(counts: tuple[int, ...], index: int) -> tuple[int, ...]:
    return (*counts[:index], counts[index] + 1, *counts[index + 1 :])
