"""Measures what planning MIG costs: the worst of all cases on one GPU, and how it grows with the number of GPUs.

By hand: `PYTHONPATH=agent:tests python tests/bench/test_mig_planning.py`. In the suite it runs with few cases, and only
what is planned is asserted: times depend on the machine and stand in docs/mig.md.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from mig_world import A30, A30_LAYOUTS, A100, A100_LAYOUTS, OFF, board, instance, multiset, node, wants
from nodeagent.resources.mig import plan
from nodeagent.resources.mig_placement import Slot
from nodeagent.spec.schema import MigEntry, NodeSpec
from nodeagent.state.gpu import MigMode, MigProfile
from nodeagent.state.node import NodeState

Case = tuple[frozenset[Slot], frozenset[tuple[str, int]]]
EVERY = {"seven slices": (A100, A100_LAYOUTS), "four slices": (A30, A30_LAYOUTS)}
MIXED = {"3g.20gb": 1, "2g.10gb": 1, "1g.5gb": 2}
REPEATS = 5


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, the least of some: what others do on the machine only adds."""
    found = []
    for _ in range(REPEATS):
        before = time.thread_time()
        work()
        found.append(time.thread_time() - before)
    return min(found)


def one_gpu(profiles: Sequence[MigProfile], start: frozenset[Slot], goal: frozenset[tuple[str, int]]) -> float:
    state = node(board(0, *map(instance, sorted(start)), profiles=tuple(profiles)))
    spec = wants(MigEntry(MigMode.ENABLED, devices=dict(goal)))
    return seconds(lambda: plan(spec, state))


def worst(kind: str, count: int, seed: int = 1) -> tuple[float, float, Case]:
    """Mean and largest time in seconds over random cases, and the case that took it."""
    profiles, layouts = EVERY[kind]
    chance = random.Random(seed)
    goals = sorted({multiset(layout) for layout in layouts}, key=sorted)
    cases = [(chance.choice(layouts), chance.choice(goals)) for _ in range(count)]
    times = [(one_gpu(profiles, *case), case) for case in cases]
    return sum(found for found, _ in times) / count, *max(times, key=lambda found: found[0])


def many(count: int) -> tuple[NodeSpec, NodeState]:
    """So many GPUs, every other one with instances that have to go."""
    start = next(layout for layout in A100_LAYOUTS if multiset(layout) == frozenset({("1g.5gb", 7)}))
    gpus = [
        board(index, *map(instance, sorted(start)), uuid=f"GPU-{index:08x}")
        if index % 2
        else board(index, uuid=f"GPU-{index:08x}", **OFF)
        for index in range(count)
    ]
    return wants(MigEntry(MigMode.ENABLED, devices=MIXED)), node(*gpus)


def test_planning_is_measured_for_every_kind_of_board() -> None:
    for kind in EVERY:
        mean, largest, (start, goal) = worst(kind, 60)
        assert 0 < mean <= largest
        assert goal
        assert start is not None


def test_sixteen_gpus_are_planned_at_once() -> None:
    spec, state = many(16)
    assert seconds(lambda: plan(spec, state)) > 0
    wish = plan(spec, state)
    assert {step.subject.name for step in wish.steps} == set(state.gpus)
    assert not wish.obstacles


def main() -> None:
    for kind in EVERY:
        mean, largest, (start, goal) = worst(kind, 4_000)
        print(f"{kind}: mean {mean * 1e3:.3f} ms, worst {largest * 1e3:.3f} ms")
        print(f"  from {sorted(map(str, start))} to {dict(goal)}")
    for count in (1, 2, 4, 8, 16):
        spec, state = many(count)
        print(f"{count} GPUs: {seconds(lambda spec=spec, state=state: plan(spec, state)) * 1e3:.3f} ms")


if __name__ == "__main__":
    main()
