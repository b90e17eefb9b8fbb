"""The contract of tests/files_contract.py: on this machine and on a simulated one.

The guest of tests/vm has it on a stock kernel, with the part that needs a PCI function of its own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from files_contract import BUS, FILES, KERNEL, Clause, Machine
from nodeagent.host.files import LocalFiles
from nodeagent.simulation.node import open_node


def clauses(*chosen: Clause) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("clause", chosen, ids=lambda clause: clause.__name__)


@clauses(*FILES)
def test_contract_on_this_machine(clause: Clause, tmp_path: Path) -> None:
    clause(Machine(LocalFiles(), str(tmp_path), str(tmp_path)))


@clauses(*FILES)
def test_contract_on_a_tree_that_stands_for_a_machine(clause: Clause, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    clause(Machine(LocalFiles(str(tmp_path)), "/scratch", str(tmp_path / "scratch")))


@clauses(*KERNEL)
def test_contract_on_this_kernel(clause: Clause) -> None:
    clause(Machine(LocalFiles(), "", ""))


@clauses(*FILES, *KERNEL, *BUS)
def test_contract_on_a_simulated_node(clause: Clause, tmp_path: Path) -> None:
    node = open_node("dgx-a100", str(tmp_path / "n"))
    host = node.host(nvml="in-process")
    for name in ("nvidia", "mlx5_core"):
        for file in host.kmod.lookup(name):
            host.kmod.load(file.name)
    scratch = "/var/lib/contract"
    (tmp_path / "n" / scratch[1:]).mkdir(parents=True)
    clause(Machine(host.files, scratch, node.directory + scratch, "0000:0c:00.0", "mlx5_core", "nvidia"))
    node.machine.close()
