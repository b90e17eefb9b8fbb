"""What is in the way, what could be had instead, and which layouts are possible."""

from __future__ import annotations

from mig_world import A30, A30_LAYOUTS, A100, A100_LAYOUTS, board, instance, multiset, node, wants
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_conflict import layouts
from nodeagent.resources.mig_placement import Board, Slot
from nodeagent.spec.schema import MigEntry
from nodeagent.state.gpu import MigMode, Placement
from nodeagent.state.processes import Process

MIDDLE = Slot(Placement(3, 1), "1g.5gb")
SIXTH = Slot(Placement(6, 1), "1g.5gb")


def test_only_the_instance_that_stands_in_the_way_is_named():
    state = node(
        board(0, instance(MIDDLE, 5), instance(SIXTH, 6)),
        processes={5: Process(5, "python", "python train.py"), 6: Process(6, "bash")},
    )
    entry = MigEntry(MigMode.ENABLED, devices={"4g.20gb": 1, "1g.5gb": 2})
    (found,) = plan(wants(entry), state).obstacles
    assert found.waits
    assert found.problem == (
        "1 x 4g.20gb + 2 x 1g.5gb do not fit beside what is in use: 1g.5gb at 3 by process 5 (python train.py)"
    )
    assert found.advice == "end these processes, or wish for 2 x 1g.5gb, which can be had now"


def test_what_can_be_had_instead_is_as_much_as_fits():
    state = node(board(0, instance(MIDDLE, 5)))
    entry = MigEntry(MigMode.ENABLED, devices={"3g.20gb": 2})
    (found,) = plan(wants(entry), state).obstacles
    assert found.advice == "end these processes, or wish for 1 x 1g.5gb + 1 x 3g.20gb, which can be had now"


def maximal(every):
    """Multisets that are part of no other, by brute force."""
    counts = {found: dict(found) for found in every}
    return {
        found
        for found in every
        if not any(
            other != found and all(counts[other].get(name, 0) >= number for name, number in found) for other in every
        )
    }


def test_layouts_that_are_possible_on_an_empty_board():
    for profiles, every in ((A100, A100_LAYOUTS), (A30, A30_LAYOUTS)):
        found = [frozenset(one) for one in layouts(Board.of(profiles), (), ())]
        assert len(found) == len(set(found))
        assert set(found) == maximal({multiset(one) for one in every})


def test_layouts_beside_what_is_in_use_and_with_what_is_wanted():
    found = {frozenset(one) for one in layouts(Board.of(A100), ("2g.10gb",), (instance(MIDDLE, 5),))}
    possible = {multiset(one) for one in A100_LAYOUTS if MIDDLE in one and any(s.profile == "2g.10gb" for s in one)}
    assert found == maximal(possible)
    assert list(layouts(Board.of(A100), ("4g.20gb",), (instance(MIDDLE, 5),))) == []
