"""The placement search against brute force: everything that fits is found, with the fewest destroys."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mig_world import A30, A30_LAYOUTS, A100, A100_LAYOUTS, all_layouts, instance, multiset
from nodeagent.resources import mig_placement
from nodeagent.resources.mig_layout import Layout, slot_of
from nodeagent.resources.mig_layout import arrange as arrange_instances
from nodeagent.resources.mig_placement import Board, Slot, Wanted
from nodeagent.state.gpu import MediaEngines, MigProfile, Placement

BY_MULTISET = defaultdict(list)
for layout in A100_LAYOUTS:
    BY_MULTISET[multiset(layout)].append(layout)
BY_MULTISET_4 = defaultdict(list)
for layout in A30_LAYOUTS:
    BY_MULTISET_4[multiset(layout)].append(layout)


def _wanted(counts):
    return [Wanted(name) for name, count in counts.items() for _ in range(count)]


def refusal(profiles, counts):
    return mig_placement.refusal(Board.of(profiles), _wanted(counts))


def arrange(profiles, counts, busy, idle) -> Layout | None:
    """By profile counts: instances in use have process 1."""
    standing = [*(instance(slot, 1) for slot in busy), *(instance(slot) for slot in idle)]
    return arrange_instances(Board.of(profiles), _wanted(counts), standing)


def kept(found):
    return {slot_of(one) for one, _ in found.keep}


def destroyed(found):
    return {slot_of(one) for one in found.destroy}


def created(found):
    return [slot for _, slot in found.create]


def test_counts_of_the_published_tables():
    assert (len(BY_MULTISET), len(A100_LAYOUTS)) == (128, 2319)
    plain = [layout for layout in A100_LAYOUTS if all(slot.profile != "1g.5gb+me" for slot in layout)]
    assert (len({multiset(layout) for layout in plain}), len(plain)) == (78, 723)
    assert (len(BY_MULTISET_4), len(A30_LAYOUTS)) == (20, 76)


def test_the_media_engines_of_an_a30_rule_out_two_sets_that_placements_alone_would_allow():
    """MIG User Guide: 4g.24gb has one JPEG engine and one OFA, 1g.6gb+me and 2g.12gb+me have one of each."""
    blind = tuple(replace(one, media=MediaEngines()) for one in A30)
    by_places = {multiset(layout) for layout in all_layouts(blind)}
    assert (len(by_places), len(all_layouts(blind))) == (22, 84)
    both = {("1g.6gb+me", 1), ("2g.12gb+me", 1)}
    assert by_places - set(BY_MULTISET_4) == {frozenset(both), frozenset({*both, ("1g.6gb", 1)})}
    assert refusal(A30, dict(both)) == "they need 2 jpegs, the board has 1"


def test_what_the_driver_let_stand_is_not_called_impossible():
    """Should a driver count media engines in another way, the layout it made is taken for what it is."""
    standing = (instance(Slot(Placement(0, 2), "2g.12gb+me"), 1), instance(Slot(Placement(2, 1), "1g.6gb+me")))
    wanted = _wanted({"2g.12gb+me": 1, "1g.6gb+me": 1, "1g.6gb": 1})
    found = arrange_instances(Board.of(A30, standing), wanted, standing)
    assert (len(found.keep), found.destroy) == (2, ())
    assert created(found) == [Slot(Placement(3, 1), "1g.6gb")]


SHARES = 8


@pytest.mark.parametrize("share", range(SHARES))
def test_every_multiset_is_reached_from_every_layout_with_the_fewest_operations(share):
    """All 128 targets from all 2319 layouts of a board of seven slices, against brute force."""
    standing = [(start, tuple(map(instance, sorted(start)))) for start in A100_LAYOUTS]
    board = Board.of(A100)
    for wanted in sorted(BY_MULTISET, key=sorted)[share::SHARES]:
        items, ends = _wanted(dict(wanted)), BY_MULTISET[wanted]
        for start, there in standing:
            found = arrange_instances(board, items, there)
            operations = len(found.destroy) + len(found.create)
            assert operations == min(len(start ^ end) for end in ends), (start, wanted)
            assert frozenset(kept(found) | {*created(found)}) in ends


def assert_least(found, start, ends):
    """The layout ends in one of these, and has no more operations than any way by brute force."""
    assert kept(found) | {*created(found)} in [set(end) for end in ends]
    assert kept(found) | destroyed(found) == set(start)
    assert not kept(found) & destroyed(found)
    operations = len(found.destroy) + len(found.create)
    assert operations == min(len(start ^ end) for end in ends)


def test_on_four_slices_every_multiset_is_reached_from_every_layout_with_the_fewest_operations():
    for wanted, ends in BY_MULTISET_4.items():
        for start in A30_LAYOUTS:
            assert_least(arrange(A30, dict(wanted), (), tuple(start)), start, ends)


def test_on_four_slices_with_every_choice_of_instances_in_use():
    for wanted, ends in BY_MULTISET_4.items():
        for start in A30_LAYOUTS:
            for mask in range(1, 1 << len(start)):
                slots = sorted(start)
                busy = {slot for index, slot in enumerate(slots) if mask >> index & 1}
                found = arrange(A30, dict(wanted), tuple(busy), tuple(start - busy))
                possible = [end for end in ends if busy <= end]
                assert (found is None) == (not possible)
                if found is not None:
                    assert busy <= kept(found)
                    assert_least(found, start, possible)


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
        assert set(busy) <= kept(found)
        assert_least(found, start, possible)


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
    assert (
        refusal(profiles, {"1g.24gb+me.all": 1, "1g.24gb": 1})
        == "beside an instance with +me.all only instances with -me fit"
    )


def test_the_documented_case_that_fails_where_the_driver_chooses_the_places():
    """MIG User Guide, known issues: the last memory slice is out of reach for 1g and 2g, so 3g has to lie on it."""
    found = arrange(A100, {"1g.5gb": 2, "2g.10gb": 1, "3g.20gb": 1}, (), ())
    assert created(found)[0] == Slot(Placement(4, 4), "3g.20gb")
