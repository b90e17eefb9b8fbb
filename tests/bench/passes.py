"""CPU time and system calls of a pass over a simulated node."""

from __future__ import annotations

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.figures import OF_THE_SIMULATION


def cpu_ms(call: object, runs: int) -> float:
    assert callable(call)
    times = []
    for _ in range(runs):
        before = time.process_time()
        call()
        times.append(1000 * (time.process_time() - before))
    return statistics.median(times)


def calls(place: Path, program: str) -> int:
    """System calls of a program that opens the node and looks at it, without those of the simulation alone."""
    table = place / "strace"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = ("strace", "-f", "-y", "-o", str(table), sys.executable, "-c", program)
    subprocess.run(command, env=environment, check=True)
    lines = re.findall(r"^\d+ +\w+(\(.*)$", table.read_text(errors="replace"), re.MULTILINE)
    return sum(OF_THE_SIMULATION.search(rest) is None for rest in lines)
