"""The board tables: every board's profiles have the shape of its family, and cut a GPU up as the sources count it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from nodeagent.errors import GoneError
from nodeagent.simulation.board import FOUR_SLICES, SEVEN_SLICES, Board, Engines, GpuInstanceProfile
from nodeagent.simulation.boards import BOARDS, board_named

Layout = tuple[tuple[GpuInstanceProfile, int], ...]
SEVEN = [name for name, board in BOARDS.items() if max(profile.shape.slices for profile in board.profiles) == 7]
LIMITS = {"memory_mib", "multiprocessors", "copy_engines"}


def layouts(board: Board, kinds: tuple[GpuInstanceProfile, ...]) -> list[Layout]:
    """Every set of instances with their starts that fits: no slice twice, seven compute slices, each kind's count."""
    whole = max(board.profiles, key=lambda profile: profile.shape.size)
    spots = [(profile, start) for profile in kinds for start in profile.shape.starts]
    found: list[Layout] = []

    def extend(first: int, chosen: Layout) -> None:
        found.append(chosen)
        for number in range(first, len(spots)):
            if fits(whole, (*chosen, spots[number])):
                extend(number + 1, (*chosen, spots[number]))

    extend(0, ())
    return found


def fits(whole: GpuInstanceProfile, layout: Layout) -> bool:
    slices = [start + offset for profile, start in layout for offset in range(profile.shape.size)]
    kinds = [profile for profile, _ in layout]
    names = [profile.name for profile in kinds]
    exclusive = any("+me.all" in name for name in names)
    return (
        len(slices) == len(set(slices))
        and sum(profile.shape.slices for profile in kinds) <= whole.shape.slices
        and all(kinds.count(profile) <= profile.shape.instances for profile in kinds)
        and all(
            sum(getattr(profile.engines, kind.name) for profile in kinds) <= getattr(whole.engines, kind.name)
            for kind in fields(Engines)
        )
        and (not exclusive or (sum("-me" not in name for name in names) == 1))
    )


def multisets(found: list[Layout]) -> int:
    return len({tuple(sorted(profile.name for profile, _ in layout)) for layout in found})


@pytest.mark.parametrize("name", SEVEN)
def test_seven_slice_boards_have_the_layouts_that_the_sources_count(name: str) -> None:
    board = BOARDS[name]
    found = layouts(board, board.profiles)
    assert (multisets(found), len(found)) == (128, 2319)
    plain = layouts(board, tuple(profile for profile in board.profiles if "+me" not in profile.name))
    assert (multisets(plain), len(plain)) == (78, 723)


def test_four_slice_boards_have_theirs() -> None:
    a30, rtx = BOARDS["A30"], BOARDS["RTX-PRO-6000"]
    assert (multisets(layouts(a30, a30.profiles)), len(layouts(a30, a30.profiles))) == (20, 76)
    assert (multisets(layouts(rtx, rtx.profiles)), len(layouts(rtx, rtx.profiles))) == (115, 717)


@pytest.mark.parametrize("name", BOARDS)
def test_profiles_fit_their_board(name: str) -> None:
    board = BOARDS[name]
    whole = max(board.profiles, key=lambda profile: profile.shape.size)
    assert len({profile.name for profile in board.profiles}) == len(board.profiles)
    assert [profile.shape.enumerator for profile in board.profiles] == sorted(
        p.shape.enumerator for p in board.profiles
    )
    for profile in board.profiles:
        shape = profile.shape
        assert profile.name.startswith(f"MIG {shape.slices}g.")
        assert sorted(shape.preference) == list(shape.starts)
        assert max(shape.starts) + shape.size <= whole.shape.size
        assert profile.memory_mib * whole.shape.size <= shape.size * board.memory_mib * 1.03
        assert profile.multiprocessors <= whole.multiprocessors
        assert set(profile.unsourced) <= LIMITS
        assert len(profile.numbers) == 13


@pytest.mark.parametrize("name", BOARDS)
def test_what_is_estimated_is_a_field_of_the_board(name: str) -> None:
    assert set(BOARDS[name].unsourced) <= {field.name for field in fields(Board)}


@pytest.mark.parametrize("name", BOARDS)
def test_a_profile_is_named_by_its_memory(name: str) -> None:
    """The figure in the name is the instance's share of the board's memory, rounded up by the driver's own rule."""
    board = BOARDS[name]
    whole = max(board.profiles, key=lambda profile: profile.shape.size)
    for profile in board.profiles:
        gib = int(profile.name.split(".")[1].split("gb")[0])
        assert abs(gib - board.memory_mib / 1024 * profile.shape.size / whole.shape.size) <= 0.035 * gib + 1.5


def test_the_families_keep_their_ids() -> None:
    assert [SEVEN_SLICES[kind].profile_id for kind in ("1g", "1g+me", "1g double", "2g", "3g", "4g", "7g")] == [
        *(19, 20, 15),
        *(14, 9, 5, 0),
    ]
    assert {kind: shape.profile_id for kind, shape in FOUR_SLICES.items() if "me" not in kind} == {
        "1g": 14,
        "2g": 5,
        "4g": 0,
        "1g+gfx": 47,
        "2g+gfx": 35,
        "4g+gfx": 32,
    }
    assert [FOUR_SLICES[kind].profile_id for kind in ("1g+me", "2g+me")] == [21, 6]
    assert [FOUR_SLICES[kind].profile_id for kind in ("1g-me", "2g-me", "1g+me.all", "2g+me.all")] == [67, 66, 65, 64]


def test_a_board_is_found_by_its_name() -> None:
    assert board_named("H100-80GB HBM3") is BOARDS["H100-80GB-HBM3"]
    with pytest.raises(GoneError, match=r"find board V100.*there are tables for A30, A100-SXM4-40GB"):
        board_named("V100")
