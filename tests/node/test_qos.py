"""Quality of service on a simulated node, from the node file to what the interfaces have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.state.qos import DcbState
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
