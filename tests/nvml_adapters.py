"""A simulated machine of GPUs with device nodes, and the two adapters of the NVML port on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from nodeagent.host.nvml import InProcessNvml
from nodeagent.host.nvml_process import Launch
from nodeagent.host.nvml_worker import WorkerNvml
from nodeagent.simulation.machine import BoardAt, Machine, library_path

ADAPTERS = ("in process", "worker")


def slots_of(*boards: str) -> tuple[BoardAt, ...]:
    """These boards, one beside the other, with minors as they come."""
    return tuple(
        BoardAt(board=board, pci_address=f"0000:{0x3B + minor:02x}:00.0", minor=minor, seed=str(minor))
        for minor, board in enumerate(boards)
    )


@contextmanager
def machine_in(directory: Path, slots: Sequence[BoardAt], driver: str = "580.95.05") -> Iterator[Machine]:
    """The machine lies in `directory`/machine, its device nodes are plain files in `directory`/dev."""
    devices = directory / "dev"
    devices.mkdir()
    for name in ("nvidiactl", *(f"nvidia{slot.minor}" for slot in slots)):
        (devices / name).touch()
    with Machine.create(str(directory / "machine"), slots, str(devices), driver) as made:
        yield made


@contextmanager
def adapter(
    kind: str, environment: Mapping[str, str], deadline_seconds: float = 10.0
) -> Iterator[InProcessNvml | WorkerNvml]:
    """One of ADAPTERS. NVML in this process reads this process's environment, which is put back."""
    before = dict(os.environ)
    made = (
        InProcessNvml(library_path(), environment)
        if kind == "in process"
        else WorkerNvml(Launch(str(library_path()), environment), deadline_seconds)
    )
    with closing(made):
        yield made
    os.environ.clear()
    os.environ.update(before)
