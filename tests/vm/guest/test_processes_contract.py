"""The contract of tests/processes_contract.py on a stock kernel, with nodes and control groups of its own."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodeagent.host.files import LocalFiles
from nodeagent.host.processes import ProcProcesses
from nodeagent.state.processes import DeviceNumber
from processes_contract import CONTRACT, PRIVILEGED, Machine, Programs

NODE = "/dev/nvidia-contract"
FULL = DeviceNumber(1, 7)  # the device of /dev/full, under another name


@pytest.fixture(scope="module")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The unified control group tree."""
    place = tmp_path_factory.mktemp("cgroup")
    subprocess.run(["mount", "-t", "cgroup2", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def machine(groups: Path) -> Iterator[Machine]:
    os.mknod(NODE, 0o600 | stat.S_IFCHR, os.makedev(FULL.major, FULL.minor))
    programs = Programs(NODE)
    made: list[Path] = []

    def start(container: str, pod: str) -> int:
        pid = programs.start()
        if container:
            slice_ = f"kubepods-pod{pod.replace('-', '_')}.slice" if pod else "system.slice"
            scope = groups / slice_ / f"cri-containerd-{container}.scope"
            scope.mkdir(parents=True)
            made.extend((scope, scope.parent))
            (scope / "cgroup.procs").write_text(str(pid))
        return pid

    yield Machine(ProcProcesses(LocalFiles()), FULL, start, programs.end, programs.name, lambda: os.unlink(NODE))
    for place in made:
        place.rmdir()
    with suppress(FileNotFoundError):
        os.unlink(NODE)


@pytest.mark.parametrize("clause", [*CONTRACT, *PRIVILEGED], ids=lambda clause: clause.__name__)
def test_contract(machine: Machine, clause: Callable[[Machine], None]) -> None:
    clause(machine)
