"""Cutting up every kind of board through NVML calls: what fits, what excludes what, and how many layouts there are."""

from __future__ import annotations

import os

import pytest

from nodeagent.simulation.boards import BOARDS
from nodeagent.simulation.machine import BoardAt, Machine
from nvml_client import Client

NO_ROOM, BAD_ARGUMENT, UNSUPPORTED = "error 23", "error 2", "error 3"
COUNT = """
def spots(handle):
    return [(p.id, start, size) for p in profiles(handle).values() for start, size in placements(handle, p.id)]

def attempt(handle, spot):
    try:
        return nvmlDeviceCreateGpuInstanceWithPlacement(handle, spot[0], at(spot[1], spot[2]))
    except NVMLError_InsufficientResources:
        return None

def layouts(handle):
    '''Every layout that the driver lets be made, by depth-first search with the calls themselves.'''
    found, all_spots = set(), spots(handle)
    def extend(first, chosen):
        found.add(tuple(sorted(chosen)))
        for number in range(first, len(all_spots)):
            made = attempt(handle, all_spots[number])
            if made is not None:
                extend(number + 1, (*chosen, all_spots[number]))
                nvmlGpuInstanceDestroy(made)
    extend(0, ())
    return found

def counts(handle):
    found = layouts(handle)
    return len({tuple(sorted(spot[0] for spot in layout)) for layout in found}), len(found)
"""


@pytest.fixture
def open_board(tmp_path):
    opened = []

    def start(*boards: str) -> Client:
        slots = [BoardAt(board, f"0000:{number + 1:02x}:00.0", number) for number, board in enumerate(boards)]
        machine = Machine.create(str(tmp_path / "machine"), slots, str(tmp_path), "580.95.05")
        client = Client({**os.environ, **machine.environment}).start()
        opened.extend((machine, client))
        assert [client(f"nvmlDeviceSetMigMode(g{number}, 1)") for number in range(len(boards))] == [0] * len(boards)
        return client

    yield start
    for machine, client in zip(opened[::2], opened[1::2], strict=True):
        client.kill()
        machine.close()


@pytest.mark.parametrize(
    ("board", "expected"), [("A30", [20, 76]), ("RTX-PRO-6000", [115, 717]), ("A100-SXM4-80GB", [128, 2319])]
)
def test_the_layouts_that_calls_can_make_are_those_of_the_tables(open_board, board, expected):
    client = open_board(board)
    client(f"exec({COUNT!r}, globals())")
    assert client("counts(g0)") == expected
    assert client("[len(instances(g0, p.id)) for p in profiles(g0).values()]") == [0] * len(BOARDS[board].profiles)


@pytest.mark.parametrize("board", BOARDS)
def test_nvml_lists_the_profiles_of_the_table(open_board, board):
    client = open_board(board)
    listed = client(
        "[(p.name, p.id, p.sliceCount, p.instanceCount, p.multiprocessorCount) for p in profiles(g0).values()]"
    )
    table = [
        (p.name, p.shape.profile_id, p.shape.slices, p.shape.instances, p.multiprocessors)
        for p in BOARDS[board].profiles
    ]
    assert [tuple(row) for row in listed] == table
    media = "[(p.decoderCount, p.encoderCount, p.jpegCount, p.ofaCount, p.memorySizeMB) for p in profiles(g0).values()]"
    engines = [(*vars(p.engines).values(), p.memory_mib) for p in BOARDS[board].profiles]
    assert [tuple(row) for row in client(media)] == engines
    for profile in BOARDS[board].profiles:
        wanted = [[start, profile.shape.size] for start in profile.shape.starts]
        assert client(f"placements(g0, {profile.shape.profile_id})") == wanted


@pytest.mark.parametrize("board", BOARDS)
def test_one_compute_instance_fills_each_profile(open_board, board):
    client = open_board(board)
    for profile in BOARDS[board].profiles:
        client(f"gi = nvmlDeviceCreateGpuInstance(g0, {profile.shape.profile_id})")
        width = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[profile.shape.slices]
        number = 7 if profile.shape.wide else width
        filling = client(f"nvmlGpuInstanceGetComputeInstanceProfileInfo(gi, {number}, 0).multiprocessorCount")
        assert filling == profile.multiprocessors
        client(f"ci = nvmlGpuInstanceCreateComputeInstance(gi, {number})")
        name = client("nvmlDeviceGetName(nvmlComputeInstanceGetInfo(ci).device)")
        assert name == f"{BOARDS[board].name} {profile.name}"
        client("[nvmlComputeInstanceDestroy(ci), nvmlGpuInstanceDestroy(gi)]")


def test_beside_all_media_engines_only_instances_without_fit(open_board):
    client = open_board("RTX-PRO-6000")
    client("every = nvmlDeviceCreateGpuInstanceWithPlacement(g0, 65, at(0, 1))")
    assert client("nvmlDeviceCreateGpuInstance(g0, 14)") == NO_ROOM
    assert client("nvmlDeviceCreateGpuInstance(g0, 47)") == NO_ROOM
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 14)") == 0
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 67)") == 3
    assert client("place(nvmlDeviceCreateGpuInstance(g0, 66))")[1:] == [66, 2, 2]
    assert client("nvmlGpuInstanceDestroy(every)") == 0
    client("plain = nvmlDeviceCreateGpuInstanceWithPlacement(g0, 14, at(0, 1))")
    assert client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 65, at(1, 1))") == NO_ROOM


def test_one_jpeg_engine_and_one_ofa_go_to_one_instance(open_board):
    client = open_board("A30")
    client("media = nvmlDeviceCreateGpuInstanceWithPlacement(g0, 6, at(0, 2))")
    assert client("nvmlDeviceCreateGpuInstanceWithPlacement(g0, 21, at(2, 1))") == NO_ROOM
    assert client("[nvmlDeviceGetGpuInstanceRemainingCapacity(g0, n) for n in (21, 14, 5)]") == [0, 2, 1]
    assert client("nvmlGpuInstanceDestroy(media)") == 0
    assert client("nvmlDeviceGetGpuInstanceRemainingCapacity(g0, 21)") == 1


def test_four_slice_boards_have_four_of_everything(open_board):
    client = open_board("A30")
    assert client("nvmlDeviceGetMaxMigDeviceCount(g0)") == 4
    assert client("nvmlDeviceGetMigDeviceHandleByIndex(g0, 4)") == BAD_ARGUMENT
    assert [client("place(nvmlDeviceCreateGpuInstance(g0, 14))")[0] for _ in range(4)] == [6, 5, 4, 3]
    assert client("nvmlDeviceCreateGpuInstance(g0, 21)") == NO_ROOM


def test_graphics_profiles_say_so(open_board):
    client = open_board("RTX-PRO-6000", "B200-180GB")
    assert client("profiles(g0)[0xB].name") == "MIG 2g.48gb+gfx"
    assert client("profiles(g1).get(0xB)") is None
    client("gi = nvmlDeviceCreateGpuInstance(g0, 35)")
    client("room = create_string_buffer(0x8C)")
    client("c_uint.from_buffer(room).value = 0x0300008C")
    client("import pynvml")
    client("call = pynvml.nvmlLib.nvmlGpuInstanceGetComputeInstanceProfileInfoV")
    assert client("[call(gi, 1, 0, room), c_uint.from_buffer(room, 0x88).value]") == [0, 1]
