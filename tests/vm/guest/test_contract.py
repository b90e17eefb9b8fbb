"""The contract of tests/kmod_contract.py on a real kernel; tests/ports has it on the simulated one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kmod_contract import CONTRACT, Machine
from nodeagent.host.files import LocalFiles
from nodeagent.host.kmod import LibKmod


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(kmod: LibKmod, clause: Callable[[Machine], None]) -> None:
    clause(Machine(kmod, LocalFiles()))
