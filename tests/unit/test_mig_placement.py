"""The placement search against brute force: everything that fits is found, with the fewest destroys."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_world import A30, A100, A100_LAYOUTS, all_layouts, multiset
from nodeagent.resources.mig_placement import Slot, arrange, refusal
from nodeagent.state.gpu import MigProfile, Placement

BY_MULTISET = defaultdict(list)
for layout in A100_LAYOUTS:
    BY_MULTISET[multiset(layout)].append(layout)


def test_counts_of_the_published_tables():
    assert (len(BY_MULTISET), len(A100_LAYOUTS)) == (128, 2319)
    plain = [layout for layout in A100_LAYOUTS if all(slot.profile != "1g.5gb+me" for slot in layout)]
    assert (len({multiset(layout) for layout in plain}), len(plain)) == (78, 723)
    small = all_layouts(A30)
    assert len({multiset(layout) for layout in small}) >= 22


@pytest.mark.parametrize(
    "wanted", sorted(BY_MULTISET, key=sorted), ids=lambda wanted: "+".join(sorted(f"{n}x{p}" for p, n in wanted))
)
def test_every_multiset_is_reached_from_other_layouts_with_the_fewest_destroys(wanted):
    for start in random.Random(str(sorted(wanted))).sample(A100_LAYOUTS, 12):
        found = arrange(A100, dict(wanted), (), tuple(start))
        end = frozenset((*found.keep, *found.create))
        assert end in BY_MULTISET[wanted]
        assert set(found.keep) | set(found.destroy) == set(start)
        assert len(found.destroy) == len(start) - max(len(start & other) for other in BY_MULTISET[wanted])


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(A100_LAYOUTS), st.sampled_from(sorted(BY_MULTISET, key=sorted)), st.randoms(use_true_random=False)
)
def test_busy_instances_stay_and_only_they_can_prevent_a_layout(start, wanted, chance):
    busy = tuple(slot for slot in sorted(start) if chance.random() < 0.3)
    counts = Counter(slot.profile for slot in busy)
    if counts - Counter(dict(wanted)):
        return
    found = arrange(A100, dict(wanted), busy, tuple(set(start) - set(busy)))
    possible = [layout for layout in BY_MULTISET[wanted] if set(busy) <= layout]
    assert (found is None) == (not possible)
    if found is not None:
        assert frozenset((*busy, *found.keep, *found.create)) in possible


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([one.name for one in A100]), st.integers(1, 8), max_size=4))
def test_refusal_says_why_exactly_when_nothing_fits(wanted):
    assert bool(refusal(A100, wanted)) == (frozenset(wanted.items()) not in BY_MULTISET)


def test_reasons_of_refusal():
    assert refusal(A100, {"3g.20gb": 2, "1g.5gb": 2}) == "they need 8 compute slices, the board has 7"
    assert refusal(A100, {"1g.5gb+me": 2}) == "2 x 1g.5gb+me wanted, the board has room for 1"
    assert refusal(A100, {"3g.20gb": 2, "1g.5gb": 1}) == "no arrangement of their placements fits"


def test_one_instance_with_all_media_engines_leaves_room_for_those_without():
    def one(name, count):
        return MigProfile(name, 0, 1, count, 0, tuple(Placement(start, 1) for start in range(4)))

    profiles = (one("1g.24gb", 4), one("1g.24gb+me.all", 1), one("1g.24gb-me", 4), MigProfile("4g", 0, 4, 1, 0, ()))
    assert refusal(profiles, {"1g.24gb+me.all": 1, "1g.24gb-me": 3}) == ""
    assert refusal(profiles, {"1g.24gb+me.all": 1, "1g.24gb": 1}) == "no arrangement of their placements fits"


def test_the_documented_case_that_fails_where_the_driver_chooses_the_places():
    """MIG User Guide, known issues: the last memory slice is out of reach for 1g and 2g, so 3g has to lie on it."""
    found = arrange(A100, {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}, (), ())
    assert found.create[0] == Slot(Placement(4, 4), "3g.20gb")
