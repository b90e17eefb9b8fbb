"""The measurements behind docs/performance.md work; what they find is for a person to judge, so no time is asserted."""

from __future__ import annotations

from pathlib import Path

from bench.figures import (
    Patience,
    agent_cpu,
    converged_pass,
    memory,
    running_agent,
    scrapes,
    startup,
    system_calls,
)

QUICK = Patience(runs=1, settle_seconds=0.1, scrapes=3)


def test_a_converged_pass_is_measured_in_cpu_time_and_system_calls(tmp_path: Path) -> None:
    assert converged_pass(QUICK, tmp_path)["CPU ms"] > 0
    calls = system_calls(tmp_path, looks=1)
    assert calls["the agent"]["all"] > calls["the agent"]["openat"] > 0


def test_a_running_agent_is_measured(tmp_path: Path) -> None:
    with running_agent(tmp_path) as (process, root):
        assert "nodeagent status" in startup(QUICK, root)
        assert len(scrapes(root, QUICK)) == 2
        assert all(part["Pss"] <= part["Rss"] for part in memory(process, root, QUICK).values())
        assert agent_cpu(process, 0.1) >= 0
