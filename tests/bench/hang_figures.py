"""How long the agent leaves its service manager without a sign of life while calls into the driver hang.

    PYTHONPATH=agent:tests python tests/bench/hang_figures.py      # about two minutes

On the simulated DGX H100 each NVML function that the agent calls hangs once, on up to seven of eight GPUs at a time.
The figures depend on the deadline and on how many GPUs hang, hardly on the machine; hence they are told as multiples.
"""

from __future__ import annotations

import tempfile
import time
from itertools import pairwise
from pathlib import Path

from hangs import DEADLINE_SECONDS, OF_THE_MACHINE, WATCHDOG_SECONDS, Ward, called, rounds, ward_in

IDLE_SECONDS = 5.0


def longest_gap(ward: Ward, since: float) -> float:
    """Seconds between two signs of life, from the last one before `since` on."""
    fed = ward.agent.manager.fed
    moments = [max((at for at in fed if at < since), default=since), *(at for at in fed if at >= since)]
    return max((later - earlier for earlier, later in pairwise(moments)), default=0.0)


def hung(ward: Ward, functions: dict[int, str]) -> tuple[float, float]:
    """Longest gap from the first hang until all is well, and the slowest answer of /metrics meanwhile."""
    since, slowest = time.monotonic(), 0.0
    ward.hang(functions)
    wanted = {f"gpu {index}" for index in functions}

    def told(found: set[tuple[str, str, str]]) -> bool:
        nonlocal slowest
        started = time.monotonic()
        ward.agent.fetch("/metrics")
        slowest = max(slowest, time.monotonic() - started)
        failed = {name for name, _, verdict in found if verdict == "failed"}
        return wanted <= failed or (-1 in functions and bool(failed))

    ward.wait_until(told)
    ward.heal()
    fed = len(ward.agent.manager.fed)
    while len(ward.agent.manager.fed) == fed:  # a silence that has not ended yet counts too
        time.sleep(0.05)
    return longest_gap(ward, since), slowest


def main() -> None:
    with tempfile.TemporaryDirectory() as place, ward_in(Path(place)) as ward:
        since = time.monotonic()
        time.sleep(IDLE_SECONDS)
        idle = longest_gap(ward, since)
        print("| hanging | functions | longest gap, s | in deadlines | slowest answer, s |\n|---|---|---|---|---|")
        print(f"| nothing | 0 | {idle:.2f} | {idle / DEADLINE_SECONDS:.1f} | |")
        measured = [(found, *hung(ward, found)) for found in rounds(called(ward.node))]
        for most in sorted({len(found) for found, _, _ in measured}):
            those = [(gap, slow) for found, gap, slow in measured if len(found) == most]
            gap, slow = max(gap for gap, _ in those), max(slow for _, slow in those)
            count = most * len(those)
            print(f"| {most} GPUs | {count} | {gap:.2f} | {gap / DEADLINE_SECONDS:.1f} | {slow:.2f} |")
        for name in OF_THE_MACHINE:
            gap, slow = hung(ward, {-1: name})
            print(f"| {name} | 1 | {gap:.2f} | {gap / DEADLINE_SECONDS:.1f} | {slow:.2f} |")
        print(f"\ndeadline {DEADLINE_SECONDS} s, watchdog {WATCHDOG_SECONDS} s, fed every {WATCHDOG_SECONDS / 3:.1f} s")


if __name__ == "__main__":
    main()
