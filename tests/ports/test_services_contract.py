"""The contract of tests/services_contract.py on a simulated node; the guest of tests/vm has it under a real systemd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nodeagent.simulation.node import open_node
from services_contract import CONTRACT, Machine


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(clause: Callable[[Machine], None], tmp_path: Path) -> None:
    node = open_node("dgx-a100", str(tmp_path / "n"))
    host = node.host(nvml="in-process")
    host.kmod.load("nvidia")
    clause(Machine(host.services, host.processes))
    node.machine.close()
