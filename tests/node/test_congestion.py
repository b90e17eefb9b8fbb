"""Congestion control on a simulated node: written where it differs, refused where the driver does not have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from nodeagent.errors import UnsupportedError
from nodeagent.host.congestion import read_congestion, write_congestion
from nodeagent.host.paths import SYS_DEBUG_MLX5
from sim_node import SimNode, Told, sim_node
from trees import make_tree

NIC = "0000:61:00.0"
MODULES = "modules: {rdma: {}}\n"
WISH = "{cnp_dscp: 46, cnp_priority: 6, parameters: {rp_ai_rate: 10}}"
FILE = f'{MODULES}roce: {{devices: [{{match: "rail:0", congestion: {WISH}}}]}}\n'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        yield opened


def _settings(node: SimNode) -> Mapping[str, int]:
    return read_congestion(node.host.files, [NIC])[NIC]


def test_only_what_differs_is_written_and_drift_is_repaired(node: SimNode) -> None:
    told = Told()
    assert node.converge(FILE, told).plan.converged
    wanted = [
        f"act set np_cnp_dscp of {NIC} to 46 (is 48)",
        f"act set rp_ai_rate of {NIC} to 10 (is 5)",
    ]
    assert [line for line in told.lines if "np_" in line or "rp_" in line] == wanted
    assert (_settings(node)["np_cnp_dscp"], _settings(node)["rp_ai_rate"], _settings(node)["rp_gd"]) == (46, 10, 11)
    assert node.converge(FILE).steps_taken == 0
    node.host.links.functions.set_congestion(NIC, "rp_ai_rate", 5)
    told = Told()
    assert node.converge(FILE, told).plan.converged
    assert told.lines == wanted[1:]


def test_what_the_firmware_refuses_undoes_the_function_and_names_the_file(node: SimNode) -> None:
    text = FILE.replace("rp_ai_rate: 10", "rp_gd: 99")
    (failure,) = node.converge(text).failures
    assert f"{SYS_DEBUG_MLX5}/{NIC}/cc_params/rp_gd: invalid argument" in str(failure)
    assert _settings(node)["np_cnp_dscp"] == 48


def test_what_the_driver_does_not_have_is_an_obstacle(node: SimNode) -> None:
    node.converge(MODULES)
    text = MODULES + 'roce: {devices: [{match: "rail:0", congestion: {parameters: {rtt_resp_dscp: 1}}}]}\n'
    (obstacle,) = node.plan(text).obstacles
    assert obstacle.problem == "its driver does not offer rtt_resp_dscp"
    assert "ROCE_CC_PRIO_MASK_P1" in obstacle.advice
    with pytest.raises(UnsupportedError, match=f"set rtt_resp_dscp of {NIC}: its driver does not offer it"):
        node.host.links.functions.set_congestion(NIC, "rtt_resp_dscp", 1)


def test_ofeds_switches_are_one_setting_for_both_ends(tmp_path: Path) -> None:
    ecn = "/sys/class/net/ens1/ecn"
    texts = {f"{ecn}/{end}/enable/{priority}": "1" for end in ("roce_rp", "roce_np") for priority in range(8)}
    texts |= {f"{ecn}/roce_np/cnp_dscp": "48", f"{ecn}/roce_np/cnp_802p_prio": "6"}
    texts |= {f"/sys/bus/pci/devices/{NIC}/net/ens1/mtu": "1500"}
    files = make_tree(tmp_path, texts, {})
    found = read_congestion(files, [NIC, "0000:00:00.0"])
    assert found == {NIC: {**{f"ecn_prio{priority}": 1 for priority in range(8)}, "np_cnp_dscp": 48, "np_cnp_prio": 6}}
    write_congestion(files, NIC, "ecn_prio3", 0)
    assert [files.read(f"{ecn}/{end}/enable/3") for end in ("roce_rp", "roce_np")] == ["0", "0"]
    (tmp_path / f"{ecn}/roce_np/enable/4".lstrip("/")).write_text("0")
    assert read_congestion(files, [NIC])[NIC]["ecn_prio4"] == 0
    write_congestion(files, NIC, "np_cnp_dscp", 46)
    assert files.read(f"{ecn}/roce_np/cnp_dscp") == "46"


def test_ecn_by_priority_with_ofeds_driver(tmp_path: Path) -> None:
    with sim_node(tmp_path, "dgx-a100", "in-process") as sim:
        text = 'modules: {rdma: {}}\nroce: {devices: [{match: "rail:0", congestion: {ecn: [3]}}]}\n'
        told = Told()
        assert sim.converge(text, told).plan.converged
        off = [line for line in told.lines if "ecn_prio" in line]
        assert off == [f"act set ecn_prio{number} of 0000:0c:00.0 to 0 (is 1)" for number in (0, 1, 2, 4, 5, 6, 7)]
        assert sim.converge(text).steps_taken == 0
