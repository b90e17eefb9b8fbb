"""How long virtual functions take to come back after a reload of their driver, against the peers' 4 s for each.

The agent's own time, and that with a probe that takes a while, as a card's firmware does: functions are bound at once.
Peers: doca-driver-build's netconfig.go waits 4 s after each function, one after the other.

PYTHONPATH=agent:tests python tests/bench/restore_figures.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from nodeagent.plan.journal import Phase
from nodeagent.resources.base import Step
from sim_node import Told, sim_node

PROFILE, CARDS, PEERS_SECONDS = "dgx-a100", 8, 4.0
PROBE_SECONDS = 0.5
FILE = """\
disruption: {nic: allow}
modules: {rdma: {}, named: {mlx5_core: {%s}}}
sriov: [{match: "rail:*", vfs: %d, trust: true}]
"""


@dataclass
class Counted:
    """Files that count their durable replacements: those of the journal, while functions come back."""

    files: Any
    number: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.files, name)

    def replace(self, path: str, text: str, mode: int = 0o600) -> None:
        self.number += 1
        self.files.replace(path, text, mode)


@dataclass(frozen=True)
class Took:
    """From the first step that restores to the end. `cpu_seconds` has the simulated kernel's in it."""

    seconds: float
    cpu_seconds: float
    steps: int
    writes: int


class Slow:
    """Functions whose driver takes a while for each."""

    def __init__(self, functions: Any, seconds: float) -> None:
        self._functions, self._seconds = functions, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def set_driver(self, address: str, driver: str) -> None:
        time.sleep(self._seconds)
        self._functions.set_driver(address, driver)


def seconds_of(vfs: int, probe: float) -> Took:
    """For this many functions on eight cards."""
    per_card, begun = vfs // CARDS, list[tuple[float, float, int]]()
    with tempfile.TemporaryDirectory() as place, sim_node(Path(place), PROFILE, "in-process") as node:
        assert node.converge(FILE % ("", per_card)).plan.converged
        links, files = cast("Any", node.host.links), Counted(node.host.files)
        links.functions = Slow(links.functions, probe)

        def note(phase: Phase, step: Step) -> None:
            if phase is Phase.RESTORE and not begun:
                begun.append((time.monotonic(), time.process_time(), files.number))

        node.host = replace(node.host, files=files)
        told = Told(before=note)
        outcome = node.converge(FILE % ("parameters: {prof_sel: 1}", per_card), told)
        ended, cpu = time.monotonic(), time.process_time()
        assert outcome.plan.converged
        assert not outcome.failures
        assert sum(node.kernel.vfs.values()) == vfs
    ((start, cpu_before, written),) = begun
    steps = sum(line.startswith("restore") for line in told.lines)
    return Took(ended - start, cpu - cpu_before, steps, files.number - written)


def report(vfs: tuple[int, ...]) -> Iterator[str]:
    names = ("probe, s", "s", "s for each", "times faster than 4 s each", "CPU s", "steps", "journal writes")
    yield f"| functions on {CARDS} cards | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for count in vfs:
        for probe in (0.0, PROBE_SECONDS):
            took = seconds_of(count, probe)
            each = f"{took.seconds / count:.2g} | {PEERS_SECONDS * count / took.seconds:.2g}"
            rest = f"{took.cpu_seconds:.2g} | {took.steps} | {took.writes}"
            yield f"| {count} | {probe:g} | {took.seconds:.2g} | {each} | {rest} |"


if __name__ == "__main__":
    for row in report((32, 128)):
        print(row)
