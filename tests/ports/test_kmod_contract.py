"""The contract of tests/kmod_contract.py on the simulated kernel; the guest of tests/vm has it on a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kmod_contract import CONTRACT, Machine
from nodeagent.simulation.node import open_node


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
@pytest.mark.parametrize("profile", ["dgx-a100", "gpu-server-4x-a100"])
def test_contract(profile: str, clause: Callable[[Machine], None], tmp_path: Path) -> None:
    node = open_node(profile, str(tmp_path / "n"))
    host = node.host(nvml="in-process")
    clause(Machine(host.kmod, host.files))
    node.machine.close()
