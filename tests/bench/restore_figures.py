"""How long virtual functions take to come back after a reload of their driver, against the peers' 4 s for each.

The agent's own time, and that with a probe that takes a while, as a card's firmware does: functions are bound at once.
Peers: doca-driver-build's netconfig.go waits 4 s after each function, one after the other.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


class Slow:
    """Functions whose driver takes a while for each."""

    def __init__(self, functions: Any, seconds: float) -> None:
        self._functions, self._seconds = functions, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def set_driver(self, address: str, driver: str) -> None:
        time.sleep(self._seconds)
        self._functions.set_driver(address, driver)


def seconds_of(vfs: int, probe: float) -> float:
    """From the first step that restores to the end, for this many functions on eight cards."""
    per_card, begun = vfs // CARDS, [0.0]
    with tempfile.TemporaryDirectory() as place, sim_node(Path(place), PROFILE, "in-process") as node:
        assert node.converge(FILE % ("", per_card)).plan.converged
        links: Any = node.host.links
        links.functions = Slow(links.functions, probe)

        def note(phase: Phase, step: Step) -> None:
            if phase is Phase.RESTORE and not begun[0]:
                begun[0] = time.monotonic()

        outcome = node.converge(FILE % ("parameters: {prof_sel: 1}", per_card), Told(before=note))
        ended = time.monotonic()
        assert outcome.plan.converged
        assert not outcome.failures
        assert sum(node.kernel.vfs.values()) == vfs
    return ended - begun[0]


def report(vfs: int) -> Iterator[str]:
    yield f"| {vfs} virtual functions on {CARDS} cards come back | s | s for each | times faster than 4 s each |"
    yield "|---|---|---|---|"
    for name, probe in (("the agent's own time", 0.0), (f"with a probe of {PROBE_SECONDS:g} s", PROBE_SECONDS)):
        took = seconds_of(vfs, probe)
        yield f"| {name} | {took:.2g} | {took / vfs:.2g} | {PEERS_SECONDS * vfs / took:.2g} |"
