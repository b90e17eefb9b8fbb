"""What follows from several samples, and counters that wrap."""

from __future__ import annotations

import pytest

from nodeagent.metrics.tally import KNOWN_XIDS, Tally
from nodeagent.metrics.unwrap import Unwrap
from nodeagent.state.gpu import GpuSample, Xid
from nodeagent.state.network import RdmaDevice, RdmaPort

WRAP = 1 << 32


def test_xids_are_counted_from_zero_and_never_forgotten():
    tally = Tally()
    first = tally.add([GpuSample("A", xids=(Xid(79), Xid(31, 2), Xid(31, 2)))], 10.0)["A"]
    assert (first.xids[79, -1], first.xids[31, 2], first.xids[48, -1]) == (1, 2, 0)
    assert (first.last_xid, first.last_xid_seconds) == (31, 10.0)
    second = tally.add([GpuSample("A"), GpuSample("B")], 20.0)
    assert second["A"] == first
    assert set(second["B"].xids) == {(code, -1) for code in KNOWN_XIDS}
    assert second["B"].last_xid == 0
    tally.add([GpuSample("B")], 30.0)
    assert tally.gpus["A"] == first, "a GPU that fell off the bus keeps what it said"


def test_an_xid_counts_once_whoever_tells_of_it():
    tally = Tally()
    tally.add([GpuSample("A", xids=(Xid(48), Xid(48)))], 10.0)
    both = tally.hear({"A": {48: 1, 79: 1}, "B": {79: 1}}, 11.0)
    assert (both["A"].counts[48, -1], both["A"].counts[79, -1], both["A"].counts[31, -1]) == (2, 1, 0)
    assert (both["A"].last_xid, both["A"].last_xid_seconds) == (79, 11.0)
    assert both["A"].recent_xids == ((10.0, 48), (10.0, 48), (11.0, 79))
    assert both["B"].counts[79, -1] == 1, "a GPU that never answered"
    assert tally.hear({"A": {48: 1, 79: 1}, "B": {79: 1}}, 12.0) == both
    late = tally.add([GpuSample("A", xids=(Xid(79),))], 13.0)["A"]
    assert late.counts[79, -1] == 1
    assert tally.hear({"A": {48: 3, 79: 1}}, 14.0)["A"].counts[48, -1] == 3


def test_the_nvlink_rate_is_dcgms():
    tally = Tally()
    assert tally.add([GpuSample("A", fields={138: 1000, 139: 500})], 10.0)["A"].nvlink_megabytes_per_second is None
    found = tally.add([GpuSample("A", fields={138: 5000, 139: 2500})], 12.0)["A"]
    assert found.nvlink_megabytes_per_second == (6000 / 2) / 1000
    reset = tally.add([GpuSample("A", fields={138: 0, 139: 10})], 14.0)["A"]
    assert reset.nvlink_megabytes_per_second is None


def carried(unwrap: Unwrap, name: str, *values: int) -> list[int]:
    def once(value: int) -> int:
        device = RdmaDevice("mlx5_0", "g", ports=(RdmaPort(1, "ACTIVE", "Ethernet", counters=((name, value),)),))
        return unwrap({"mlx5_0": device})["mlx5_0"].ports[0].counters[0][1]

    return [once(value) for value in values]


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("out_of_sequence", (WRAP - 10, 5, 7), [WRAP - 10, WRAP + 5, WRAP + 7]),
        ("out_of_sequence", (WRAP - 1, 0, WRAP - 1, 1), [WRAP - 1, WRAP, 2 * WRAP - 1, 2 * WRAP + 1]),
        ("out_of_sequence", (1000, 3), [1000, 3]),
        ("out_of_sequence", (WRAP - 10, 5, 2), [WRAP - 10, WRAP + 5, 2]),
        ("port_xmit_data", (WRAP - 10, 5), [WRAP - 10, 5]),
    ],
)
def test_narrow_counters_go_on_past_their_wrap_and_follow_a_reset(name, given, expected):
    assert carried(Unwrap(), name, *given) == expected


def test_a_device_that_goes_and_comes_back_is_no_wrap():
    unwrap = Unwrap()
    assert carried(unwrap, "out_of_sequence", 500) == [500]
    assert unwrap({}) == {}
    assert carried(unwrap, "out_of_sequence", 0) == [0]
