"""The measurements of virtual functions work, and a converged pass with 128 of them writes nothing."""

from __future__ import annotations

from pathlib import Path

from bench import nic_figures, restore_figures
from bench.restore_figures import CARDS
from bench.sriov_figures import RAILS, node_with, report
from nodeagent.plan.convergence import survey


def test_a_converged_pass_with_128_virtual_functions_writes_nothing(tmp_path: Path) -> None:
    with node_with(tmp_path, 16) as (node, goal):
        assert sum(one.is_vf for one in node.observer.observe(()).pci.values()) == 16 * RAILS
        before = node.marks(), node.everything()
        assert survey(node.observer, goal)[1].converged
        assert node.converge(node.file.read_text().removeprefix("version: 1\n")).steps_taken == 0
        assert (node.marks(), node.everything()) == before


def test_costs_are_measured() -> None:
    table = list(report((0, 1), 1))
    assert [line.split(" | ")[0] for line in table[2:4]] == ["| 0", f"| {RAILS}"]
    assert table[-1].startswith("for each virtual function: ")


def test_costs_of_nics_and_of_bringing_functions_back_are_measured() -> None:
    name = tuple(nic_figures.WISHES)[-1]  # all that the others have, and more
    table = list(nic_figures.report(1, 1, 2, (name,)))
    assert [line.split(" | ")[0] for line in table[2:]] == [f"| {name}"]
    assert len(list(restore_figures.report((CARDS,)))) == 4
