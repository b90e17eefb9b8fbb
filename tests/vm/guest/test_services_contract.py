"""The contract of tests/services_contract.py under a real systemd."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from nodeagent.host.clock import RealClock
from nodeagent.host.files import LocalFiles
from nodeagent.host.processes import ProcProcesses
from nodeagent.host.services import Systemd
from services_contract import CONTRACT, UNIT, Machine


@pytest.fixture
def machine() -> Iterator[Machine]:
    subprocess.run(["/sbin/modprobe", "nvidia"], check=True)
    with suppress(FileExistsError):  # an earlier test of this boot may have left it
        os.mknod("/dev/nvidia0", 0o020666, os.makedev(195, 0))
    subprocess.run(["systemctl", "stop", UNIT], check=True)  # an earlier test may have left it running
    yield Machine(Systemd(LocalFiles(), RealClock()), ProcProcesses(LocalFiles()))
    subprocess.run(["systemctl", "stop", UNIT], check=True)


@pytest.mark.parametrize("clause", CONTRACT, ids=lambda clause: clause.__name__)
def test_contract(machine: Machine, clause: Callable[[Machine], None]) -> None:
    clause(machine)
