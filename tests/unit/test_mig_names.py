"""Names of profiles and layouts against what boards offer, and what entries of the node file come to."""

from __future__ import annotations

import pytest

from mig_world import A30, A100, OFF, board, instance, lines, node, wants
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_names import (
    UnknownNameError,
    layout_counts,
    layout_names,
    resolve,
)
from nodeagent.resources.mig_placement import FILLS, Slot, Wanted
from nodeagent.resources.mig_wanted import counted, wants_of
from nodeagent.spec.schema import MigDrift, MigEntry, MigInstance
from nodeagent.state.gpu import MigMode, MigProfile, Placement


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("3g.20gb", "3g.20gb"),
        ("3g", "3g.20gb"),
        ("1g", "1g.5gb"),
        ("1g.double", "1g.10gb"),
        ("1g+me", "1g.5gb+me"),
        ("7g", "7g.40gb"),
        ("1c.3g.20gb", "1c.3g.20gb"),
        ("2c.3g", "2c.3g.20gb"),
        ("3c.3g.20gb", "3g.20gb"),
        ("1c.1g.5gb", "1g.5gb"),
        ("1c.1g.10gb", "1c.1g.10gb"),
    ],
)
def test_names_and_aliases(name, means):
    assert str(resolve(name, A100)) == means


def test_the_same_aliases_on_another_board():
    assert [str(resolve(name, A30)) for name in ("1g", "2g+me", "4g", "2c.4g")] == [
        "1g.6gb",
        "2g.12gb+me",
        "4g.24gb",
        "2c.4g.24gb",
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("3g.40gb", "there is no profile 3g.40gb; did you mean 3g.20gb; it offers 1g.10gb, 1g.5gb"),
        ("5g", "there is no profile 5g; .*it offers"),
        ("2g.double", "there is no profile 2g.double"),
        ("1g+gfx", "there is no profile 1g[+]gfx"),
        ("large", "large is not the name of a profile; it offers"),
        ("3c.4g", "3c.4g has no compute instance of 3 slices; valid are 4g.20gb, 1c.4g.20gb, 2c.4g.20gb"),
        ("4c.3g", "3g has no compute instance of 4 slices"),
    ],
)
def test_names_that_mean_nothing_here(name, text):
    with pytest.raises(UnknownNameError, match=text):
        resolve(name, A100)


def test_layouts_are_made_from_the_profiles():
    assert layout_names(A100) == (
        "all-disabled",
        "all-enabled",
        "all-balanced",
        "all-1g.5gb",
        "all-1g.5gb.me",
        "all-1g.10gb",
        "all-2g.10gb",
        "all-3g.20gb",
        "all-4g.20gb",
        "all-7g.40gb",
    )
    assert layout_counts("all-balanced", A100) == {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
    assert layout_counts("all-balanced", A30) == {"2g.12gb": 1, "1g.6gb": 2}
    assert layout_counts("all-3g", A100) == {"3g.20gb": 2}
    assert layout_counts("all-1g.5gb.me", A100) == {"1g.5gb+me": 1}
    with pytest.raises(UnknownNameError, match="no layout all-balance; did you mean all-balanced; there are all-dis"):
        layout_counts("all-balance", A100)


def test_a_board_of_another_shape_has_no_balanced_layout():
    two = (MigProfile("1g.24gb", 14, 1, 2, 0, (Placement(0, 1), Placement(1, 1))),)
    assert layout_names(two) == ("all-disabled", "all-enabled", "all-1g.24gb")


def test_the_largest_count_is_what_fits_and_not_what_the_driver_counts():
    """Some drivers report too large an instanceCount for A30."""
    wrong = tuple(MigProfile(one.name, 0, one.slice_count, 9, 0, one.placements) for one in A30)
    assert layout_counts("all-2g.12gb", wrong) == {"2g.12gb": 2}


def test_parts_share_gpu_instances_the_fewest_first():
    first, *others = counted({"1c.3g.20gb": 4}, A100).alternatives
    assert first == (Wanted("3g.20gb", (1,)), Wanted("3g.20gb", (1, 1, 1)))
    assert [[one.compute for one in other] for other in others] == [[(1, 1), (1, 1)]]
    mixed = counted({"1c.3g.20gb": 1, "2c.3g.20gb": 1, "1g.5gb": 1}, A100)
    assert mixed.alternatives[0] == (Wanted("3g.20gb", (1, 2)), Wanted("1g.5gb"))
    assert mixed.text == "1 x 1c.3g.20gb + 1 x 2c.3g.20gb + 1 x 1g.5gb"


def test_two_parts_of_two_slices_do_not_share_a_gpu_instance_of_three():
    (only,) = counted({"2c.3g.20gb": 2}, A100).alternatives
    assert [one.compute for one in only] == [(2,), (2,)]
    with pytest.raises(UnknownNameError, match=r"3 x 2c.3g.20gb do not fit: too many compute instances; there is"):
        counted({"2c.3g.20gb": 3}, A100)


def exact(*instances, **more):
    return MigEntry(MigMode.ENABLED, instances=instances, **more)


def test_exact_instances():
    entry = exact(MigInstance("3g", 4, {"1c": 1, "2c": 1}), MigInstance("1g"))
    found = wants_of(entry, A100)
    assert found.alternatives == ((Wanted("3g.20gb", (1, 2), 4), Wanted("1g.5gb", (FILLS,))),)
    assert found.text == "3g.20gb at 4 (1c, 2c) + 1g.5gb"


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (MigInstance("3g.20gb", 2), "3g.20gb cannot start at 2; it can at 0, 4"),
        (MigInstance("1c.3g.20gb"), "1c.3g.20gb is part of a GPU instance; write profile 3g.20gb"),
        (MigInstance("3g", None, {"2c": 2}), "compute instances 2 x 2c do not fit into 3g.20gb; widths are 1c, 2c"),
        (MigInstance("3g", None, {"4c": 1}), "has no compute instance of 4 slices"),
    ],
)
def test_exact_instances_that_cannot_be(one, text):
    with pytest.raises(UnknownNameError, match=text):
        wants_of(exact(one), A100)


def test_exact_places_move_what_is_elsewhere_and_leave_what_is_right():
    low, high = Slot(Placement(0, 4), "3g.20gb"), Slot(Placement(4, 4), "3g.20gb")
    entry = exact(MigInstance("3g.20gb", 4))
    assert plan(wants(entry), node(board(0, instance(high)))).steps == ()
    assert lines(plan(wants(entry), node(board(0, instance(low))))) == [
        "destroy 3g.20gb at 0",
        "create 3g.20gb at 4",
    ]
    both = exact(MigInstance("3g.20gb", 0), MigInstance("3g.20gb"))
    assert lines(plan(wants(both), node(board(0, instance(low))))) == ["create 3g.20gb at 4"]
    assert lines(plan(wants(both), node(board(0, instance(high))))) == ["create 3g.20gb at 0"]
    (found,) = plan(wants(entry), node(board(0, instance(low, 9)))).obstacles
    assert "3g.20gb at 4 do not fit beside what is in use: 3g.20gb at 0 by process 9" in found.problem


def test_layouts_by_name_are_planned():
    wish = plan(wants(MigEntry(layout="all-balanced")), node(board(**OFF)))
    assert lines(wish) == [
        "enable MIG",
        "create 3g.20gb at 4",
        "create 2g.10gb at 0",
        "create 1g.5gb at 2",
        "create 1g.5gb at 3",
    ]
    assert lines(plan(wants(MigEntry(layout="all-disabled")), node(board(0)))) == ["disable MIG"]
    assert lines(plan(wants(MigEntry(layout="all-enabled")), node(board(**OFF)))) == ["enable MIG"]
    (found,) = plan(wants(MigEntry(layout="all-9g")), node(board(0))).obstacles
    assert "there is no layout all-9g" in found.problem


def test_drift_that_is_only_to_be_reported():
    entry = MigEntry(layout="all-3g", drift=MigDrift.REPORT)
    wish = plan(wants(entry), node(board(0)))
    assert wish.steps == ()
    (found,) = wish.obstacles
    assert found.problem.endswith("drift: report leaves it so: create 3g.20gb at 0; create 3g.20gb at 4")
    assert found.advice == "`nodeagent mig apply` does it"


def test_a_gpu_that_the_driver_cannot_reset_waits_for_a_reboot_and_is_not_asked_again():
    stuck = board(mig_mode=MigMode.DISABLED, pending_mig_mode=MigMode.ENABLED, needs_reboot=True)
    wish = plan(wants(MigEntry(MigMode.ENABLED)), node(stuck))
    assert wish.steps == ()
    assert (
        "MIG is disabled, enabled is pending, and this GPU cannot be reset while the node runs"
        in wish.obstacles[0].problem
    )
    assert wish.obstacles[0].advice == "reboot"
    back = plan(wants(MigEntry(MigMode.DISABLED)), node(stuck))
    assert lines(back) == ["disable MIG"]
    assert back.steps[0].claims == ()
