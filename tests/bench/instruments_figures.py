"""What prometheus_client costs the agent: memory of its import, and its share of rendering a snapshot.

PYTHONPATH=agent:tests python tests/bench/instruments_figures.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from dataclasses import replace

from bench.metrics_figures import view_of
from bench.stopwatch import Figures, seconds
from metrics_view import FACTS
from nodeagent.metrics.instruments import Instruments
from nodeagent.metrics.render import snapshot
from nodeagent.state.gpu import GpuSample

GPUS, FUNCTIONS, ROUNDS = 8, 30, 50
MEMORY = """
import gc
def resident():
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Rss"))
import sys
sys.modules["nodeagent.metrics.instruments"] = type(sys)("instruments")
sys.modules["nodeagent.metrics.instruments"].Instruments = None
import nodeagent.cli.run, nodeagent.supervisor.loop, nodeagent.supervisor.sampler, nodeagent.metrics.server
before = resident()
import prometheus_client
print(before, resident())
"""


def memory() -> Figures:
    """MB of a process that has imported the agent, and what prometheus_client adds to it."""
    path = {"PYTHONPATH": ":".join(sys.path)}
    found = subprocess.run([sys.executable, "-c", MEMORY], env=path, capture_output=True, text=True, check=True)
    before, after = (int(number) * 1024 / 1e6 for number in found.stdout.split())
    return {"agent MB": before, "more MB": after - before, "percent": 100 * (after - before) / before}


def rendering() -> Figures:
    """CPU milliseconds of a snapshot of 8 GPUs without and with the instruments, counting NVML calls included."""
    view = view_of(GPUS)
    bare = replace(view, agent=replace(FACTS, instruments=()))
    made = Instruments("1")
    calls = {f"nvmlDeviceGet{number}": (1, 1e-5) for number in range(FUNCTIONS)}
    round_of = [GpuSample(f"GPU-{index}", calls=calls) for index in range(GPUS)]

    def with_instruments() -> None:
        made.add_calls(round_of)
        snapshot(replace(view, agent=replace(FACTS, instruments=made.families())))

    costs = [(seconds(lambda: snapshot(replace(bare)), 1), seconds(with_instruments, 1)) for _ in range(ROUNDS)]
    without, with_them = (1000 * statistics.median(column) for column in zip(*costs, strict=True))
    return {"without ms": without, "with ms": with_them, "percent": 100 * (with_them / without - 1)}


def main() -> None:
    for title, row in (("memory", memory()), ("a snapshot", rendering())):
        print(title, ", ".join(f"{name} {value:.3g}" for name, value in row.items()))


if __name__ == "__main__":
    main()
