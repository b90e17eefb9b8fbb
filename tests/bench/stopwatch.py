"""What one command costs, from fork to exit."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence

Figures = dict[str, float]


def measured(command: Sequence[str], runs: int) -> Figures:
    """Medians; the first run is left out, because it may have had to compile and to read from disk."""
    walls, cpus = [], []
    for _ in range(runs + 1):
        started = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            _, process.returncode, usage = os.wait4(process.pid, 0)
        assert process.returncode == 0, command
        walls.append(1000 * (time.perf_counter() - started))
        cpus.append(1000 * (usage.ru_utime + usage.ru_stime))
    return {"wall ms": statistics.median(walls[1:]), "CPU ms": statistics.median(cpus[1:])}


def seconds(what: Callable[[], object], times: int) -> float:
    """The median of several runs in CPU time of this thread."""
    costs = []
    for _ in range(times):
        started = time.thread_time()
        what()
        costs.append(time.thread_time() - started)
    return statistics.median(costs)
