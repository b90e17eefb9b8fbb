"""Virtual functions on a simulated node, from the node file to what stands on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.host.pci_facts import read_pci
from nodeagent.state.network import PciFunction, VirtualFunction
from sim_node import SimNode, Told, sim_node, text_of

PF, NIC = "0000:61:00.0", "enp97s0np0"
MODULES = "modules: {rdma: {stack: inbox}, named: {vfio_pci: {}}}\n"
MACS = 'macs: ["02:00:00:00:61:00", "02:00:00:00:61:01"]'


@pytest.fixture
def node(tmp_path: Path) -> Iterator[SimNode]:
    with sim_node(tmp_path, "gpu-server-4x-a100", "in-process") as opened:
        opened.converge(MODULES)
        yield opened


def _file(wish: str, more: str = "") -> str:
    return f'{MODULES}{more}sriov: [{{match: "{PF}", {wish}}}]\n'


def _functions(node: SimNode) -> list[PciFunction]:
    return [found for found in read_pci(node.host.files).values() if found.is_vf]


def _interfaces(node: SimNode) -> dict[str, str]:
    return {name: one.mac for name, one in node.kernel.interfaces.items() if one.is_vf}


def _vfs(node: SimNode) -> tuple[VirtualFunction, ...]:
    return node.host.links.vfs(NIC)


def test_functions_are_made_set_up_and_then_bound(node: SimNode) -> None:
    told = Told()
    outcome = node.converge(_file(f"vfs: 2, trust: true, {MACS}"), told)
    assert outcome.plan.converged, text_of(outcome.plan)
    assert told.lines[0] == f"act make 2 virtual function(s) on {PF}"
    assert told.lines[1:4] == [
        "act set mac of 0000:61:01.0 to 02:00:00:00:61:00",
        "act set trust of 0000:61:01.0 to 1",
        "act bind 0000:61:01.0 to its driver",
    ]
    assert _interfaces(node) == {"enp97s0v0": "02:00:00:00:61:00", "enp97s0v1": "02:00:00:00:61:01"}
    assert [(one.mac, one.trust) for one in _vfs(node)] == [("02:00:00:00:61:00", True), ("02:00:00:00:61:01", True)]
    assert node.converge(_file(f"vfs: 2, trust: true, {MACS}")).steps_taken == 0


def test_another_number_goes_through_zero_and_the_right_number_is_left_alone(node: SimNode) -> None:
    node.converge(_file("vfs: 2"))
    told = Told()
    assert node.converge(_file("vfs: 4"), told).plan.converged
    assert told.lines == [f"act remove 2 virtual function(s) of {PF}", f"act make 4 virtual function(s) on {PF}"]
    assert len(_interfaces(node)) == 4
    assert node.converge(_file("vfs: 4")).steps_taken == 0
    assert node.converge(_file("vfs: 0")).plan.converged
    assert _functions(node) == []


def test_functions_go_to_vfio_and_back(node: SimNode) -> None:
    assert node.converge(_file("vfs: 2, driver: vfio-pci")).plan.converged
    assert [(one.driver, one.driver_override) for one in _functions(node)] == [("vfio-pci", "vfio-pci")] * 2
    assert _interfaces(node) == {}
    assert node.converge(_file("vfs: 2, driver: default")).plan.converged
    assert [(one.driver, one.driver_override) for one in _functions(node)] == [("mlx5_core", "")] * 2


def test_a_function_in_use_holds_up_the_change_of_its_number(node: SimNode) -> None:
    node.converge(_file("vfs: 2"))
    node.host.links.set_up("enp97s0v1", True)
    node.node.use_interface("enp97s0v1", "10.1.0.1/24")
    plan = node.plan(_file("vfs: 4"))
    assert plan.transitions == ()
    assert "address 10.1.0.1/24 on enp97s0v1" in text_of(plan)
    assert len(_interfaces(node)) == 2
    assert node.converge(_file("vfs: 4", "disruption: {nic: allow}\n")).plan.converged


def test_more_than_the_card_has_is_an_obstacle_before_anything_is_touched(node: SimNode) -> None:
    node.converge(_file("vfs: 2"))
    outcome = node.converge(_file("vfs: 99"))
    (obstacle,) = outcome.plan.obstacles
    assert obstacle.problem == "it can have 16 virtual functions, 99 are wanted"
    assert len(_interfaces(node)) == 2


def test_drift_is_repaired_and_a_new_address_is_bound_anew(node: SimNode) -> None:
    node.converge(_file(f"vfs: 2, spoofchk: true, {MACS}"))
    changed = _file(f"vfs: 2, spoofchk: true, {MACS}").replace("61:01", "61:0f")
    told = Told()
    assert node.converge(changed, told).plan.converged
    assert told.lines == ["act set mac of 0000:61:01.1 to 02:00:00:00:61:0f", "act bind 0000:61:01.1 anew"]
    assert _interfaces(node)["enp97s0v1"] == "02:00:00:00:61:0f"
