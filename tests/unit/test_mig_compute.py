"""Compute instances: what fits stays, those in use always, and orphans are repaired."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest

from mig_world import UUID, apply_wish, board, instance, lines, node, shared, wants
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_compute import NO_CHANGE, change, fits, places_by_rule, width
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.schema import MigEntry
from nodeagent.state.gpu import MigMode, Placement

LOW, HIGH = Slot(Placement(0, 4), "3g.20gb"), Slot(Placement(4, 4), "3g.20gb")
FOUR, SEVEN = Slot(Placement(0, 4), "4g.20gb"), Slot(Placement(0, 8), "7g.40gb")


def devices(**counts: int) -> MigEntry:
    return MigEntry(MigMode.ENABLED, devices={name.replace("_", "."): count for name, count in counts.items()})


PARTS = {"1c.3g.20gb": 2, "1g.5gb": 1}


def test_a_gpu_instance_stays_when_only_its_compute_instances_differ():
    state = node(board(0, instance(LOW)))
    spec = wants(MigEntry(MigMode.ENABLED, devices={"1c.3g.20gb": 3}))
    wish = plan(spec, state)
    assert lines(wish) == [
        "destroy the whole compute instance at 0 in 3g.20gb at 0",
        *(f"create 1c.3g.20gb at {start} in 3g.20gb at 0" for start in range(3)),
    ]
    after = apply_wish(wish, state)
    assert plan(spec, after).steps == ()
    back = plan(wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1})), after)
    assert len(back.steps) == 4


def test_undoing_step_by_step_brings_back_the_layout_before():
    state = node(board(0, shared(LOW, (1, 0, ()), (1, 1, ())), instance(HIGH)))
    wish = plan(wants(MigEntry(MigMode.ENABLED, devices={"2c.3g.20gb": 1, "1g.5gb": 1})), state)
    after = apply_wish(wish, state)
    assert all(step.satisfied(after) for step in wish.steps)
    for step in reversed(wish.steps):
        after = apply_wish(type(wish)(steps=(step.undo(),)), after)

    def seen(one):
        return {
            (gi.profile, gi.placement, tuple(sorted((ci.profile, ci.placement.start) for ci in gi.compute_instances)))
            for gi in one.gpus[UUID.format(0)].instances
        }

    assert seen(after) == seen(state)


def test_compute_instances_in_use_stay_where_they_are():
    state = node(board(0, shared(LOW, (1, 0, ()), (1, 1, (7,)), (1, 2, ()))))
    assert lines(plan(wants(MigEntry(MigMode.ENABLED, devices={"1c.3g.20gb": 1})), state)) == [
        "destroy 1c.3g.20gb at 0 in 3g.20gb at 0",
        "destroy 1c.3g.20gb at 2 in 3g.20gb at 0",
    ]
    (found,) = plan(wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1})), state).obstacles
    assert "1 x 3g.20gb do not fit beside what is in use: 3g.20gb at 0 by process 7" in found.problem


def test_a_place_taken_by_one_in_use_can_prevent_a_width():
    """Two slices can only be at 0 in an instance of three, and somebody is at 1."""
    spec = wants(MigEntry(MigMode.ENABLED, devices={"1c.3g.20gb": 1, "2c.3g.20gb": 1, "3g.20gb": 1}))
    (found,) = plan(spec, node(board(0, shared(LOW, (1, 1, (7,)))))).obstacles
    assert "beside what is in use: 3g.20gb at 0 by process 7" in found.problem
    assert lines(plan(spec, node(board(0, shared(LOW, (1, 2, (7,))))))) == [
        "create 3g.20gb at 4",
        "create 2c.3g.20gb at 0 in 3g.20gb at 0",
    ]


def test_parts_are_put_where_the_instances_are_even_where_fewer_would_do():
    """Two GPU instances with one part each already are what is wanted; so is one with two."""
    for there in ([shared(LOW, (1, 0, ())), shared(HIGH, (1, 0, ()))], [shared(LOW, (1, 0, ()), (1, 1, ()))]):
        assert plan(wants(MigEntry(MigMode.ENABLED, devices={"1c.3g.20gb": 2})), node(board(0, *there))).steps == ()


def test_parts_in_use_in_two_instances_stay_in_two():
    state = node(board(0, shared(LOW, (1, 0, (5,)), (1, 1, ())), shared(HIGH, (1, 2, (6,)))))
    assert lines(plan(wants(MigEntry(MigMode.ENABLED, devices={"1c.3g.20gb": 2})), state)) == [
        "destroy 1c.3g.20gb at 1 in 3g.20gb at 0"
    ]


def test_an_orphan_is_repaired_and_a_whole_one_is_kept_before_it():
    orphan = instance(LOW, has_compute=False)
    spec = wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 2}))
    assert lines(plan(spec, node(board(0, orphan, instance(HIGH, 3))))) == [
        "create the whole compute instance at 0 in 3g.20gb at 0"
    ]
    spec = wants(MigEntry(MigMode.ENABLED, devices={"3g.20gb": 1}))
    assert lines(plan(spec, node(board(0, orphan, instance(HIGH))))) == ["destroy 3g.20gb at 0"]


def test_a_new_gpu_instance_comes_with_its_parts():
    wish = plan(wants(MigEntry(MigMode.ENABLED, devices=PARTS)), node(board(0)))
    assert lines(wish) == ["create 3g.20gb at 0 as 1c + 1c", "create 1g.5gb at 4"]
    after = apply_wish(wish, node(board(0)))
    assert plan(wants(MigEntry(MigMode.ENABLED, devices=PARTS)), after).steps == ()


@pytest.mark.parametrize("slot", [LOW, FOUR, SEVEN], ids=lambda slot: slot.profile)
def test_every_change_of_compute_instances_is_the_least_by_brute_force(slot):
    slices = {"3g.20gb": 3, "4g.20gb": 4, "7g.40gb": 7}[slot.profile]
    every = list(arrangements(slices))
    for start, goal in product(every[:: max(1, len(every) // 25)], {tuple(sorted(w for w, _ in one)) for one in every}):
        busy = start[::2]
        there = shared(slot, *((wide, place.start, (1,) if (wide, place) in busy else ()) for wide, place in start))
        found = change(there, goal, slices)
        ends = [one for one in every if sorted(w for w, _ in one) == sorted(goal) and set(busy) <= set(one)]
        assert (found is None) == (not ends)
        if found is not None and found is not NO_CHANGE:
            left = [one for one in there.compute_instances if one not in found.destroy]
            assert not any(one.pids for one in found.destroy)
            end = {(width(one, there), one.placement) for one in left} | set(found.create)
            assert sorted(wide for wide, _ in end) == sorted(goal)
            assert len(found.destroy) == min(len(set(start) - set(one)) for one in ends)


def arrangements(slices):
    """Every set of compute instances that fits into so many slices, by brute force."""
    places = [(wide, place) for wide, found in places_by_rule(slices).items() for place in found]

    def extend(chosen, first, taken):
        yield chosen
        for index in range(first, len(places)):
            span = set(range(places[index][1].start, places[index][1].start + places[index][1].size))
            if not span & taken:
                yield from extend((*chosen, places[index]), index + 1, taken | span)

    yield from extend((), 0, set())


def test_what_fits_by_the_published_counts():
    assert Counter({wide: len(places) for wide, places in places_by_rule(7).items()}) == {0: 1, 1: 7, 2: 3, 3: 2, 4: 1}
    assert set(places_by_rule(4)) == {0, 1, 2}
    assert fits((2, 1), 3)
    assert not fits((2, 2), 3)
    assert fits((3, 4), 7)
