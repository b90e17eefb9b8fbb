"""The contracts of tests/*_contract.py on a stock kernel; tests/ports has them on the simulated one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import files_contract
import kernel_log_contract
import kmod_contract
import links_contract
from links_on_veth import make_machine, remove_machine
from nodeagent.host.files import LocalFiles
from nodeagent.host.kernel_log import KmsgLog
from nodeagent.host.kmod import LibKmod

# The SMBus controller of QEMU's q35: a function that nobody needs, with a stock driver in a module.
SMBUS, SMBUS_DRIVER, SMBUS_MODULE = "0000:00:1f.3", "i801_smbus", "i2c_i801"


def clauses(*chosen: Callable[..., None]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("clause", chosen, ids=lambda clause: clause.__name__)


@clauses(*kmod_contract.CONTRACT)
def test_modules(kmod: LibKmod, clause: Callable[[kmod_contract.Machine], None]) -> None:
    clause(kmod_contract.Machine(kmod, LocalFiles()))


@clauses(*kernel_log_contract.CONTRACT)
def test_kernel_log(kmod: LibKmod, clause: Callable[[kernel_log_contract.Machine], None]) -> None:
    log = KmsgLog()
    clause(kernel_log_contract.Machine(log, kmod))
    log.close()


@pytest.fixture
def link() -> Iterator[links_contract.Machine]:
    yield make_machine()
    remove_machine()


@clauses(*links_contract.CONTRACT)
def test_links(link: links_contract.Machine, clause: Callable[[links_contract.Machine], None]) -> None:
    clause(link)


@clauses(*files_contract.FILES, *files_contract.KERNEL)
def test_files(tmp_path: Path, clause: files_contract.Clause) -> None:
    clause(files_contract.Machine(LocalFiles(), str(tmp_path), str(tmp_path)))


@clauses(*files_contract.BUS)
def test_bus(tmp_path: Path, clause: files_contract.Clause) -> None:
    subprocess.run(["/sbin/modprobe", SMBUS_MODULE], check=True)
    clause(files_contract.Machine(LocalFiles(), "", "", SMBUS, SMBUS_DRIVER, "virtio-pci"))
