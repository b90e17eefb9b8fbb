"""Start-up of the command beside `kmod list` on a stock kernel; docs/performance.md reports what this writes down."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from bench.stopwatch import measured

RUNS = 7
TABLE = Path("/vm/results/startup.txt")
NODE = "version: 1\nmodules:\n  named: {dummy: {}}\n"


def test_start_up_beside_kmod_list(tmp_path: Path) -> None:
    """With a running agent for `status` to ask. Ratios of CPU time, as every program is emulated alike."""
    (tmp_path / "node.yaml").write_text(NODE)
    agent = (sys.executable, "-m", "nodeagent")
    run = [*agent, "run", "-f", str(tmp_path / "node.yaml"), "--listen", "127.0.0.1:9400"]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(run, stdout=log, stderr=log) as running:
        while not os.path.exists("/run/nodeagent/control.sock"):
            assert running.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        commands = {
            "python -c pass": (sys.executable, "-c", "pass"),
            "kmod list": ("kmod", "list"),
            "nodeagent version": (*agent, "version"),
            "nodeagent status": (*agent, "status"),
        }
        rows = {name: measured(words, RUNS) for name, words in commands.items()}
        running.terminate()
    bare, kmod = (rows[name]["CPU ms"] for name in ("python -c pass", "kmod list"))
    lines = ["| | CPU ms | / `python -c pass` | / `kmod list` |", "|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| `{name}` | {row['CPU ms']:.0f} | {row['CPU ms'] / bare:.1f} | {row['CPU ms'] / kmod:.1f} |")
    TABLE.write_text("\n".join(lines) + "\n")
    print(TABLE.read_text())
    assert set(rows) == set(commands)
