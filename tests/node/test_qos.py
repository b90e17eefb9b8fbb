"""Quality of service on a simulated node, from the node file to what the interfaces have."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.plan.parking import restores
from nodeagent.state.qos import DcbState
from nodeagent.state.things import Kind, Thing
from sim_node import SimNode, Told, sim_node, text_of

FILE = """
modules:
  rdma: {stack: inbox}
links:
  - match: enp97s0np0
    up: true
    qos: {setup: lossless-dscp26-prio3}
"""
NIC = "enp97s0np0"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        yield opened


def _dcb(node: SimNode, name: str = NIC) -> DcbState:
    return node.host.links.dcb.read_all([name])[name]


def test_a_named_setup_becomes_what_the_field_calls_lossless(node: SimNode) -> None:
    assert node.converge(FILE).plan.converged
    found = _dcb(node)
    assert found.dcbx == 0x09
    assert found.pfc is not None
    assert found.pfc.enabled == (3,)
    assert found.dscp == ((26, 3), (48, 6))
    assert found.ets is not None
    assert found.ets.bandwidth == (50, 0, 0, 50, 0, 0, 0, 0)
    assert found.ets.algorithms == (2, 2, 2, 2, 2, 2, 0, 2)
    assert node.converge(FILE).steps_taken == 0


def test_qos_is_repaired_and_only_what_differs_is_written(node: SimNode) -> None:
    node.converge(FILE)
    node.host.links.dcb.write_dscp(NIC, ((26, 5),))
    told = Told()
    assert node.converge(FILE, told).plan.converged
    assert told.lines == [f"act trust dscp on {NIC} with 26: 3, 48: 6"]


def test_an_interface_without_dcb_is_an_obstacle_and_the_others_are_still_done(node: SimNode) -> None:
    text = FILE + "  - {match: eno1, qos: {pfc: [3]}}\n"
    outcome = node.converge(text)
    assert [str(one.problem) for one in outcome.plan.obstacles] == ["its driver igb offers no dcb"]
    assert _dcb(node).pfc is not None


def test_a_refused_attribute_undoes_the_setup_of_its_interface_alone(node: SimNode) -> None:
    text = FILE.replace("setup: lossless-dscp26-prio3", "pfc: [3], max_rate_mbps: [0, 0, 0, 150, 0, 0, 0, 0]")
    outcome = node.converge(text)
    (failure,) = outcome.failures
    assert str(failure) == (
        f"set max rate of {NIC} to class 3: 150 Mb/s: set max rate on {NIC}: read back as "
        "(0, 0, 0, 100000, 0, 0, 0, 0) after (0, 0, 0, 150000, 0, 0, 0, 0) was written"
    )
    found = _dcb(node)
    assert found.pfc is not None
    assert found.pfc.enabled == ()


def test_flow_control_waits_for_an_idle_interface(node: SimNode) -> None:
    node.converge(FILE.replace("    qos: {setup: lossless-dscp26-prio3}\n", ""))
    node.node.use_interface(NIC, "10.1.0.1/24")
    plan = node.plan(FILE)
    assert f"address 10.1.0.1/24 on {NIC}" in text_of(plan)
    assert str(plan.blocked[0].step) == f"set pfc of {NIC} to 3 (is off)"
    allowed = "disruption: {nic: allow}\n" + FILE
    assert node.converge(allowed).plan.converged


BUFFERS = "buffers: {of_priority: [0, 0, 0, 1, 0, 0, 0, 0], bytes: [98304, 163840, 0, 0, 0, 0, 0, 0]}"


def test_buffers_are_divided_as_the_file_says_and_repaired(node: SimNode) -> None:
    text = FILE.replace("setup: lossless-dscp26-prio3", BUFFERS)
    told = Told()
    assert node.converge(text, told).plan.converged
    step = (
        f"set buffers of {NIC} to buffer 0 98304 bytes for priority 0 1 2 4 5 6 7, buffer 1 163840 bytes for priority 3"
    )
    assert f"act {step}" in told.lines
    found = _dcb(node).buffer
    assert found is not None
    assert (found.buffer_of[3], found.sizes_bytes[:2]) == (1, (98304, 163840))
    node.host.links.dcb.write_buffers(NIC, (0,) * 8, found.sizes_bytes)
    told = Told()
    assert node.converge(text, told).plan.converged
    assert told.lines == [f"act {step}"]


def test_what_the_file_leaves_out_of_the_buffers_stays(node: SimNode) -> None:
    text = FILE.replace("setup: lossless-dscp26-prio3", "buffers: {of_priority: [0, 0, 0, 0, 0, 0, 0, 1]}")
    assert node.converge(text).plan.converged
    found = _dcb(node).buffer
    assert found is not None
    assert (found.buffer_of[7], found.sizes_bytes) == (1, (262016, *(0,) * 7))


def test_more_buffer_than_the_port_has_is_an_obstacle(node: SimNode) -> None:
    text = FILE.replace("setup: lossless-dscp26-prio3", "buffers: {bytes: [600000, 0, 0, 0, 0, 0, 0, 0]}")
    node.converge(FILE)
    (obstacle,) = node.plan(text).obstacles
    assert obstacle.problem == "buffers need 600000 bytes, its port has 524160"


def test_buffers_come_back_with_the_interface_after_its_driver(node: SimNode) -> None:
    node.converge(FILE.replace("setup: lossless-dscp26-prio3", BUFFERS))
    steps = [str(step) for step in restores(Thing(Kind.NETDEV, NIC), (), node.observer.observe(()))]
    assert any(step.startswith(f"set buffers of {NIC} to buffer 0 98304") for step in steps)


def test_the_picture_of_an_interface(node: SimNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node.converge(FILE)
    words = ["roce", "qos", "--simulate", "gpu-server-4x-a100", "--simulate-dir", str(tmp_path / "node"), "-m", NIC]
    assert main([*words, "--setup", "lossless-dscp26-prio3"]) == 0
    text = capsys.readouterr().out.splitlines()
    assert text[0] == f"{NIC} (mlx5_0): trust dscp, dcbx host, set-up lossless-dscp26-prio3"
    assert text[5].split() == ["3", "on", "3", "50%", "-", "26", "0", "0", "0"]
    assert text[-1] == "  buffer 0: 262016 bytes, lossless"
    assert main([*words, "-o", "json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["interfaces"]
    assert (shown["setup"], shown["pfc"], shown["dscp"]) == ("lossless-dscp26-prio3", [3], {"26": 3, "48": 6})
    assert main([*words, "--setup", "lossy-dscp26-prio3"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == f"  differs: set pfc of {NIC} to off (is 3)"
    assert main([*words[:-1], "eno1"]) == 0
    assert capsys.readouterr().out == "eno1: igb offers no dcb\n"
    assert main([*words[:-1], "nowhere*"]) == 2
