"""The contract of tests/kernel_log_contract.py on the simulated kernel; the guest of tests/vm has it on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kernel_log_contract import CONTRACT, Machine
from nodeagent.simulation.node import open_node


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(clause: Callable[[Machine], None], tmp_path: Path) -> None:
    node = open_node("dgx-a100", str(tmp_path / "n"))
    host = node.host(nvml="in-process")
    clause(Machine(host.kernel_log, host.kmod))
    node.machine.close()
