"""Names of MIG profiles and layouts, resolved against what the driver of a GPU offers; pure.

The driver's own names count. `3g` is an alias by shape: so many compute slices, whatever the memory of the board, and
of several such profiles the one with the least memory; `1g.double` is the one with the most. `2c.` in front is a
compute instance of two slices. Source: MIG User Guide (profile names, attributes); nvml.h, profile info version 2.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nodeagent.resources.mig_compute import offered
from nodeagent.resources.mig_placement import FILLS, Board, Wanted, refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nodeagent.state.gpu import MigProfile

_NAME = re.compile(
    r"(?:(?P<width>[1-9])c\.)?(?P<slices>[1-9])g(?P<memory>\.[0-9]+gb|\.double)?(?P<attributes>(?:[+-][a-z.]+)*)"
)
# Counts by compute slices: those of nvidia-mig-parted's all-balanced for boards of seven and of four slices.
_BALANCED: Mapping[int, Mapping[int, int]] = {7: {3: 1, 2: 1, 1: 2}, 4: {2: 1, 1: 2}}
DISABLED, ENABLED, BALANCED = "all-disabled", "all-enabled", "all-balanced"


class UnknownNameError(ValueError):
    """A name that means nothing on this board: `problem` says why, `advice` what would be valid."""

    def __init__(self, problem: str, advice: str) -> None:
        super().__init__(f"{problem}; {advice}")
        self.problem, self.advice = problem, advice


@dataclass(frozen=True)
class Device:
    """A compute instance by the name of its profile: a width in compute slices, FILLS for the whole GPU instance."""

    profile: MigProfile
    width: int = FILLS

    def __str__(self) -> str:
        return device_name(self.profile.name, self.width)


def device_name(profile: str, width: int) -> str:
    """`3g.20gb`, or `1c.3g.20gb` for a part of it."""
    return f"{width}c.{profile}" if width else profile


def resolve(name: str, profiles: Sequence[MigProfile]) -> Device:
    """The compute instance profile that a name stands for on this board. Raises UnknownNameError."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UnknownNameError(f"{name} is not the name of a profile", _valid(name, profiles))
    text = name[found.start("slices") :]
    profile = next((one for one in profiles if one.name == text), None) or _by_shape(found, profiles)
    if profile is None:
        raise UnknownNameError(f"there is no profile {text}", _valid(text, profiles))
    return Device(profile, _width(name, int(found["width"] or 0), profile, profiles))


def _width(name: str, width: int, profile: MigProfile, profiles: Sequence[MigProfile]) -> int:
    """A width that is all of the GPU instance fills it, but for the narrow one slice of a double-memory profile."""
    if not width or (width == profile.slice_count and not _is_double(profile, profiles)):
        return FILLS
    widths = offered(profile.slice_count) + ((profile.slice_count,) if _is_double(profile, profiles) else ())
    if width not in widths:
        valid = ", ".join([profile.name, *(device_name(profile.name, one) for one in widths)])
        raise UnknownNameError(f"{name} has no compute instance of {width} slices", f"valid are {valid}")
    return width


def _by_shape(found: re.Match[str], profiles: Sequence[MigProfile]) -> MigProfile | None:
    if found["memory"] not in (None, ".double"):
        return None
    slices, attributes = int(found["slices"]), found["attributes"]
    alike = [one for one in profiles if one.slice_count == slices and _attributes(one) == attributes]
    if not alike:
        return None
    if found["memory"] is None:
        return min(alike, key=_memory_slices)
    return max(alike, key=_memory_slices) if len({_memory_slices(one) for one in alike}) > 1 else None


def _is_double(profile: MigProfile, profiles: Sequence[MigProfile]) -> bool:
    """Whether another profile with as many compute slices has less memory."""
    return any(
        one.slice_count == profile.slice_count and _memory_slices(one) < _memory_slices(profile) for one in profiles
    )


def _attributes(profile: MigProfile) -> str:
    found = _NAME.fullmatch(profile.name)
    return found["attributes"] if found else profile.name


def _memory_slices(profile: MigProfile) -> int:
    return max((place.size for place in profile.placements), default=0)


def _valid(name: str, profiles: Sequence[MigProfile]) -> str:
    names = sorted(one.name for one in profiles)
    shape = _NAME.fullmatch(name)
    near = [one.name for one in profiles if shape and one.slice_count == int(shape["slices"])]
    near = sorted(near, key=len)[:2] or difflib.get_close_matches(name, names, n=2, cutoff=0.5)
    meant = f"did you mean {' or '.join(near)}; " if near else ""
    return f"{meant}it offers {', '.join(names) or 'none'}"


def layout_names(profiles: Sequence[MigProfile]) -> tuple[str, ...]:
    """The layouts that can be asked for by name on this board, as nvidia-mig-parted names those it generates."""
    balanced = (BALANCED,) if _balanced(profiles) else ()
    return (DISABLED, ENABLED, *balanced, *(_layout_of(one) for one in profiles if _most(one, profiles)))


def layout_counts(name: str, profiles: Sequence[MigProfile]) -> dict[str, int]:
    """How many of each profile a layout has; empty for all-disabled and all-enabled. Raises UnknownNameError."""
    if name in (DISABLED, ENABLED):
        return {}
    if name == BALANCED and (counts := _balanced(profiles)):
        return counts
    for one in profiles:
        if _layout_of(one) == name and (most := _most(one, profiles)):
            return {one.name: most}
    try:
        device = resolve(name.removeprefix("all-"), profiles)
    except UnknownNameError:
        names = layout_names(profiles)
        near = difflib.get_close_matches(name, names, n=1)
        meant = f"did you mean {near[0]}; " if near else ""
        raise UnknownNameError(f"there is no layout {name}", f"{meant}there are {', '.join(names)}") from None
    return {device.profile.name: _most(device.profile, profiles)}


def _layout_of(profile: MigProfile) -> str:
    return "all-" + profile.name.replace("+", ".")


def _most(profile: MigProfile, profiles: Sequence[MigProfile]) -> int:
    """How many of it fit on an empty GPU."""
    counts, board = range(profile.instance_count, 0, -1), Board.of(profiles)
    return next((count for count in counts if not refusal(board, [Wanted(profile.name)] * count)), 0)


def _balanced(profiles: Sequence[MigProfile]) -> dict[str, int]:
    formula = _BALANCED.get(max((one.slice_count for one in profiles), default=0), {})
    try:
        counts = {resolve(f"{slices}g", profiles).profile.name: count for slices, count in formula.items()}
    except UnknownNameError:
        return {}
    wanted = [Wanted(name) for name, count in counts.items() for _ in range(count)]
    return {} if not wanted or refusal(Board.of(profiles), wanted) else counts


def listing(names: Sequence[str]) -> str:
    """`1 x 3g.20gb + 4 x 1g.5gb`, none for nothing."""
    return " + ".join(f"{count} x {name}" for name, count in Counter(names).items()) or "none"
