"""Congestion control by the driver's files: the same clauses on a plain tree as Linux shows it and on a simulated node.

The names are those of drivers/infiniband/hw/mlx5/cong.c of Linux 6.1 (mlx5_ib_dbg_cc_name), the numbers what
`simulation.congestion` starts with; no recording of a real card is at hand. debugfs gives a number and a line feed, and
a read that the firmware refuses gives an error, for which an empty file stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.errors import UnsupportedError
from nodeagent.host.congestion import read_congestion, write_congestion
from nodeagent.host.paths import SYS_DEBUG_MLX5
from nodeagent.host.ports import Files
from nodeagent.simulation.congestion import FIRST
from sim_node import sim_node
from trees import make_tree

NIC, OTHER = "0000:61:00.0", "0000:00:00.0"
NAMES = (
    "rp_clamp_tgt_rate", "rp_clamp_tgt_rate_ati", "rp_time_reset", "rp_byte_reset", "rp_threshold", "rp_ai_rate",
    "rp_max_rate", "rp_hai_rate", "rp_min_dec_fac", "rp_min_rate", "rp_rate_to_set_on_first_cnp", "rp_dce_tcp_g",
    "rp_dce_tcp_rtt", "rp_rate_reduce_monitor_period", "rp_initial_alpha_value", "rp_gd", "np_min_time_between_cnps",
    "np_cnp_dscp", "np_cnp_prio_mode", "np_cnp_prio",
)  # fmt: skip


@pytest.fixture(params=["plain tree", "simulated"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Files]:
    if request.param == "plain tree":
        folder = f"{SYS_DEBUG_MLX5}/{NIC}/cc_params"
        yield make_tree(tmp_path, {f"{folder}/{name}": str(FIRST.get(name, 0)) for name in NAMES}, {})
        return
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as node:
        assert node.converge("modules: {rdma: {}}\n").plan.converged
        yield node.host.files


def test_every_parameter_of_the_driver_is_read_and_functions_without_them_are_left_out(files: Files) -> None:
    found = read_congestion(files, [NIC, OTHER])
    assert found == {NIC: {name: FIRST.get(name, 0) for name in NAMES}}
    assert read_congestion(files, [NIC], ("np_cnp_dscp",)) == {NIC: {"np_cnp_dscp": 48}}


def test_a_write_changes_one_parameter(files: Files) -> None:
    before = dict(read_congestion(files, [NIC])[NIC])
    write_congestion(files, NIC, "np_cnp_dscp", 46)
    assert read_congestion(files, [NIC])[NIC] == {**before, "np_cnp_dscp": 46}


def test_what_is_not_there_is_refused_with_what_to_look_at(files: Files) -> None:
    for address, name in ((NIC, "rtt_resp_dscp"), (OTHER, "rp_gd"), (NIC, "ecn_prio3")):
        with pytest.raises(
            UnsupportedError, match=f"set {name} of {address}: its driver does not offer it; mount debugfs"
        ):
            write_congestion(files, address, name, 1)


def test_a_parameter_that_the_firmware_does_not_tell_is_unknown_by_itself(tmp_path: Path) -> None:
    folder = f"{SYS_DEBUG_MLX5}/{NIC}/cc_params"
    files = make_tree(tmp_path, {f"{folder}/rp_gd": "", f"{folder}/rp_ai_rate": "5"}, {})
    assert read_congestion(files, [NIC]) == {NIC: {"rp_ai_rate": 5}}
