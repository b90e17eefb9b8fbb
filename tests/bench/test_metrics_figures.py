"""The measurements behind docs/metrics.md work; what they find is for a person to judge, so no time is asserted."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from bench import instruments_figures
from bench.figures import running_agent
from bench.metrics_figures import Patience, memory, rendering, scrapes, sending
from bench.nvml_figures import GPUS, h100s, nvml_round, worker_round

QUICK = Patience(scrapes=4, rounds=2, cycles=2, renderings=1, clients=(1, 4))


def test_scrapes_are_measured_beside_two_other_exporters(tmp_path: Path) -> None:
    with running_agent(tmp_path) as (process, root):
        rows = scrapes(QUICK, root, process.pid)
    assert set(rows) == {"nodeagent", "nvitop-exporter", "node_exporter"}
    assert all(row["series"] > 10 for row in rows.values())
    assert rows["nodeagent"]["refused of 4"] == 0


def test_sending_and_rendering_are_measured() -> None:
    assert sending(QUICK)["bare"]["ratio"] == 1
    assert [int(name.split()[0]) > size for name, size in zip(rendering(QUICK), (300, 1000, 5000, 40000), strict=True)]


@pytest.mark.parametrize("slices", [0, 7])
def test_a_round_of_nvml_makes_the_calls_of_the_bare_loop(tmp_path: Path, slices: int) -> None:
    with h100s(tmp_path, slices) as nvml:
        found = nvml_round(nvml, 2)
        made = sum(calls for sample in nvml.samples() for calls, _ in sample.calls.values())
        through = worker_round(tmp_path, 2)
    handles_and_count = GPUS + 1
    assert {row["calls"] for row in found.values()} == {made + handles_and_count}
    assert through["ratio"] > 0


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


def test_what_prometheus_client_costs_is_measured() -> None:
    assert instruments_figures.memory()["agent MB"] > 10
    assert instruments_figures.rendering()["with ms"] > 0
