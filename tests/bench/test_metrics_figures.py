"""The measurements behind docs/metrics.md work; what they find is for a person to judge, so no time is asserted."""

from __future__ import annotations

import itertools
from pathlib import Path

from bench.figures import running_agent
from bench.metrics_figures import Patience, h100s, memory, nvml_round, rendering, scrapes, sending

QUICK = Patience(scrapes=4, rounds=2, cycles=2, renderings=1, clients=(1, 4))


def test_scrapes_are_measured_beside_two_other_exporters(tmp_path: Path) -> None:
    with running_agent(tmp_path) as (process, root):
        rows = scrapes(QUICK, root, process.pid)
    assert set(rows) == {"nodeagent", "nvitop-exporter", "node_exporter"}
    assert all(row["series"] > 10 for row in rows.values())
    assert rows["nodeagent"]["refused of 4"] == 0


def test_sending_rendering_and_nvml_are_measured(tmp_path: Path) -> None:
    assert sending(QUICK)["bare"]["ratio"] == 1
    assert [int(name.split()[0]) > size for name, size in zip(rendering(QUICK), (300, 1000, 5000, 40000), strict=True)]
    with h100s(tmp_path) as nvml:
        found = nvml_round(nvml, QUICK)
    assert found["calls"] > 100


def test_memory_is_measured_over_rounds() -> None:
    class Growing:
        kept: list[bytearray]

        def __init__(self) -> None:
            self.kept, self.rounds = [], itertools.count()

        def take(self) -> None:
            if next(self.rounds) > 0:
                self.kept.append(bytearray(b"x" * 30_000_000))

    found = memory(QUICK, Growing())
    assert found["MB after"] - found["MB before"] > 50
