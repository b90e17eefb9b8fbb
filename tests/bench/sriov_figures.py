"""What virtual functions cost a pass: CPU time and system calls as their number grows; see docs/performance.md.

PYTHONPATH=agent:tests python tests/bench/sriov_figures.py
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import nic_figures, restore_figures
from bench.passes import calls, cpu_ms
from nodeagent.plan.convergence import Goal, goal_of, survey
from nodeagent.spec.reader import read_spec
from sim_node import SimNode, sim_node

PROFILE, RAILS, OTHER_NICS = "dgx-a100", 8, 4
PER_NIC = (0, 4, 8, 16)  # 16 on each of eight rails are 128


@contextmanager
def node_with(directory: Path, per_nic: int) -> Iterator[tuple[SimNode, Goal]]:
    """A simulated node with that many virtual functions on each rail, and its node file as a goal."""
    wish = f'{{match: "rail:*", vfs: {per_nic}, trust: true, spoofchk: false}}'
    text = f"modules: {{rdma: {{}}}}\nsriov: [{wish}]\n"
    with sim_node(directory, PROFILE, "in-process") as node:
        node.converge("modules: {rdma: {}}\n")
        assert node.converge(text).plan.converged
        yield node, goal_of(read_spec(str(node.file)))


def figures(per_nic: int, runs: int) -> dict[str, float]:
    """CPU milliseconds (medians) and system calls of a converged pass."""
    with tempfile.TemporaryDirectory() as place:
        with node_with(Path(place), per_nic) as (node, goal):
            observed = cpu_ms(lambda: node.observer.observe(goal.interest), runs)
            whole = cpu_ms(lambda: survey(node.observer, goal), runs)
            assert survey(node.observer, goal)[1].converged
        program = f"from bench import sriov_figures as s; s.look_often({str(place)!r}, {per_nic}, %d)"
        few, many = (calls(Path(place), program % looks) for looks in (1, 3))
    return {"observe, CPU ms": observed, "whole pass, CPU ms": whole, "system calls": (many - few) / 2}


def look_often(place: str, per_nic: int, looks: int) -> None:
    with node_with(Path(place), per_nic) as (node, goal):
        for _ in range(looks):
            assert survey(node.observer, goal)[1].converged


def report(per_nic: tuple[int, ...], runs: int) -> Iterator[str]:
    rows = {count * RAILS: figures(count, runs) for count in per_nic}
    names = tuple(next(iter(rows.values())))
    yield f"| virtual functions on {RAILS} of {RAILS + OTHER_NICS} NICs | {' | '.join(names)} |"
    yield "|---" * (len(names) + 1) + "|"
    for count, row in rows.items():
        yield f"| {count} | {' | '.join(f'{row[name]:.4g}' for name in names)} |"
    least, most = min(rows), max(rows)
    each = ", ".join(f"{(rows[most][name] - rows[least][name]) / (most - least):.3g} {name}" for name in names)
    yield f"for each virtual function: {each}"


if __name__ == "__main__":
    for line in (*report(PER_NIC, 15), "", *nic_figures.report(15), "", *restore_figures.report((32, 128))):
        print(line)
